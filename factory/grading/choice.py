"""The options of multiple choice, named by letter or by text."""

import re

from factory.core.errors import DataError
from factory.core.records import Problem, Verdict
from factory.grading.exact import fold_text
from factory.grading.leads import ANSWER_IS

CHOSE = "chose "
"""Before the letter, in the explanation of a verdict on a choice."""
_LEAD = re.compile(
    r"(?:(?:so|therefore|thus|hence|then)\b,?\s+)?"
    rf"(?:{ANSWER_IS}|(?:(?:the|my|die|das)\s+)?(?:(?:correct|final|best|right|richtige)\s+){{0,2}}"
    r"(?:answer|option|choice|antwort|l\u00f6sung)(?:\s+(?:is|ist|lautet)\b)?"
    r"|(?:\u6240\u4ee5|\u56e0\u6b64)?[,\uff0c]?(?:\u6b63\u786e)?(?:\u7b54\u6848|\u9009\u9879)(?:\u662f|\u4e3a)?|\u6545?\u9009)"
    r"[*_`\s]*[:\uff1a]?\s*",
    re.IGNORECASE,
)
_OPTION = re.compile(
    r"[\[(]{0,2}([A-Za-z])[\])]{0,2}(?:[.:)]|\s[\u2013\u2014-]\s|$|(?=\s+is\b))(.*)", re.DOTALL
)
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
