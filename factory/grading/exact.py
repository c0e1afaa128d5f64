"""Answers compared as text: exact answers and the options of multiple choice."""

import re
import unicodedata

from factory.errors import DataError
from factory.records import Problem, Verdict

MAX_ANSWER = 10_000
"""Characters; normalising a longer hostile text could take quadratic time."""

CHOSE = "chose "
"""Before the letter, in the explanation of a verdict on a choice."""


def fold_text(text: str) -> str:
    """NFKC, case folded, white space collapsed. Scripts stay apart: no look-alikes."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def grade_exact(problem: Problem, answer: str) -> Verdict:
    """Correct iff the folded texts are equal."""
    reference = fold_text(problem.reference)
    if not reference:
        raise DataError(f"problem {problem.id}: an empty reference cannot be graded")
    if fold_text(answer) == reference:
        return Verdict(outcome="correct", answer=answer, explanation="equal text")
    return Verdict(outcome="wrong", answer=answer, explanation="another text")


_OPTION = re.compile(
    r"(?:(?:the )?(?:correct )?(?:final )?(?:answer|option|choice)(?: is)?:?\s+)?"
    r"[\[(*]{0,3}([A-Za-z])[\])*]{0,3}(?:[.:)]|$)(.*)",
    re.DOTALL | re.IGNORECASE,
)


def grade_choice(problem: Problem, answer: str) -> Verdict:
    """Correct iff the answer names the reference's letter, or spells that option's text.

    "B", "(b)", "B.", "Option B", "\\boxed{B}" name B. A text after the letter must be that
    option's own, from `problem.data["choices"]` (a list of texts, the first is A).
    """
    reference = problem.reference.strip().upper()
    if not re.fullmatch(r"[A-Z]", reference):
        raise DataError(f"problem {problem.id}: reference {problem.reference!r} is not a letter")
    choices = [fold_text(str(choice)) for choice in problem.data.get("choices", [])]
    chosen = _chosen(answer, choices)
    if chosen is None:
        return Verdict(outcome="wrong", answer=answer, explanation="names no single option")
    outcome = "correct" if chosen == reference else "wrong"
    return Verdict(outcome=outcome, answer=answer, explanation=f"{CHOSE}{chosen}")


def _chosen(answer: str, choices: list[str]) -> str | None:
    text = re.sub(r"\\(?:boxed|text|mathrm|textbf)\s?|[{}$]", "", answer).strip()
    if fold_text(text) in choices:
        return chr(ord("A") + choices.index(fold_text(text)))
    match = _OPTION.fullmatch(text)
    if match is None:
        return None
    letter, rest = match.group(1).upper(), fold_text(match.group(2)).strip(" .*")
    if not rest:
        return letter
    index = ord(letter) - ord("A")
    return letter if index < len(choices) and choices[index].strip(" .*") == rest else None
