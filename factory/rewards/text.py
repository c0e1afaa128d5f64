"""Measures of a text: the paper's reflective words, and repetition."""

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


def reflective_words(text: str) -> dict[str, int]:
    """How often each of the paper's ten words occurs, as a whole word in any case."""
    words = _WORD.findall(text.lower())
    return {word: words.count(word) for word in REFLECTIVE_WORDS}


def repetition(text: str, *, words: int = 4) -> float:
    """Share of word n-grams that already occurred earlier in the text, in [0, 1).

    1 - distinct n-grams / n-grams, n = `words`; 0 for a text with fewer words than that. A loop
    approaches 1; ordinary worked arithmetic stays below 0.2.
    """
    found = _WORD.findall(text.lower())
    total = len(found) - words + 1
    if total < 1:
        return 0.0
    return 1.0 - len({tuple(found[i : i + words]) for i in range(total)}) / total
