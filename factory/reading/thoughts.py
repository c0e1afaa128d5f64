"""A published text split into its thoughts and what follows them, and the answer in that."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from factory.core.records import ProblemKind
from factory.grading.numbers import plain_number
from factory.text.chat import boxes

PAIRS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)
"""Marks around thoughts, the most frequent first."""
SOLUTION_PAIRS = (("<|begin_of_solution|>", "<|end_of_solution|>"), ("<answer>", "</answer>"))
"""Marks around what follows the thoughts."""
REQUESTS = (
    "Return your final response within \\boxed{}.",
    "Please reason step by step, and put your final answer within \\boxed{}.",
    "Let's think step by step and output the final answer within \\boxed{}.",
    "Put your final answer within \\boxed{}.",
)
"""What published sets write before or behind a question to ask for a form of the answer."""
MOST_BARE = 80
"""Characters of a bare value."""


class UnusableError(ValueError):
    """A text that cannot be learned from."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Marks:
    """What stands around the thoughts of a set."""

    opening: str = "<think>"
    closing: str = "</think>"
    is_opened: bool = False
    """Whether the prompt had opened the thoughts, so that most texts hold the closing mark only."""


def marks_of(texts: Iterable[str]) -> Marks | None:
    """The pair that most of the texts have; None where none of them has any."""
    texts = list(texts)
    counts = {pair: sum(pair[0] in text or pair[1] in text for text in texts) for pair in PAIRS}
    pair = max(PAIRS, key=lambda pair: counts[pair])
    if not counts[pair]:
        return None
    opened = sum(text.lstrip().startswith(pair[0]) for text in texts)
    return Marks(*pair, is_opened=2 * opened < counts[pair])


def split_thoughts(text: str, marks: Marks) -> tuple[str, str]:
    """(thoughts, what follows), both trimmed; UnusableError says why there are none."""
    closings, openings = text.count(marks.closing), text.count(marks.opening)
    if closings > 1 or openings > 1:
        raise UnusableError("unparseable", "more than one mark of thoughts")
    if not closings:
        if openings or marks.is_opened:
            raise UnusableError("cut", f"no {marks.closing}")
        raise UnusableError("no_thoughts", f"no {marks.opening}")
    before, _, after = text.partition(marks.closing)
    if openings:
        lead, _, before = before.partition(marks.opening)
        if lead.strip() or marks.opening in after:
            raise UnusableError("unparseable", f"text before {marks.opening}")
    return before.strip(), after.strip()


def without_marks(thoughts: str, marks: Marks | None) -> str:
    """Thoughts of a column of their own, without a pair of marks around them."""
    thoughts = thoughts.strip()
    for opening, closing in PAIRS if marks is None else ((marks.opening, marks.closing), *PAIRS):
        if thoughts.startswith(opening) and thoughts.endswith(closing):
            return thoughts.removeprefix(opening).removesuffix(closing).strip()
    return thoughts


def summary_of(rest: str) -> tuple[str, bool]:
    """(what follows the thoughts without its marks, whether they were those of a bare answer)."""
    for opening, closing in SOLUTION_PAIRS:
        inner = rest.strip()
        if inner.count(opening) == inner.count(closing) == 1:
            if not inner.startswith(opening) or not inner.endswith(closing):
                continue
            inner = inner.removeprefix(opening).removesuffix(closing).strip()
            return inner, opening == "<answer>"
    return rest.strip(), False


def answer_of(summary: str, kind: ProblemKind, *, is_marked: bool = False) -> str:
    """What is graded of a summary: its last box, its letter, a bare value, or all of it.

    UnusableError where mathematics states none.
    """
    boxed = boxes(summary)
    if kind in ("code", "open", "instructions"):
        return summary
    if boxed is None:
        raise UnusableError("no_answer", "a box that is never closed")
    if boxed and boxed[-1].strip():
        return boxed[-1].strip()
    if is_marked or kind != "math":
        return _letter(summary) if kind == "choice" else summary
    bare = bare_value(summary)
    if not bare:
        raise UnusableError("no_answer", "neither a box nor a bare value")
    return bare


def states_value(rest: str) -> bool:
    """Whether a text ends in an answer as mathematics has it."""
    summary, is_marked = summary_of(rest)
    return bool(boxes(summary)) or bool(bare_value(summary)) or is_marked


_WORD = re.compile(r"(?<![\\A-Za-z])[^\W\d_]{2,}")
_CHOICE = re.compile(r"\(?\b([A-J])\b\)?\.?$")


def bare_value(text: str) -> str:
    """A text that is nothing but a value; else empty."""
    bare = text.strip().removesuffix(".").strip("$ ").strip()
    if not bare or len(bare) > MOST_BARE or "\n" in bare:
        return ""
    if plain_number(bare) is not None:
        return bare
    words = _WORD.findall(re.sub(r"\\(?:text|mathrm|operatorname)\{[^{}]*\}", " ", bare))
    return bare if len(words) <= 1 and (len(words) == 0 or len(bare.split()) <= 3) else ""


def _letter(summary: str) -> str:
    match = _CHOICE.search(summary.strip())
    return match[1] if match else summary


def without_requests(question: str) -> str:
    """The question without a request for a form of the answer, which is no part of it."""
    text = question.strip()
    for request in REQUESTS:
        text = text.removeprefix(request).removesuffix(request).strip()
    return text or question.strip()
