"""Measures of a text: the paper's reflective words, steps done again, programs, repetition."""

import re

REFLECTIVE_WORDS = (
    "wait",
    "mistake",
    "however",
    "but",
    "retry",
    "error",
    "verify",
    "wrong",
    "evaluate",
    "check",
)
"""DeepSeek-R1 (arXiv 2501.12948 v2), Figure 9: the words whose use rose with training."""

_WORD = re.compile(r"\w+")
_ASCII = {code: " " for code in range(128) if not (chr(code).isalnum() or chr(code) == "_")}


def reflective_words(text: str) -> dict[str, int]:
    """How often each of the paper's ten words occurs, as a whole word in any case."""
    words = _WORD.findall(text.lower())
    return {word: words.count(word) for word in REFLECTIVE_WORDS}


_DOUBT = re.compile(
    r"\b(?:wait|hold on|hmm+|actually|on second thought|try again|start over"
    r"|let(?: me|'s) (?:re|check|verify|double)\w*|double[- ]check"
    r"|(?:i made|there is|there's) an? (?:mistake|error)"
    r"|(?:that|this)(?:'s| is| was|(?: is|'s) not| isn't| can't be| cannot be) "
    r"(?:wrong|incorrect|right|correct))\b"
    r"|等等|等一下|不对|重新|再检查",
    re.IGNORECASE,
)
"""A writer who stops: in English and Chinese, the paper's two languages."""
_WORK = re.compile(r"[\d=]|等于")
_CODE = re.compile(r"```|^(?:def |import |from \w+ import |#include)", re.MULTILINE)


def doubts(text: str) -> list[int]:
    """Where a text stops or doubts and then works on: places of doubts with figures after them.

    A doubt that is followed by another one, or by the end, before any digit or equals sign is
    not one: saying "wait" is not yet a step.
    """
    matches = list(_DOUBT.finditer(text))
    ends = [*(doubt.start() for doubt in matches[1:]), len(text)]
    return [
        doubt.start()
        for doubt, end in zip(matches, ends, strict=False)
        if _WORK.search(text, doubt.end(), end)
    ]


def redone_steps(text: str) -> int:
    """How often a text does a step again: its doubts that work follows."""
    return len(doubts(text))


def holds_code(text: str) -> bool:
    """Whether a fenced block, a Python definition or import, or a C include stands in it."""
    return _CODE.search(text) is not None


def repetition(text: str, *, words: int = 4) -> float:
    """Share of word n-grams that already occurred earlier in the text, in [0, 1).

    1 - distinct n-grams / n-grams, n = `words`; 0 for a text with fewer words than that. A loop
    approaches 1; ordinary worked arithmetic stays below 0.2.
    """
    text = text.lower()
    # ASCII, the usual text, at twice the speed.
    matches = text.translate(_ASCII).split() if text.isascii() else _WORD.findall(text)
    total = len(matches) - words + 1
    if total < 1:
        return 0.0
    runs = zip(*(matches[at:] for at in range(words)), strict=False)
    return 1.0 - len(set(runs)) / total
