"""One expression against one: read by math-verify's LaTeX parser, compared exactly with sympy.

Only text that passes a guard (length, depth, alphabet, no towers of powers) is read at all; what
still takes too long is for the process that runs this to be killed (`pool.py`). math-verify
itself would read "(lambda: 42)()" as 42 and call 2**-99 and 2**-98 equal, so it reads only whole
texts here, decimals become fractions first, and the comparison is ours.
"""

import math
import re
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

from factory.grading.numbers import plain_number

NEARLY = r"\approx"
"""Before a candidate that only has to be a rounding of the reference."""
MAX_LENGTH = 400
MAX_DIGITS, MAX_DIGITS_IN_ROOTS = 10_000_000, 10_000
"""Of the integers that an answer may ask for, by a generous bound."""
MAX_DEPTH = 6
"""Brackets within brackets; the parser's time grows steeply with it."""

_ALPHABET = re.compile(r"[A-Za-z0-9\s+\-*/^_=<>!|.,(){}\[\]\\&'%]+")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{4,}")
_REFUSED = re.compile(
    r"\d{31}|\^\s*\{?\s*-?\d{5,}"  # giant integers and exponents
    r"|\^\s*(?:\{[^{}]*\^|\S\s*\^)|\}\s*\^\s*\{[^{}]*\}\s*\^"  # towers
    r"|\d{5,}\s*!|[!)}]\s*!|binom\s*\{\s*\d{5,}"  # giant and nested factorials
    r"|binom\s*\{\s*\d{4,}\s*\}\s*\{\s*\d{4,}|\\sqrt\s*\[\s*\d{4,}"
    r"|(?<![_^\d.])\b\d+\s+\d"  # "3 4", which the reader would add up
    r"|\d\s+\(\s*-?[\d.]+\s*\)"  # "0 (-1)", a second value in brackets, not a product
    r"|\\(?:int|iint|sum|prod|lim|limsup|liminf)(?![a-z])|_{2}"
)
_FUNCTIONS = "arcsin arccos arctan sinh cosh tanh sin cos tan sec csc cot log ln exp"
_LETTERS = {
    "\u03c0": r"\pi ",
    "\u03b8": r"\theta ",
    "\u221e": r"\infty ",
    "\u00d7": r"\times ",
    "\u00b7": r"\cdot ",
    "\u00f7": "/",
    "\u00b2": "^{2}",
    "\u00b3": "^{3}",
    "\u2264": r"\le ",
    "\u2265": r"\ge ",
    "\u221a": r"\sqrt",
}
_EXPONENT = re.compile(
    r"(?<![A-Za-z])(?<![A-Za-z]\s)\^\s*(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*){0,4}\}|\([^()]*\)|-?\S)"
)
_LITERAL = re.compile(r"(\d{1,30})\s*(!?)")
_DECIMAL = re.compile(r"-?\d{1,30}(?:\.\d{1,30})?")
_BRACED = re.compile(r"(\\sqrt|\^)\s*\(")


class UnreadableError(Exception):
    """The reference cannot be read as mathematics."""


def same_expression(reference: str, candidate: str, question: str = "") -> bool:
    """Whether two expressions have exactly the same value or, with variables, are identical.

    A candidate that cannot be read is not equal; UnreadableError for such a reference. Letters in
    the other case are the reference's unless the question has them as symbols of their own.
    """
    right = read(to_latex(reference))
    if right is None:
        raise UnreadableError(reference)
    if candidate.startswith(NEARLY):
        return _is_rounding(candidate.removeprefix(NEARLY).strip(), right)
    number = plain_number(candidate)
    if number is not None:
        return _same(right, _rational(number))
    if "'" in candidate and "'" not in reference:
        return False
    if len(candidate) > MAX_LENGTH:
        return False
    latex = to_latex(candidate)
    expected = to_latex(reference)
    if set(_WORD.findall(latex)) - set(_WORD.findall(expected)):
        return False
    if _REFUSED.search(latex) or _is_giant(latex):
        return False
    latex = _in_case_of(expected, latex, question)
    if _letters_of_other_case(expected, latex):
        return False
    if both := _in_both_cases(expected + latex):
        right = read(_apart(expected, both))
        latex = _apart(latex, both)
    value = read(latex)
    return value is not None and right is not None and _same(right, value)


def _rational(number: Fraction) -> Any:
    import sympy

    return sympy.Rational(number.numerator, number.denominator)


