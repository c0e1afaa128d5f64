"""How an undressed answer is taken apart: numbers, words, lists, names, both values of a sign."""

import re
from fractions import Fraction

from factory.grading.numbers import plain_number
from factory.grading.sets import split_at
from factory.grading.units import split_unit

_NAME = re.compile(r"\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\([A-Za-z]\))?|\([A-Za-z]\)")
_WORDS = re.compile(r"[^\W\d_]{3,}|[Nn]o|[^\W\d_]+(?: [^\W\d_]+)+")
_PLUS_MINUS = re.compile(r"\\pm(?![a-z])")
_LESS = r"\s*(<|\\le(?![a-z]))\s*"
_BETWEEN = re.compile(rf"([^<>=]{{1,80}}?){_LESS}([A-Za-z]){_LESS}([^<>=]{{1,80}})")
_MEMBER = re.compile(r"[A-Za-z]\s?\\in(?![a-z])\s*")
_SET_NAME = re.compile(r"\\?[A-Za-z](?:_\{?\w+\}?)?(?:\([A-Za-z]\))?\s?=\s*(?=[\[(]|\\?\{)")
_TUPLE_NAME = re.compile(r"\(\s?([A-Za-z](?:\s?,\s?[A-Za-z])+)\s?\)\s?=\s*(?=\()")
_OPEN, _CLOSE = "([{", ")]}"
MAX_PARTS = 32


def bare(text: str) -> str:
    """A set, tuple or interval without its name and without "n in" before it."""
    match = _SET_NAME.match(text) or _TUPLE_NAME.match(text) or _MEMBER.match(text)
    if match is None or (match.re is _TUPLE_NAME and not _is_sorted(match.group(1))):
        return text
    rest = text[match.end() :]
    is_set = rest.startswith(("{", "\\{"))
    is_list = (is_set or match.re is not _MEMBER) and elements(rest) is not None
    return rest if is_list else text


def _is_sorted(names: str) -> bool:
    listed = names.replace(" ", "").split(",")
    return listed == sorted(set(listed))


def named_values(text: str) -> dict[str, str] | None:
    """The values of "x = 4, y = -1" by name; None unless all have names and no two the same."""
    listed = elements(text) if "=" in text else None
    if listed is None or listed[0] or len(listed[1]) > MAX_PARTS:
        return None
    pairs = [without_name(item) for item in listed[1]]
    named = {name: value for name, value in pairs if name}
    return named if len(named) == len(pairs) else None


def expanded(listed: tuple[str, list[str]]) -> tuple[str, list[str]]:
    """A list outside of ( ) and [ ] with both values of every "a ± b" in it."""
    if listed[0][:1] in ("(", "["):
        return listed
    items = [part for item in listed[1] for part in split_at(without_signs(item), (",",))]
    return listed[0], items if len(items) <= MAX_PARTS else listed[1]


def is_interval(text: str) -> bool:
    return (
        text[:1] in ("(", "[")
        and text[-1:] in (")", "]")
        and len(split_at(text[1:-1], (",",))) == 2
    )


def interval(text: str) -> str:
    """[0,1) of "0 \\le x < 1"; any other text as it is."""
    match = _BETWEEN.fullmatch(text)
    if match is None:
        return text
    low, opens, _, closes, high = match.groups()
    return f"{'(' if opens == '<' else '['}{low},{high}{')' if closes == '<' else ']'}"


def without_group(text: str) -> str:
    """42 of "{42}": braces of LaTeX that only hold together."""
    is_group = text.startswith("{") and _closes_last(text) and "," not in text
    return text[1:-1].strip() if is_group and not text.endswith("\\}") else text


def without_signs(text: str) -> str:
    """ "a + b, a - b" of "a ± b", which stands for the two values; "x = a, x = -a" of "x = ±a"."""
    if len(_PLUS_MINUS.findall(text)) != 1 or elements(text) is not None:
        return text
    both = []
    for sign, other in (("+", "-"), ("-", "+")):
        value = _PLUS_MINUS.sub(sign, text).replace("\\mp", other)
        both.append(re.sub(r"(^|[=(\[{])\s*\+\s*", r"\1", value))
    return ", ".join(both)


