"""The share of a text's words that are in the target language."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import Any

from factory.core.errors import RecipeError
from factory.rewards.function_words import FUNCTION_WORDS, LETTERS

LONG_CLAUSE = 12
"""Fewest words py3langid is asked about, where no small word tells; on shorter ones it guesses."""

SURE = 0.9
"""Probability from which py3langid is believed."""
MOST_WORDS = 2**16
"""Of each script whose languages are kept for the next text."""
MARGIN = 0.5
"""Votes by which a language must lead the next one to have a clause."""

_LATIN = ("LATIN",)
SCRIPTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("en", "de", "es", "fr", "it", "nl", "pl", "pt", "sv", "tr", "vi"), _LATIN),
    **dict.fromkeys(("bg", "ru", "uk"), ("CYRILLIC",)),
    "ar": ("ARABIC",),
    "el": ("GREEK",),
    "he": ("HEBREW",),
    "hi": ("DEVANAGARI",),
    "ja": ("CJK", "HIRAGANA", "KATAKANA"),
    "ko": ("HANGUL",),
    "th": ("THAI",),
    "zh": ("CJK",),
}
"""Scripts a language is written in, as the first word of the Unicode names of its letters."""

_KANA = frozenset({"HIRAGANA", "KATAKANA"})
_SIGN_SCRIPTS = frozenset({"CJK", "HIRAGANA", "KATAKANA", "THAI"})
"""Written without spaces: every character counts as a word."""
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]{0,400}`", re.DOTALL)
_FORMULA = re.compile(
    r"\$\$.{0,2000}?\$\$|\$[^$\n]{0,400}\$|\\\(.{0,400}?\\\)|\\\[.{0,2000}?\\\]", re.DOTALL
)
_LATEX = re.compile(r"\\[A-Za-z]+|</?[a-z]{1,10}>")
_CLAUSE = re.compile(r"([.!?;:,\n()。！？；：，、（）]+)")
_LETTERS = re.compile(r"[^\W\d_]+")
_ENDS_SENTENCE = re.compile(r"[.!?:\n。！？：]")


def language_consistency(text: str, language: str) -> float:
    """Share of the text's words that are in `language` (ISO 639-1), in [0, 1].

    R1's language reward (arXiv 2501.12948 v2, section 3): the proportion of target-language words
    in the chain of thought. The paper does not say what a word is; here:

    - code, formulas, LaTeX commands, digits, symbols, tags and single letters of an alphabet are no
      words, nor are capitalised words inside a sentence: names (and German nouns);
    - a word counts if its script is one the language is written in;
    - between languages of one script, clauses are told apart by their small words and letters
      (`function_words.py`); a long clause without any by py3langid where that is sure; any other
      clause is in the language of the one before it, the first one in that of the first that is
      known, and all in the target where none is;
    - Chinese characters are Japanese only in a clause with kana, and Chinese only in one without;
    - a text without words (pure arithmetic) mixes no languages: 1.

    RecipeError names the languages known if `language` is none of them.
    """
    if language not in SCRIPTS:
        raise RecipeError(
            f"language {language!r} is not known; known: {', '.join(sorted(SCRIPTS))}"
        )
    return _shares(text, [language])[language]


def language_of(text: str) -> str | None:
    """The language (ISO 639-1) that most words of a text are in; None where none leads alone."""
    shares = _shares(text, list(SCRIPTS))
    (first, language), (second, _) = sorted(
        ((share, name) for name, share in shares.items()), reverse=True
    )[:2]
    return language if first > second else None


def _shares(text: str, languages: Sequence[str]) -> dict[str, float]:
    """By language, the share of the text's words that are in it."""
    clauses = [clause for clause in _clauses(text) if clause]
    total = sum(len(words) for clause in clauses for words in clause.values())
    if not total:
        return dict.fromkeys(languages, 1.0)
    written = {script for clause in clauses for script in clause}
    spoken: dict[tuple[str, ...], dict[str | None, int]] = {}
    shares: dict[str, float] = {}
    for language in languages:
        scripts = SCRIPTS[language]
        if written.isdisjoint(scripts):
            shares[language] = 0.0
            continue
        if scripts not in spoken:
            spoken[scripts] = _spoken(clauses, language)
        words = spoken[scripts]
        shares[language] = (words.get(None, 0) + words.get(language, 0)) / total
    return shares


def _spoken(clauses: "list[Words]", language: str) -> dict[str | None, int]:
    """How many words are in each language that is written as this one is; None: in any of them."""
    rivals = _rivals(SCRIPTS[language])
    languages = _languages(clauses, rivals) if len(rivals) > 1 else [None] * len(clauses)
    counts: dict[str | None, int] = {}
    for clause, rival in zip(clauses, languages, strict=True):
        counts[rival] = counts.get(rival, 0) + _in_script(clause, language)
    return counts


