"""A problem is usable only if its own reference grades as correct."""

from factory.chat import completion_text
from factory.grading import grade
from factory.records import Problem, Verdict


def reference_verdict(problem: Problem) -> Verdict:
    """The strict verdict on the reference itself, written as a well-formed completion."""
    return grade(problem, completion_text("", problem.reference))


def is_right(problem: Problem) -> bool:
    return reference_verdict(problem).is_correct