def real_value(text: str) -> Fraction | None:
    """A real constant to 45 digits, exactly where it is rational; None for anything else."""
    import sympy

    latex = to_latex(text)
    if len(text) > 100 or _REFUSED.search(latex) or _is_giant(latex):
        return None
    value = read(latex)
    if not isinstance(value, sympy.Expr) or value.free_symbols:
        return None
    value = value.doit()
    if isinstance(value, sympy.Rational):
        return Fraction(int(value.p), int(value.q))
    shown = sympy.N(value, 60)
    if not shown.is_Float:
        return None
    return Fraction(round(Fraction(str(shown)) * 10**45), 10**45)


UNDECIDED = (ArithmeticError, NotImplementedError, TypeError, ValueError)
"""What sympy raises on objects that do not go together (a matrix and a number in an inequality:
TypeError), on what it cannot evaluate (NotImplementedError, division by zero) or compare (the
maximum of a complex number: ValueError)."""
POINTS = (("0.37", "0.0611"), ("-1.43", "0.0917"))
"""Where formulas are evaluated to be told apart: of the first letter, and from letter to letter."""


def value_form(text: str) -> str | None:
    """One text for all expressions of one value: "1025" of 2^{10}+1; None where it has none.

    Rationals exactly, other constants to 30 digits, formulas by their values at two points: enough
    to count equal answers together, and no proof that they are. An equation is one up to a factor.
    """
    latex = to_latex(text)
    is_refused = len(text) > MAX_LENGTH or _REFUSED.search(latex) or _is_giant(latex)
    capitals = set(filter(str.isupper, re.sub(r"\\[A-Za-z]+", "", latex)))
    value = None if is_refused else read(_apart(latex, capitals))
    try:
        return None if value is None else _form_of(value)
    except UNDECIDED:
        return None


def _form_of(value: Any) -> str | None:
    import sympy

    if isinstance(value, sympy.MatrixBase):
        forms = [_form_of(part) for part in value]
        return None if None in forms else f"{value.shape} {forms}"
    if isinstance(value, sympy.Eq):
        return _form_of_equation(_gap(value))
    if not isinstance(value, sympy.Expr):
        return None
    value = value.doit()
    if value.has(sympy.nan, sympy.zoo):
        return None
    if value.is_Rational:
        return str(Fraction(int(value.p), int(value.q)))
    names = sorted(map(str, value.free_symbols))
    shown = [_shown(_at(value, point)) for point in POINTS[: 2 if names else 1]]
    return None if None in shown else " ".join([*names, *map(str, shown)])


def _form_of_equation(difference: Any) -> str | None:
    """By the ratios of its values at the points to that at a third."""
    names = sorted(map(str, difference.free_symbols))
    scale = _at(difference, ("0.713", "0.0391"))
    shown = [_shown(_at(difference, point) / scale) for point in POINTS]
    return None if None in shown or not names else " ".join(["0 =", *names, *map(str, shown)])


def _at(value: Any, point: tuple[str, str]) -> Any:
    import sympy

    start, step = (sympy.Float(number, 60) for number in point)
    symbols = sorted(value.free_symbols, key=str)
    return sympy.N(value, 60, subs={symbol: start + step * n for n, symbol in enumerate(symbols)})


def _shown(value: Any) -> str | None:
    """A real or complex number to 30 digits."""
    import sympy

    parts = value.as_real_imag()
    if not all(part.is_Float or part.is_Rational for part in parts):
        return None
    real, imaginary = (str(sympy.Float(part, 30)) if abs(part) > 1e-30 else "" for part in parts)
    return f"{real}+{imaginary}i" if imaginary else real or "0"


def _is_rounding(decimal: str, value: Any) -> bool:
    """Whether a plain decimal is a real constant rounded, or cut, at its last digit."""
    import sympy

    if not _DECIMAL.fullmatch(decimal) or not isinstance(value, sympy.Expr):
        return False
    unit = _rational(Fraction(1, 10 ** len(decimal.partition(".")[2])))
    exact, shown = sympy.N(value.doit(), 60), _rational(Fraction(decimal))
    if not exact.is_real:
        return False
    is_cut = exact * shown >= 0 and abs(shown) <= abs(exact) < abs(shown) + unit
    return bool(abs(exact - shown) <= unit / 2 or is_cut)


