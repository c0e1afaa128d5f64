"""Plain numbers read exactly, as fractions, without any expression evaluator."""

import re
from fractions import Fraction

MAX_DIGITS = 1000
"""Longer numbers are no plain numbers; Python refuses to convert those over 4300 digits."""

UNSIGNED = r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+\.?\d*|\.\d+)"
_NUMBER = re.compile(rf"([+-]?)\s?({UNSIGNED})(?:[eE]([+-]?\d{{1,3}}))?")
_RATIO = re.compile(rf"([+-]?)\s?({UNSIGNED})\s?/\s?({UNSIGNED})")
_FRAC = re.compile(rf"([+-]?)\s?(\d*)\s?\\frac\s?\{{({UNSIGNED})\}}\s?\{{({UNSIGNED})\}}")
_MIXED = re.compile(r"([+-]?)\s?(\d+)\s+(\d+)/(\d+)")
_POWER = re.compile(
    rf"([+-]?)\s?({UNSIGNED})\s?\\(?:times|cdot)\s?10\s?\^\s?(?:\{{\s?([+-]?\d{{1,3}})\s?\}}|(\d))"
)
_LAST = re.compile(rf"(?<![\w.)])-{UNSIGNED}|{UNSIGNED}")


def plain_number(text: str) -> Fraction | None:
    """The exact value of "18", "-1,234.50", ".5", "1e3", "3/4", "\\frac{3}{4}" or "1 3/4".

    None for anything else, division by zero included. Nothing is evaluated.
    """
    text = text.strip()
    if not text or len(text) > MAX_DIGITS:
        return None
    if match := _NUMBER.fullmatch(text):
        sign, digits, exponent = match.groups()
        return _signed(sign, _value(digits) * Fraction(10) ** int(exponent or 0))
    if match := _POWER.fullmatch(text):
        sign, digits, exponent, digit = match.groups()
        return _signed(sign, _value(digits) * Fraction(10) ** int(exponent or digit))
    if match := _RATIO.fullmatch(text):
        sign, top, bottom = match.groups()
        return _ratio(sign, Fraction(0), _value(top), _value(bottom))
    if match := _FRAC.fullmatch(text) or _MIXED.fullmatch(text):
        sign, integer, top, bottom = match.groups()
        return _ratio(sign, Fraction(int(integer or 0)), _value(top), _value(bottom))
    return None


def last_number(text: str) -> str | None:
    """The last number written in a text, with its fraction or decimals, or None.

    A minus counts as a sign unless it follows a letter, a digit or a bracket: "7-3" ends in 3.
    """
    matches = list(_LAST.finditer(text))
    if not matches:
        return None
    last = matches[-1]
    before = matches[-2] if len(matches) > 1 else None
    if before is not None and text[before.end() : last.start()] in ("/", " / ", " /", "/ "):
        return text[before.start() : last.end()].rstrip(".")
    return last.group().rstrip(".")


def _value(digits: str) -> Fraction:
    return Fraction(digits.replace(",", "").rstrip(".") or "0")


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value


def _ratio(sign: str, integer: Fraction, top: Fraction, bottom: Fraction) -> Fraction | None:
    return _signed(sign, integer + top / bottom) if bottom else None
