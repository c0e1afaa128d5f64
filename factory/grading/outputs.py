"""What a program wrote against what it should have written: lines of tokens, numbers as numbers."""

import re
from fractions import Fraction

BLANKS = " \t\r"
"""What separates tokens and does not matter at the end of a line; all other blanks of Unicode are
characters."""
ROUNDED = 5
"""Decimals of an expected token from which on it is a rounded real number."""
TOLERANCE = 1e-6
"""Of such a token, absolutely or relative to it, where the test states none."""
LONGEST = 400
"""Characters of a token that is read as a number."""
_TOKENS = re.compile(rf"[^{BLANKS}]+")
_DECIMAL = re.compile(r"[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?")


def same_output(
    actual: str, expected: str, *, tolerance: float = 0.0, is_exact: bool = False
) -> bool:
    """Whether two outputs agree, in time linear in both.

    Lines matter but for empty ones at the end; in a line tokens do, and not the blanks around them.
    Tokens agree as texts, as equal decimals (`5.0` is `5`, `05` is a text), or within the
    tolerance; without one 1e-6 holds where the expected token has five decimals or more. Integers
    are exact. `is_exact` compares lines as texts, for tasks of layout.
    """
    ours, theirs = lines_of(actual), lines_of(expected)
    if len(ours) != len(theirs):
        return False
    for line, wanted in zip(ours, theirs, strict=True):
        if line == wanted:
            continue
        if is_exact:
            return False
        tokens, wanted_tokens = _TOKENS.findall(line), _TOKENS.findall(wanted)
        if len(tokens) != len(wanted_tokens):
            return False
        pairs = zip(tokens, wanted_tokens, strict=True)
        if not all(_same_token(token, other, tolerance) for token, other in pairs):
            return False
    return True


def lines_of(text: str) -> list[str]:
    """Lines without trailing blanks; missing or further newlines at the end do not matter."""
    lines = [line.rstrip(BLANKS) for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _same_token(token: str, wanted: str, tolerance: float) -> bool:
    if token == wanted:
        return True
    if max(len(token), len(wanted)) > LONGEST:
        return False
    if not (_DECIMAL.fullmatch(token) and _DECIMAL.fullmatch(wanted)):
        return False
    value, right = Fraction(token), Fraction(wanted)
    if value == right:
        return True
    decimals = len(re.split(r"[eE]", wanted.partition(".")[2])[0])
    is_real = decimals > 0 or "e" in wanted.casefold()
    allowed = tolerance or (TOLERANCE if decimals >= ROUNDED else 0.0)
    if not is_real or not allowed:
        return False
    return abs(value - right) <= Fraction(allowed) * max(1, abs(right))
