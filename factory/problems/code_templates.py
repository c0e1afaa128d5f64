"""Function problems in HumanEval's style, made from templates: nobody's test set."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from factory.core.records import OWN_LICENCE, Problem
from factory.core.seeds import derive
from factory.problems.source import SOURCES, SourceConfig, generating
from factory.problems.splits import Supply, problem_id

CALLS = 6
"""Calls that test one problem."""
Maker = Callable[[random.Random], list[Any]]


def _number(chance: random.Random) -> list[Any]:
    return [chance.randint(-50, 50)]


def _numbers(chance: random.Random) -> list[Any]:
    return [[chance.randint(-20, 20) for _ in range(chance.randint(0, 8))]]


def _word(chance: random.Random) -> list[Any]:
    return ["".join(chance.choice("abcdeiou xyz") for _ in range(chance.randint(0, 10)))]


@dataclass(frozen=True)
class Template:
    """`ask` and `body` hold a place {n} for a number between `low` and `high`."""

    name: str
    ask: str
    parameter: str
    body: str
    arguments: Maker
    low: int = 2
    high: int = 20


TEMPLATES: Sequence[Template] = (
    Template("add", "Return x plus {n}.", "x", "x + {n}", _number),
    Template("scale", "Return x times {n}.", "x", "x * {n}", _number),
    Template("remainder", "Return the remainder of x divided by {n}.", "x", "x % {n}", _number),
    Template("above", "Return whether x is greater than {n}.", "x", "x > {n}", _number),
    Template("clip", "Return x, but at most {n}.", "x", "min(x, {n})", _number),
    Template("distance", "Return how far x is from {n}.", "x", "abs(x - {n})", _number),
    Template(
        "multiples", "Return the numbers of v that are multiples of {n}, in their order.", "v",
        "[x for x in v if x % {n} == 0]", _numbers, high=6,
    ),
    Template(
        "shift", "Return v with {n} added to every number.", "v", "[x + {n} for x in v]", _numbers
    ),
    Template(
        "total above", "Return the sum of the numbers of v that are greater than {n}.", "v",
        "sum(x for x in v if x > {n})", _numbers, low=-5, high=5,
    ),
    Template("first", "Return the first {n} items of v.", "v", "v[:{n}]", _numbers, high=6),
    Template(
        "largest", "Return the {n} largest numbers of v, largest first.", "v",
        "sorted(v, reverse=True)[:{n}]", _numbers, high=5,
    ),
    Template("repeat", "Return the text s repeated {n} times.", "s", "s * {n}", _word, high=6),
    Template("ending", "Return the last {n} characters of s.", "s", "s[-{n}:]", _word, high=6),
    Template(
        "every", "Return every {n}th character of s, beginning with the first.", "s", "s[::{n}]",
        _word, high=5,
    ),
)  # fmt: skip


class CodeTemplatesSource(SourceConfig):
    """Python functions of one line, asked for in words and tested by calls."""

    type: Literal["code_templates"]
    train: int = Field(default=0, ge=0, le=10**8)
    """How many; there are 172 different ones."""


def supply(source: CodeTemplatesSource, seed: int) -> Supply:
    """The templates in turn, each with a number drawn for it; questions repeat in the end."""
    return Supply(
        label="code_templates",
        problems=_problems(random.Random(derive(seed, "code_templates"))),
        held_out=source.held_out,
        train=source.train,
        is_endless=True,
    )


def _problems(chance: random.Random) -> Iterator[Problem]:
    while True:
        for template in TEMPLATES:
            yield make_problem(template, chance.randint(template.low, template.high))


def make_problem(template: Template, number: int) -> Problem:
    """The problem of a template and a number; its calls depend on nothing else."""
    body = template.body.format(n=number)
    # Our own text, never a model's: what a template says is what is expected of an answer.
    function: Callable[..., Any] = eval(f"lambda {template.parameter}: {body}")
    chance = random.Random(derive(number, "calls", template.name))
    given = [template.arguments(chance) for _ in range(CALLS)]
    question = (
        f"Write a Python function f({template.parameter}). "
        f"{template.ask.format(n=number)} Answer with the code alone."
    )
    return Problem(
        id=problem_id("code", question),
        prompt=question,
        reference=f"def f({template.parameter}):\n    return {body}",
        kind="code",
        source="code_templates",
        data={
            "entry_point": "f",
            "calls": [{"args": args, "expected": function(*args)} for args in given],
        },
    )


SOURCES.register(
    "code_templates",
    generating(
        CodeTemplatesSource, supply, label=lambda source: "code_templates", licence=OWN_LICENCE
    ),
    version=1,
)
