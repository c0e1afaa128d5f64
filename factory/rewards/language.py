"""The share of a text's words that are in the target language."""

import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

from factory.errors import RecipeError

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

CHUNK_WORDS = 40
"""Fewest words py3langid is asked about; on shorter texts its answer is noise."""

SURE = 0.9
"""Probability from which py3langid is believed against the target language."""

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

_SIGN_SCRIPTS = frozenset({"CJK", "HIRAGANA", "KATAKANA", "THAI"})
"""Written without spaces: every character counts as a word."""
_LATEX = re.compile(r"\\[A-Za-z]+|</?[a-z]{1,10}>")
_LETTERS = re.compile(r"[^\W\d_]+")


def language_consistency(text: str, language: str) -> float:
    """Share of the text's words that are in `language` (ISO 639-1), in [0, 1].

    R1's language reward (arXiv 2501.12948 v2, section 3): the proportion of target-language words
    in the chain of thought. The paper does not say what a word is; here:
    - digits, symbols, LaTeX commands, tags and single letters of an alphabet are no words;
    - a word counts if its script is one the language is written in;
    - where that is Latin, each stretch of 40 words and more is also judged by py3langid, and
      counts for nothing if that is sure (above 0.9) of another language;
    - a text without words (pure arithmetic) mixes no languages: 1.

    RecipeError names the languages known if `language` is none of them.
    """
    if language not in SCRIPTS:
        raise RecipeError(
            f"language {language!r} is not known; known: {', '.join(sorted(SCRIPTS))}"
        )
    words = text_words(text)
    if not words:
        return 1.0
    in_script = [word for word, script in words if script in SCRIPTS[language]]
    foreign = _foreign_words(in_script, language) if SCRIPTS[language] == _LATIN else 0
    return (len(in_script) - foreign) / len(words)


def text_words(text: str) -> list[tuple[str, str]]:
    """(word, script) of every word of a text, in order."""
    words = []
    for run in _LETTERS.findall(_LATEX.sub(" ", text)):
        script = _script(run[0])
        if script in _SIGN_SCRIPTS:
            words.extend((sign, _script(sign)) for sign in run)
        elif len(run) > 1:
            words.append((run, script))
    return words


@lru_cache(maxsize=8192)
def _script(character: str) -> str:
    return unicodedata.name(character, "UNKNOWN").split(" ")[0].split("-")[0]


def _foreign_words(words: list[str], language: str) -> int:
    """Words of the stretches that py3langid takes for another language of the same script."""
    foreign = 0
    for begin in range(0, len(words) - CHUNK_WORDS + 1, CHUNK_WORDS):
        last = begin + 2 * CHUNK_WORDS > len(words)
        chunk = words[begin:] if last else words[begin : begin + CHUNK_WORDS]
        found, probability = _identifier().classify(" ".join(chunk))
        if found != language and probability > SURE:
            foreign += len(chunk)
    return foreign


@lru_cache(maxsize=1)
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages([name for name, scripts in SCRIPTS.items() if scripts == _LATIN])
    return identifier
