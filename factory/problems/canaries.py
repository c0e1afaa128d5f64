"""Canary problems: questions with a reference that no honest answer gives.

Put among the questions of an RL run they earn nothing, whatever the policy says. A reward on one
is proof that a grader takes what is wrong, or that its references leak, long before the curves
tell. Their groups have equal rewards, so they teach nothing.
"""

import random
from collections.abc import Sequence
from typing import Any

from factory.core.records import Problem
from factory.core.seeds import derive

PREFIX = "canary/"


def is_canary(problem: Problem) -> bool:
    """Whether a problem is one of ours, by its id."""
    return problem.id.startswith(PREFIX)


def canaries(problems: Sequence[Problem], count: int, seed: int) -> list[Problem]:
    """Canaries made from `count` of the problems, drawn at random, without repetition."""
    chosen = random.Random(derive(seed, "canaries")).sample(problems, min(count, len(problems)))
    return [canary(problem, seed) for problem in chosen]


def canary(problem: Problem, seed: int) -> Problem:
    """The same question with a reference that cannot be guessed: a random number of 13 digits.

    Graded by the grader of its kind, but for choice (its reference must be a letter, which can be
    guessed), procedural (its scorer asks no reference) and open: these are graded as exact text.
    """
    secret = 10**12 + derive(seed, "canary", problem.id) * 1000 + 77
    kind = problem.kind if problem.kind in ("math", "code") else "exact"
    return problem.model_copy(
        update={
            "id": PREFIX + problem.id,
            "kind": kind,
            "reference": str(secret),
            "data": _code_data(problem.data, secret) if kind == "code" else {},
        }
    )


def _code_data(data: dict[str, Any], secret: int) -> dict[str, Any]:
    """The tests of a program, each with an outcome that no program can know."""
    changed = dict(data)
    if "tests" in data:
        changed["tests"] = [{**test, "expected_stdout": str(secret)} for test in data["tests"]]
    if "calls" in data:
        changed["calls"] = [{**call, "expected": secret} for call in data["calls"]]
    if "check" in data:
        changed["check"] = (
            f"{data['check']}\n\nhonest_check = check\n\n\ndef check(candidate):\n"
            f"    honest_check(candidate)\n    raise AssertionError({str(secret)!r})\n"
        )
    return changed
