"""Whole answers that are a number in words: "twelve", "a hundred and six", "四十二", "五分之三"."""

import re

_ENGLISH = {
    word: number
    for number, word in enumerate(
        re.split(
            " ",
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
            "fifteen sixteen seventeen eighteen nineteen",
        )
    )
} | {
    word: 10 * number
    for number, word in enumerate(
        re.split(" ", "twenty thirty forty fifty sixty seventy eighty ninety"), start=2
    )
}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_DIGITS = {character: number for number, character in enumerate("零一二三四五六七八九")} | {
    "\u4e24": 2, "\u3007": 0,
}  # fmt: skip
_PLACES = {"十": 10, "百": 100, "千": 1000}
_CHINESE = "".join([*_DIGITS, *_PLACES])
_NUMERAL = re.compile(rf"[{_CHINESE}]{{1,12}}")
_FRACTION = re.compile(rf"(百|[{_CHINESE}\d]{{1,9}})分之([{_CHINESE}\d]{{1,9}})")


def in_digits(text: str) -> str:
    """A number in words as digits; any other text as it is."""
    number = _english(text.casefold()) if text.isascii() else None
    if number is None and not text.isascii():
        fraction = _FRACTION.fullmatch(text)
        if fraction:
            bottom, top = (_chinese(part) for part in fraction.groups())
            return text if not bottom or top is None else f"\\frac{{{top}}}{{{bottom}}}"
        number = _chinese(text) if _NUMERAL.fullmatch(text) else None
    return text if number is None else str(number)


def _english(text: str) -> int | None:
    """ "One hundred and twenty-one" is 121; None where the words make no number."""
    words = re.split(r"[- ]", text) if len(text) <= 120 else []
    total = group = 0
    last, before = 10**12, ""
    for index, word in enumerate(words):
        scale, number = _SCALES.get(word), _ENGLISH.get(word, 1 if word == "a" else None)
        if word == "and":
            is_fine = before in ("hundred", "thousand") and index + 1 < len(words)
        elif word == "hundred":
            is_fine, group = 0 < group < 10, group * 100
        elif scale is not None:
            is_fine = group > 0 and scale < last
            total, group, last = total + group * scale, 0, scale
        elif number is not None:
            room = 100 if group % 100 == 0 else 10 if group % 10 == 0 and group % 100 > 10 else 0
            is_fine = number < room and (word != "zero" or len(words) == 1)
            is_fine = is_fine and (word != "a" or index == 0 < len(words) - 1)
            group += number
        else:
            is_fine = False
        if not is_fine:
            return None
        before = word
    return total + group if words else None


def _chinese(text: str) -> int | None:
    """四十二 is 42, 十 is 10, 百 is 100; digits stay; None where the places are out of order."""
    if text.isdecimal() and text.isascii():
        return int(text)
    total, digit, last = 0, None, 10**4
    for character in text:
        if character in _DIGITS:
            if digit:
                return None
            digit = _DIGITS[character]
            continue
        power = _PLACES.get(character)
        if power is None or power >= last:
            return None
        total, digit, last = total + (1 if digit is None else digit) * power, None, power
    return total + (digit or 0)
