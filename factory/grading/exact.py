"""Answers compared as text: exact answers and the options of multiple choice."""

import re
import unicodedata

from factory.chat import boxes
from factory.errors import DataError
from factory.records import Problem, Verdict

MAX_ANSWER = 10_000
"""Characters; normalising a longer hostile text could take quadratic time."""

CHOSE = "chose "
"""Before the letter, in the explanation of a verdict on a choice."""


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


_LEAD = re.compile(
    r"(?:(?:so|therefore|thus|hence|then)\b,?\s+)?"
    r"(?:(?:(?:the|my|die|das)\s+)?(?:(?:correct|final|best|right|richtige)\s+){0,2}"
    r"(?:answer|option|choice|antwort|l\u00f6sung)(?:\s+(?:is|ist|lautet)\b)?"
    r"|(?:\u6240\u4ee5|\u56e0\u6b64)?[,\uff0c]?(?:\u6b63\u786e)?(?:\u7b54\u6848|\u9009\u9879)(?:\u662f|\u4e3a)?|\u9009)"
    r"[*_`\s]*[:\uff1a]?\s*",
    re.IGNORECASE,
)
_OPTION = re.compile(r"[\[(]{0,2}([A-Za-z])[\])]{0,2}(?:[.:)]|$|(?=\s+is\b))(.*)", re.DOTALL)
_IS_RIGHT = re.compile(r"\s*is\s+(?:the\s+)?(?:correct|right|best)(?:\s+(?:answer|option|choice))?")
_ANOTHER = re.compile(r"(?:^|[\s,/])[\[(]?(?:[B-Z]|A(?=[\]).,]|$))(?:[\]).,]|\s|$)")
_FULL_WIDTH = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)} | {0x3002: "."}


def grade_choice(problem: Problem, answer: str) -> Verdict:
    """Correct iff the answer names the reference's letter, or spells that option's text.

    "B", "(b)", "B.", "Option B", "**Answer: B**", "\\boxed{\\text{B}}" name B. A text after the
    letter must be that option's own, from `problem.data["choices"]` (a list of texts, the first is
    A); where there are none, any text that names no other letter. References are read likewise.
    """
    choices = [fold_text(str(choice)) for choice in problem.data.get("choices", [])]
    reference = _chosen(problem.reference, choices)
    if reference is None:
        raise DataError(f"problem {problem.id}: reference {problem.reference!r} names no option")
    chosen = _chosen(answer, choices)
    if chosen is None:
        return Verdict(outcome="wrong", answer=answer, explanation="names no single option")
    outcome = "correct" if chosen == reference else "wrong"
    return Verdict(outcome=outcome, answer=answer, explanation=f"{CHOSE}{chosen}")


def _chosen(answer: str, choices: list[str]) -> str | None:
    text = answer.translate(_FULL_WIDTH)
    text = re.sub(r"\\(?:boxed|textbf|text|mathrm|mathbf)\s?|[{}$]", "", text)
    text = re.sub(r"\*\*|__|[`\"\u201c\u201d]", "", text).strip().strip("*").strip()
    if fold_text(text) in choices:
        return chr(ord("A") + choices.index(fold_text(text)))
    lead = _LEAD.match(text)
    text = text[lead.end() :].strip() if lead else text
    if fold_text(text).removesuffix(".") in choices:
        return chr(ord("A") + choices.index(fold_text(text).removesuffix(".")))
    match = _OPTION.fullmatch(text)
    if match is None:
        return None
    letter, behind = match.group(1).upper(), match.group(2)
    rest = fold_text(_IS_RIGHT.sub("", behind, count=1)).strip(" .*")
    if not rest:
        return letter
    if not choices:
        return None if _ANOTHER.search(behind) else letter
    index = ord(letter) - ord("A")
    return letter if index < len(choices) and choices[index].strip(" .*") == rest else None
