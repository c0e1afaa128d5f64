"""The door of graders: a function of a problem and an answer, by the kind of problem.

@grader("interval", version=1)
def interval(problem: Problem, answer: str) -> Verdict: ...
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from factory.core.records import GRADERS, Problem, Verdict
from factory.core.registry import Row
from factory.grading.exact import MAX_ANSWER

Decide = Callable[[Problem, str], Verdict | None]
F = TypeVar("F", bound=Decide)


def no_seconds(problem: Problem) -> float:
    return 0.0


@dataclass(frozen=True)
class Grader:
    """Decides the answers to one kind of problem."""

    decide: Decide
    """The verdict on the answer that a completion gave; None is a fault of the grader. Runs in a
    process that can be killed."""
    plainly: Callable[[Problem, str], Verdict | None]
    """The same verdict where it takes time linear in the text and no foreign code, in this
    process; None where `decide` has to look."""
    longest: int = MAX_ANSWER
    """Characters of an answer that are read; a longer one is wrong."""
    seconds: Callable[[Problem], float] = no_seconds
    """Wall clock that it may take on its own, besides a pool's deadline."""


def grader_row(problem: Problem) -> Row[Grader]:
    """The row that decides a problem: that of its kind, or, of a procedural one, that of the
    generator which its data name, where there is one."""
    return GRADERS.row(deciding(problem.kind, problem.data))


def deciding(kind: str, data: Mapping[str, Any]) -> str:
    """The name of the grader of a problem of this kind with these data."""
    generator = data.get("generator") if kind == "procedural" else None
    return generator if isinstance(generator, str) and generator in GRADERS else kind


def not_plainly(problem: Problem, answer: str) -> None:
    return None


def grader(
    kind: str,
    *,
    version: int,
    longest: int = MAX_ANSWER,
    seconds: Callable[[Problem], float] = no_seconds,
    is_plain: bool = False,
) -> Callable[[F], F]:
    """Register a function as the grader of a kind; raise `version` when it should decide otherwise.

    `is_plain`: it takes time linear in the text, and needs no process that can be killed.

    An exception that it raises makes the answer `ungradable`, which stops a stage above 1 %.
    """

    def registered(function: F) -> F:
        plainly = function if is_plain else not_plainly
        row = Grader(function, plainly, longest=longest, seconds=seconds)
        GRADERS.register(kind, row, version=version)
        return function

    return registered


def correct(answer: str, explanation: str = "") -> Verdict:
    """The verdict that an answer is right."""
    return Verdict(outcome="correct", answer=answer, explanation=explanation)


def wrong(answer: str, explanation: str) -> Verdict:
    """The verdict that an answer is wrong, and why."""
    return Verdict(outcome="wrong", answer=answer, explanation=explanation)