@cache
def _rivals(scripts: tuple[str, ...]) -> tuple[str, ...]:
    """The languages that are written in these scripts and told apart by their small words."""
    return tuple(name for name in FUNCTION_WORDS if SCRIPTS[name] == scripts)


Words = dict[str, list[str]]
"""Words by their script, in order; only scripts that have some."""


def _clauses(text: str) -> Iterator[Words]:
    """The words of every clause of a text, without what is no language."""
    plain = _CODE.sub(" ", text) if "`" in text else text
    plain = _FORMULA.sub(" ", plain) if "$" in plain or "\\" in plain else plain
    plain = _LATEX.sub(" ", plain) if "<" in plain or "\\" in plain else plain
    starts_sentence = True
    pieces = _CLAUSE.split(plain)  # every second one is a mark
    for piece, mark in zip(pieces[::2], [*pieces[1::2], ""], strict=True):
        yield _words(piece, starts_sentence=starts_sentence)
        starts_sentence = bool(_ENDS_SENTENCE.search(mark)) or (
            starts_sentence and not piece.strip()
        )


def _words(piece: str, *, starts_sentence: bool) -> Words:
    runs = _LETTERS.findall(piece)
    if piece.isascii():  # the usual clause, at once
        if not piece.islower():
            first = runs[:1] if starts_sentence else []
            runs = first + [run for run in runs[len(first) :] if not run[0].isupper()]
        small = [run for run in runs if len(run) > 1]
        return {"LATIN": small} if small else {}
    words: defaultdict[str, list[str]] = defaultdict(list)
    for number, run in enumerate(runs):
        script = _script(run[0])
        if script in _SIGN_SCRIPTS:
            for sign in run:
                words[_script(sign)].append(sign)
        elif len(run) > 1 and not (run[0].isupper() and (number or not starts_sentence)):
            words[script].append(run)
    return words


@lru_cache(maxsize=8192)
def _script(character: str) -> str:
    return unicodedata.name(character, "UNKNOWN").split(" ")[0].split("-")[0]


def _in_script(clause: Words, language: str) -> int:
    """Words of a clause that are in a script that the language is written in."""
    if language in ("ja", "zh") and (language == "ja") == _KANA.isdisjoint(clause):
        return 0
    return sum([len(clause.get(script, ())) for script in SCRIPTS[language]])


def _languages(clauses: list[Words], rivals: tuple[str, ...]) -> list[str | None]:
    """The language of each clause among `rivals`; None where no clause of the text tells."""
    languages = [_language(clause, rivals) for clause in clauses]
    last = next((language for language in languages if language), None)
    filled: list[str | None] = []
    for language in languages:
        last = language or last
        filled.append(last)
    return filled


def _language(clause: Words, rivals: tuple[str, ...]) -> str | None:
    """The language that leads by its small words and letters; None if none does."""
    scripts, owners_of = SCRIPTS[rivals[0]], _owners(rivals)
    words = [word for script in scripts for word in clause.get(script, ())]
    votes: dict[str, float] = {}
    for owners in filter(None, map(owners_of.__getitem__, words)):
        for owner in owners:
            votes[owner] = votes.get(owner, 0.0) + 1 / len(owners)
    if votes:
        *_, second, first = 0.0, *sorted(votes.values())
        if first - second >= MARGIN:
            return max(votes, key=votes.__getitem__)
    if len(words) < LONG_CLAUSE:
        return None
    guess: str
    guess, probability = _identifier(rivals).classify(" ".join(words).lower())
    return guess if probability > SURE else None


class _Owners(dict[str, list[str]]):
    """The languages that a word is a small word of, and those that one of its letters tells; in
    any case of its letters."""

    def __init__(self, rivals: tuple[str, ...]) -> None:
        super().__init__()
        self._rivals = rivals

    def __missing__(self, word: str) -> list[str]:
        small = word.lower()
        owners = [name for name in self._rivals if small in FUNCTION_WORDS[name]]
        owners += [name for name in self._rivals if set(small) & set(LETTERS.get(name, ""))]
        if len(self) >= MOST_WORDS:
            self.clear()
        self[word] = owners
        return owners


_owners = lru_cache(maxsize=8)(_Owners)
"""One for each set of languages of one script."""


@lru_cache(maxsize=2)
def _identifier(languages: tuple[str, ...]) -> Any:
    """py3langid's identifier; its package has no types."""
    from py3langid import langid

    library: Any = langid
    identifier = library.LanguageIdentifier.from_model_file(library.MODEL_FILE, norm_probs=True)
    identifier.set_languages(list(languages))
    return identifier
