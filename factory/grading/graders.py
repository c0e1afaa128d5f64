"""The built-in graders, registered as a user's are."""

from collections.abc import Callable

from factory.core.records import GRADERS, Problem, Verdict
from factory.grading.choice import grade_choice
from factory.grading.code import MAX_PROGRAM, grade_code, program_seconds
from factory.grading.exact import grade_exact
from factory.grading.grader import Grader, not_plainly
from factory.grading.instructions import MAX_RESPONSE, START_SECONDS, grade_instructions
from factory.grading.judge import UNJUDGED
from factory.grading.math import grade_math, grade_math_plainly
from factory.grading.procedural import grade_procedural


def _no_grader(problem: Problem, answer: str) -> Verdict:
    return Verdict(outcome="ungradable", answer=answer, explanation=UNJUDGED)


def _plain(decide: Callable[[Problem, str], Verdict]) -> Grader:
    """A grader of our own code alone, which needs no process of its own."""
    return Grader(decide, decide)


for kind, row in {
    "exact": _plain(grade_exact),
    "choice": _plain(grade_choice),
    "math": Grader(grade_math, grade_math_plainly),
    "procedural": Grader(grade_procedural, not_plainly),
    "code": Grader(grade_code, not_plainly, longest=MAX_PROGRAM, seconds=program_seconds),
    "instructions": Grader(
        grade_instructions, not_plainly, longest=MAX_RESPONSE, seconds=lambda problem: START_SECONDS
    ),
    "open": _plain(_no_grader),
}.items():
    GRADERS.register(kind, row, version=1)