def to_latex(text: str) -> str:
    """Plain notation as LaTeX: pi, sqrt(2), √2, 2*x, x**2, ^(1/2); decimals become fractions."""
    for letter, latex in _LETTERS.items():
        text = text.replace(letter, latex)
    text = re.sub(r"\\log\s?_\s?(?:e|\{e\})(?![A-Za-z])", r"\\ln ", text)
    text = text.replace("**", "^").replace("*", r"\cdot ")
    text = re.sub(r"(?<![\\A-Za-z])sqrt(?=\s*[({\d])", r"\\sqrt", text)
    names = "|".join(_FUNCTIONS.split())
    text = re.sub(rf"(?<![\\A-Za-z])({names}|pi|infty)(?![A-Za-z])", r"\\\1 ", text)
    text = re.sub(r"(?<![\\A-Za-z])(?:infinity|inf|oo)(?![A-Za-z])", r"\\infty ", text)
    for _ in range(MAX_DEPTH):
        text = _brace_once(text)
    text = re.sub(r"\\sqrt\s*(\d+|[A-Za-z])(?![\d}])", r"\\sqrt{\1}", text)
    return re.sub(r"(?<![\d.])(\d{0,30})\.(\d{1,30})(?![\d.])", _fraction, text)


def _brace_once(text: str) -> str:
    """The first \\sqrt( or ^( with its matching bracket turned into braces."""
    match = _BRACED.search(text)
    if match is None:
        return text
    depth = 0
    for position in range(match.end() - 1, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if depth == 0:
            inner = text[match.end() : position]
            return f"{text[: match.start()]}{match.group(1)}{{{inner}}}{text[position + 1 :]}"
    return text


def _fraction(match: re.Match[str]) -> str:
    integer, decimals = match.groups()
    return f"\\frac{{{int(integer + decimals)}}}{{{10 ** len(decimals)}}}"


def _is_giant(latex: str) -> bool:
    """Whether evaluating the text could make integers too long to work with.

    A bound of the digits: those of all literals (of n! about 4 n for n of four digits), multiplied
    by every exponent but a variable's, since powers may stand inside of powers. Roots factor their
    integers, so they get fewer.
    """
    raised = 1
    for exponent in _EXPONENT.findall(latex):
        for number, factorial in _LITERAL.findall(exponent):
            raised *= max(1, math.factorial(min(int(number), 20)) if factorial else int(number))
    literals = _LITERAL.findall(_EXPONENT.sub("", latex))
    digits = sum(4 * int(number) if factorial else len(number) for number, factorial in literals)
    has_root = "sqrt" in latex or any("/" in e or "frac" in e for e in _EXPONENT.findall(latex))
    return digits * raised > (MAX_DIGITS_IN_ROOTS if has_root else MAX_DIGITS)


def _in_case_of(expected: str, latex: str, question: str) -> str:
    """The candidate with its letters in the reference's case where that is its own habit alone.

    That takes a question, and two letters or more that it does not have as symbols of their own; a
    letter in both cases on one side stays as it is. The constant of an integral may be C or c.
    """
    wanted, given = (set(re.sub(r"\\[A-Za-z]+", "", text)) for text in (expected, latex))
    symbols = set(re.findall(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])", question))
    renamed = {
        letter: letter.swapcase()
        for letter in given - wanted
        if letter.isalpha() and letter.swapcase() in wanted - given
        if letter in "cC" or (question and letter not in symbols)
    }
    if latex.strip() in renamed or (len(renamed) < 2 and not {"c", "C"} & set(renamed)):
        return latex
    return re.sub(
        r"\\[A-Za-z]+|[A-Za-z]", lambda match: renamed.get(match.group(), match.group()), latex
    )


def _in_both_cases(latex: str) -> set[str]:
    """Capital letters that stand beside their small ones; the reader takes both for one."""
    letters = set(re.sub(r"\\[A-Za-z]+", "", latex))
    return {letter for letter in letters if letter.isupper() and letter.lower() in letters}


def _apart(latex: str, capitals: set[str]) -> str:
    return re.sub(
        r"\\[A-Za-z]+|[A-Za-z](?!_)",
        lambda match: f"{match.group()}_{{77}}" if match.group() in capitals else match.group(),
        latex,
    )


def _letters_of_other_case(expected: str, latex: str) -> bool:
    """Whether a variable is written X where the reference has x; the reader takes both for x."""
    reference_letters, given = (set(re.sub(r"\\[A-Za-z]+", "", text)) for text in (expected, latex))
    return any(letter.swapcase() in reference_letters for letter in given - reference_letters)


@lru_cache(maxsize=512)
def read(latex: str) -> Any:
    """A sympy object for a whole LaTeX text, or None if it is refused or cannot be read."""
    if not latex or len(latex) > MAX_LENGTH or not _ALPHABET.fullmatch(latex):
        return None
    if _depth(latex) > MAX_DEPTH:
        return None
    from latex2sympy2_extended.latex2sympy2 import latex2sympy, normalize_latex
    from math_verify.parser import LatexExtractionConfig

    try:
        # Its table of units would cut "7 h 3" and "7 e x" down to 7.
        settings = replace(LatexExtractionConfig().normalization_config, units=False)
        normal = normalize_latex(latex, config=settings)
        value = latex2sympy(normal, is_real=True, convert_degrees=False, normalization_config=None)
        return _with_imaginary_unit(value)
    # The grammar's generated parser and sympy's constructors raise many unrelated types on text
    # that is no mathematics; none of them says more than "cannot be read".
    except Exception:
        return None


def _with_imaginary_unit(value: Any) -> Any:
    """The reader takes a bare i for a variable."""
    import sympy

    if not isinstance(value, sympy.Expr):
        return value
    return value.subs({letter: sympy.I for letter in value.free_symbols if str(letter) == "i"})


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest


def _same(right: Any, value: Any) -> bool:
    import sympy

    try:
        if isinstance(right, sympy.MatrixBase) or isinstance(value, sympy.MatrixBase):
            return _same_matrix(right, value)
        if isinstance(right, sympy.core.relational.Relational):
            return _same_relation(right, value)
        if not isinstance(right, sympy.Expr) or not isinstance(value, sympy.Expr):
            return bool(right == value)
        return _same_value(right, value)
    # Equality that is not proven is not equal.
    except UNDECIDED:
        return False


def _same_value(right: Any, value: Any) -> bool:
    """Proven equality: rationals exactly, other constants by 50 digits and then symbolically."""
    import sympy

    right, value = right.doit(), value.doit()
    if any(side.has(sympy.nan, sympy.zoo) for side in (right, value)):
        return False
    if right.free_symbols != value.free_symbols:
        return False
    if right == value:
        return True
    if right.is_Rational and value.is_Rational:
        return False
    difference = right - value
    if difference.free_symbols:
        if _differs_at_points(right, value):
            return False
    else:
        scale = max(abs(sympy.N(right, 60)), abs(sympy.N(value, 60)))
        if not abs(sympy.N(difference, 60)) <= scale * sympy.Float("1e-50", 60):
            return False
    if sympy.expand(difference) == 0 or sympy.expand(difference.rewrite(sympy.exp)) == 0:
        return True
    if sympy.simplify(difference) == 0 or difference.equals(0) is True:
        return True
    return bool(sympy.simplify(_factored(right) - _factored(value)) == 0)


def _factored(value: Any) -> Any:
    """With square roots of factored terms of real variables, so that sqrt((x+1)^2) is |x+1|."""
    import sympy

    real = {symbol: sympy.Symbol(symbol.name, real=True) for symbol in value.free_symbols}
    return value.subs(real).replace(
        lambda part: part.is_Pow and part.exp == sympy.S.Half,
        lambda part: sympy.sqrt(sympy.factor(part.base)),
    )


def _differs_at_points(right: Any, value: Any) -> bool:
    """Whether two expressions differ at two points: shown in no time where simplifying takes long.

    Between 0 and 1, with 40 digits; a point where either has no value shows nothing.
    """
    import sympy

    names = sorted(right.free_symbols, key=lambda symbol: symbol.name)
    for shift in (17, 39):
        point = {
            name: sympy.Float(f"0.{shift + 11 * index:03d}7", 40)
            for index, name in enumerate(names)
        }
        a, b = (side.evalf(40, subs=point) for side in (right, value))
        if not a.is_number or not b.is_number or not (a.is_finite and b.is_finite):
            return False
        if abs(a - b) <= sympy.Float("1e-20", 40) * (1 + abs(a) + abs(b)):
            return False
    return True


def _same_matrix(right: Any, value: Any) -> bool:
    if getattr(right, "shape", None) != getattr(value, "shape", ()):
        return False
    return all(_same_value(a, b) for a, b in zip(right, value, strict=True))


def _same_relation(right: Any, value: Any) -> bool:
    """Equations up to a constant factor; inequalities in the same direction, either way round."""
    import sympy

    if not isinstance(value, sympy.core.relational.Relational):
        return False
    if isinstance(right, sympy.Eq) and isinstance(value, sympy.Eq):
        ratio = sympy.simplify(_gap(right) / _gap(value))
        return bool(ratio.is_number and ratio.is_finite and ratio != 0)
    right, value = right.canonical, value.canonical
    return type(right) is type(value) and _same_value(_gap(right), _gap(value))


def _gap(relation: Any) -> Any:
    return relation.lhs - relation.rhs
