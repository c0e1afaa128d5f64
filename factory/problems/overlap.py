"""Whether a text holds questions that are held out: by shared runs of words, and whole.

After GPT-3 (arXiv 2005.14165, appendix C: 13-grams) and R1 (arXiv 2501.12948 v2, D.1: 10-grams of
questions); 8 words for questions, as later decontaminations of mathematics take. A paraphrase
shares no run of words and is missed, as the paper's authors say of theirs.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass

from factory.core.records import Problem
from factory.problems.splits import question_key

QUESTION_WORDS = 8
"""Words that two questions must share in a row."""
TEXT_WORDS = 13
"""Words of a held-out question that a long text must hold in a row."""
COMMON = 2
"""A run of words in more held-out questions than this is a phrase of the benchmark ("put the final
answer"), not one question's content; ours."""
NUMBER = "0"
SAME_QUESTION = "same question"
"""The rule of questions that are equal as a whole."""

_WORD = re.compile(r"[^\W_]+")
_ASCII = {code: chr(code).lower() if chr(code).isalnum() else " " for code in range(128)}


@dataclass(frozen=True)
class Hit:
    """Why a text counts as contaminated."""

    problem: str
    """Id of the held-out problem."""
    rule: str
    shared: str
    """The words that both have."""


def words(text: str, *, masked: bool = False) -> tuple[str, ...]:
    """Words and numbers in lower case, signs left out; `masked` writes every number as 0."""
    if text.isascii():  # the usual text, at four times the speed
        matches = tuple(text.translate(_ASCII).split())
    else:
        matches = tuple(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))
    return _masked(matches) if masked else matches


def _masked(plain: Iterable[str]) -> tuple[str, ...]:
    return tuple([NUMBER if word.isdigit() else word for word in plain])


class HeldOut:
    """An index of held-out questions."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self._whole: dict[str, list[str]] = defaultdict(list)
        self._runs: dict[tuple[bool, int], dict[tuple[str, ...], list[str]]] = {
            (masked, size): defaultdict(list)
            for masked in (False, True)
            for size in (QUESTION_WORDS, TEXT_WORDS)
        }
        self._pairs: dict[bool, set[tuple[str, ...]]] = {False: set(), True: set()}
        for problem in problems:
            for masked, pairs in self._pairs.items():
                pairs.update(runs(words(problem.prompt, masked=masked), 2))
            self._whole[question_key(problem.prompt)].append(problem.id)
            for (masked, size), index in self._runs.items():
                for run in set(runs(words(problem.prompt, masked=masked), size)):
                    index[run].append(problem.id)

    def question_hit(self, question: str) -> Hit | None:
        """The first reason why a question is, or is made from, a held-out one.

        Questions with fewer than 8 words have no run to share: they are compared whole, signs
        included and numbers as they are, since "3 + 4", "3 - 4" and "5 + 6" are three.
        """
        return next(self.question_hits(question), None)

    def question_hits(self, question: str) -> Iterator[Hit]:
        """Every such reason, a problem as often as it has any."""
        key = question_key(question)
        for problem in self._whole.get(key, ()):
            yield Hit(problem, SAME_QUESTION, key)
        yield from self._run_hits(question, QUESTION_WORDS)

    def text_hit(self, text: str) -> Hit | None:
        """The first reason why a long text holds a held-out question."""
        return next(self.text_hits(text), None)

    def text_hits(self, text: str) -> Iterator[Hit]:
        """Every such reason, a problem as often as it has any."""
        return self._run_hits(text, TEXT_WORDS)

    def _run_hits(self, text: str, size: int) -> Iterator[Hit]:
        plain, is_near = words(text), False
        for masked in (False, True):
            index = self._runs[masked, size]
            if masked and not is_near and not any(map(str.isdigit, plain)):
                continue  # without numbers there is nothing that was not just looked for
            text_words = _masked(plain) if masked else plain
            # A run is looked for only where all its pairs are of held-out questions.
            is_near = _has_run(text_words, self._pairs[masked], size - 1)
            if not is_near:
                continue
            for run in runs(text_words, size):
                owners = index.get(run, [])
                if 0 < len(owners) <= COMMON and not (masked and _is_mostly_numbers(run)):
                    rule = f"{size} words{', numbers masked' if masked else ''}"
                    for owner in owners:
                        yield Hit(owner, rule, " ".join(run))


def _has_run(items: Sequence[str], pairs: Container[tuple[str, ...]], size: int) -> bool:
    """Whether `size` neighbouring pairs of items in a row are among `pairs`.

    Any such run has a pair at one of the places size - 1, 2 size - 1, ...: most texts are done
    with these.
    """
    for at in range(size - 1, len(items) - 1, size):
        start = end = at
        while start >= 0 and (items[start], items[start + 1]) in pairs:
            start -= 1
        if start == at:
            continue
        while end < len(items) - 1 and (items[end], items[end + 1]) in pairs:
            end += 1
        if end - start > size:  # start and end are the first on either side that are not
            return True
    return False


def runs(items: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    """Every `size` words in a row; none of a shorter text."""
    return zip(*(items[at:] for at in range(size)), strict=False)


def _is_mostly_numbers(run: tuple[str, ...]) -> bool:
    """Whether masking left too little to tell texts apart: "0 0 0 is 0 0 0 0"."""
    return 2 * run.count(NUMBER) > len(run)
