"""The share of a text's words that are in the target language."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from factory.errors import RecipeError
from factory.rewards.function_words import FUNCTION_WORDS, LETTERS

LONG_CLAUSE = 12
"""Fewest words py3langid is asked about, where no small word tells; on shorter ones it guesses."""

SURE = 0.9
"""Probability from which py3langid is believed."""
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
_CLAUSE = re.compile(r"[.!?;:,\n()。！？；：，、（）]+")
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
    total = sum(map(len, clauses))
    if not total:
        return dict.fromkeys(languages, 1.0)
    scripts_of = [Counter(script for _, script in clause) for clause in clauses]
    spoken: dict[tuple[str, ...], list[str | None]] = {}
    shares: dict[str, float] = {}
    for language in languages:
        scripts = SCRIPTS[language]
        if scripts not in spoken:
            rivals = tuple(name for name in FUNCTION_WORDS if SCRIPTS[name] == scripts)
            several = len(rivals) > 1
            spoken[scripts] = _languages(clauses, rivals) if several else [None] * len(clauses)
        pairs = zip(scripts_of, spoken[scripts], strict=True)
        counted = sum(
            _in_script(scripts, language) for scripts, s in pairs if s in (None, language)
        )
        shares[language] = counted / total
    return shares


Words = list[tuple[str, str]]
"""(word, script), in order."""


def _clauses(text: str) -> Iterator[Words]:
    """The words of every clause of a text, without what is no language."""
    plain = _LATEX.sub(" ", _FORMULA.sub(" ", _CODE.sub(" ", text)))
    end, starts_sentence = 0, True
    for mark in [*_CLAUSE.finditer(plain), None]:
        piece = plain[end : mark.start() if mark else len(plain)]
        yield _words(piece, starts_sentence=starts_sentence)
        if mark:
            end = mark.end()
            starts_sentence = bool(_ENDS_SENTENCE.search(mark.group())) or (
                starts_sentence and not piece.strip()
            )


def _words(piece: str, *, starts_sentence: bool) -> Words:
    words: Words = []
    for number, run in enumerate(_LETTERS.findall(piece)):
        script = _script(run[0])
        if script in _SIGN_SCRIPTS:
            words.extend((sign, _script(sign)) for sign in run)
        elif len(run) > 1 and not (run[0].isupper() and (number or not starts_sentence)):
            words.append((run, script))
    return words


@lru_cache(maxsize=8192)
def _script(character: str) -> str:
    return unicodedata.name(character, "UNKNOWN").split(" ")[0].split("-")[0]


def _in_script(scripts: Counter[str], language: str) -> int:
    """Words of a clause, which are of these scripts, that the language may be written in."""
    if language in ("ja", "zh") and (language == "ja") != any(map(scripts.__contains__, _KANA)):
        return 0
    return sum(scripts[script] for script in SCRIPTS[language])


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
    scripts = SCRIPTS[rivals[0]]
    words = [word.lower() for word, script in clause if script in scripts]
    votes: defaultdict[str, float] = defaultdict(float)
    for word in words:
        owners = _owners(word, rivals)
        for owner in owners:
            votes[owner] += 1 / len(owners)
    ranked = sorted(votes.items(), key=lambda vote: vote[1], reverse=True)
    if ranked and ranked[0][1] - (ranked[1][1] if len(ranked) > 1 else 0.0) >= MARGIN:
        return ranked[0][0]
    if len(words) < LONG_CLAUSE:
        return None
    guess: str
    guess, probability = _identifier(rivals).classify(" ".join(words))
    return guess if probability > SURE else None


@lru_cache(maxsize=2**16)
def _owners(word: str, rivals: tuple[str, ...]) -> list[str]:
    """The languages that a word is a small word of, and those that one of its letters tells."""
    owners = [name for name in rivals if word in FUNCTION_WORDS[name]]
    return owners + [name for name in rivals if set(word) & set(LETTERS.get(name, ""))]


@lru_cache(maxsize=2)
def _identifier(languages: tuple[str, ...]) -> Any:
    """py3langid's identifier; its package has no types."""
    from py3langid import langid

    library: Any = langid
    identifier = library.LanguageIdentifier.from_model_file(library.MODEL_FILE, norm_probs=True)
    identifier.set_languages(list(languages))
    return identifier