def tight(text: str) -> str:
    """Text without the spaces that separate nothing: "4 2" keeps its one, "( 1, 2 )" none."""
    return re.sub(r"(?<!\w)\s|\s(?!\w)", "", text)


def reading(text: str) -> tuple[Fraction, bool] | None:
    """(exact value, has a percent sign) of a plain number with or without a unit."""
    number = plain_number(text)
    if number is not None:
        return number, False
    bare = re.sub(r"\s?(?:%|percent)$", "", text, flags=re.IGNORECASE)
    if bare != text:
        number = plain_number(bare)
        return None if number is None else (number, True)
    number = plain_number(split_unit(text)[0])
    return None if number is None else (number, False)


def is_words(text: str) -> bool:
    """Text such as "Monday", "no", "blue whale" or "甲", which is compared as text.

    Two letters of ASCII are a product, Greek ones are variables; of other scripts one is a word.
    """
    if text.casefold() in ("infinity", "inf"):
        return False
    letters = text.replace(" ", "")
    return bool(_WORDS.fullmatch(text)) or (letters != "" and all(map(_is_word_letter, letters)))


def _is_word_letter(character: str) -> bool:
    """Whether it is a letter of a script in which nobody names variables."""
    is_greek = "\u0370" <= character <= "\u03ff"
    is_sign = "\u2100" <= character <= "\u214f" or character >= "\U0001d400"
    return character.isalpha() and not (character.isascii() or is_greek or is_sign)


def elements(text: str) -> tuple[str, list[str]] | None:
    """(both brackets or "", items) if the text is a list, else None."""
    opening = ""
    inner = text.replace("\\{", "{").replace("\\}", "}")
    if inner[:1] in ("(", "[", "{") and _closes_last(inner):
        opening, inner = inner[0] + inner[-1], inner[1:-1]
    if not opening:
        inner = re.sub(r",?\s+(?:and|or)\s+", ", ", inner)
    items = split_at(inner, (",", ";"))
    if len(items) < 2 and opening != "{}":
        return None
    return opening, items


def _closes_last(text: str) -> bool:
    """Whether the bracket opened first is closed by the last character (of any bracket kind)."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character in _OPEN) - (character in _CLOSE)
        if depth == 0:
            return position == len(text) - 1
    return False


def is_quantity(text: str) -> bool:
    """Whether a side only says what is asked for: BC^2, f'(x), m+n, MRS_{x,y}; not 2x or x-2."""
    flat = text
    for _ in range(4):
        flat = re.sub(r"\{[^{}()]*\}|\([^{}()]*\)", "", flat)
    flat = re.sub(r"[\^_]\s?\w", "", flat)
    letters = re.sub(r"\\(?:frac|sqrt|pi|left|right|cdot|times)(?![A-Za-z])", "", text)
    return not re.search(r"\d", flat) and re.search(r"[A-Za-z]", letters) is not None


def without_name(text: str) -> tuple[str, str]:
    """("x", "5") of "x = 5"; the name is "" where the text is no such definition."""
    left, mark, right = text.partition("=")
    is_name = _NAME.fullmatch(left.strip()) and left.count("{") == left.count("}")
    if mark and is_name and right.strip() and "=" not in left:
        return left.strip(), right.strip()
    return "", text


def as_intervals(reference: str, candidate: str) -> tuple[str, str]:
    """Both as intervals where one is written "0 <= x < 1" or "x in [0, 1)" and the other [0, 1)."""
    given = _MEMBER.sub("", candidate, count=1) if _MEMBER.match(candidate) else candidate
    if is_interval(reference):
        return reference, interval(given)
    if is_interval(given):
        as_interval = interval(reference)
        return (as_interval, given) if as_interval != reference else (reference, candidate)
    return reference, candidate
