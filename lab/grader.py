"""The verifier of the small world: exact, and a check of what a question itself says."""

from factory.core.errors import DataError
from factory.core.records import Problem, Verdict
from factory.grading.grader import grader
from lab.questions import read_question

PHRASE = " is "
"""Untagged answers of the world's corpus end in "the answer is ..."; what follows is the answer."""


@grader("world", version=1, is_plain=True)
def grade_world(problem: Problem, answer: str) -> Verdict:
    """Correct iff the question accepts the words; DataError where the prompt is no question."""
    question = read_question(problem.prompt)
    if question is None:
        raise DataError(f"problem {problem.id}: {problem.prompt!r} is no question of the world")
    said = f" {answer}".rpartition(PHRASE)[2].removesuffix(".").strip()
    if question.accepts(said):
        return Verdict(outcome="correct", answer=said, explanation="the question accepts it")
    wanted = f"{problem.reference!r}" if question.family != "ops" else f"e.g. {problem.reference!r}"
    return Verdict(outcome="wrong", answer=said, explanation=f"{said!r}, wanted {wanted}")
