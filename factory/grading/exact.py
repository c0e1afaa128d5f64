"""Answers compared as text."""

import re
import unicodedata

from factory.core.errors import DataError
from factory.core.records import Problem, Verdict
from factory.text.chat import boxes

MAX_ANSWER = 10_000
"""Characters; normalising a longer hostile text could take quadratic time."""


def fold_text(text: str) -> str:
    """NFKC, case folded, white space collapsed. Scripts stay apart: no look-alikes."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


_OPPOSITE = {
    "yes": "no", "no": "yes", "true": "false", "false": "true", "ja": "nein", "nein": "ja",
    "correct": "incorrect", "incorrect": "correct", "\u662f": "\u5426", "\u5426": "\u662f",
    "\u5bf9": "\u9519", "\u9519": "\u5bf9",
}  # fmt: skip
_SAYS = re.compile(
    r"[*_\"'`]*([^\W\d_]+)[*_\"'`]*\s?(?:[,.;:!\u3002\uff0c\uff01\u2013\u2014-](?=\s|[\u3400-\u9fff])|$)"
)


def says(answer: str, reference: str) -> bool:
    """Whether an answer begins with the reference's yes or no and nowhere says the opposite."""
    reference = fold_text(reference)
    match = _SAYS.match(fold_text(answer)) if reference in _OPPOSITE else None
    if match is None or match.group(1) != reference:
        return False
    words = re.findall(r"[^\W\d_]+", fold_text(answer))
    return _OPPOSITE[reference] not in words and "or" not in words


def grade_exact(problem: Problem, answer: str) -> Verdict:
    """Correct iff the folded texts are equal.

    One box, or one pair of marks of markdown, around the whole answer is dress; so is a final stop
    behind a reference of letters, digits and blanks. Yes and no may be followed by a reason.
    """
    reference = fold_text(problem.reference)
    if not reference:
        raise DataError(f"problem {problem.id}: an empty reference cannot be graded")
    candidates = {fold_text(answer), fold_text(_unboxed(answer))}
    if re.fullmatch(r"[\w ]+", reference):
        candidates |= {text.removesuffix(".").strip() for text in candidates}
    if reference in candidates or says(_unboxed(answer), reference):
        return Verdict(outcome="correct", answer=answer, explanation="equal text")
    return Verdict(outcome="wrong", answer=answer, explanation="another text")


_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s?\{([^{}]*)\}")


def _unboxed(answer: str) -> str:
    """What a single box, dollars or emphasis holds, where they hold all but a stop."""
    text = answer.strip().strip("$").strip()
    contents = boxes(text) or []
    if len(contents) == 1 and text.removesuffix(".") == f"\\boxed{{{contents[0]}}}":
        text = contents[0].strip()
    text = _TEXT.sub(r"\1", text)
    marks = re.fullmatch(r"(\*\*|__|`|\"|\*)(\S|\S.*\S)\1\.?", text, re.DOTALL)
    return marks[2] if marks else text
