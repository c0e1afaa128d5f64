"""Mathematical answers: what can be decided without evaluating an expression, and how.

Numbers are compared exactly, as fractions; lists, chains of equalities and boxes by their parts.
Only what remains, one expression against one, goes to math-verify's LaTeX reader and sympy
(`expressions.py`), in a process that can be killed.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from fractions import Fraction

from factory.chat import boxes
from factory.errors import DataError
from factory.grading.exact import fold_text
from factory.grading.expressions import NEARLY
from factory.grading.numbers import plain_number
from factory.records import Problem, Verdict

Leaf = Callable[[str, str], bool | None]
"""Whether an expression (second) equals the reference (first); None: not decided here."""

_MINUS = str.maketrans({"\u2212": "-", "\ufe63": "-", "\uff0d": "-"})
_SPACES = str.maketrans(dict.fromkeys("\u00a0\u2009\u202f\u2007\u200a", "\u2009"))
_SEVERAL = re.compile(r"\b(?:or|either|maybe|perhaps|not|else|possibly)\b|\\(?:pm|mp|lor|vee)\b|±")
NO_UNITS = frozenset(
    re.split(
        " ",
        "or and to not minus plus times over by divided per hundred thousand million billion "
        "trillion dozen half halves third thirds quarter quarters fifth fifths sixth sixths "
        "seventh sevenths eighth eighths ninth ninths tenth tenths hundredth hundredths "
        "thousandth thousandths millionth millionths squared cubed pi percent is are was wrong "
        "mod choose either maybe pair pairs couple score gross factorial negative below zero too "
        "double triple fold",
    )
)
"""Words after a number that change its value, so that they are no unit."""
_UNIT = re.compile(
    r"(.*\d[)}]?)\s+((?:[A-Za-z]{2,}(?:/[A-Za-z]+)?\.?\s*){1,3}"
    r"|(?:k?m|cm|mm|ft)\s?(?:/\s?(?:s|h|min)|\^\s?\{?[23]\}?|[\u00b2\u00b3]"
    r"|/\s?s\s?(?:\^\s?\{?2\}?|\u00b2)))"
)
_WRAPPED = re.compile(r"\\(?:text|mathrm|mbox|textbf|mathbf|operatorname|rm)\s?\{([^{}]*)\}")
_LETTER_UNIT = re.compile(r"(\d[)}]?)\s*\\(?:text|mathrm)\s?\{\s*[mgslLhJWNVAKCF]\s*\}$")
"""A unit of one letter, which would be a variable if it were not set upright."""
_LEAD = re.compile(
    r"(?:\*\*)?(?:so )?(?:the )?(?:final )?(?:answer|result)(?: is)?\s*:?(?:\*\*)?\s+",
    re.IGNORECASE,
)
_NAME = re.compile(r"\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\([A-Za-z]\))?")
_WORDS = re.compile(r"[^\W\d_]{3,}|[Nn]o|[^\W\d_]+(?: [^\W\d_]+)+")
_REPEATING = re.compile(r"(?<![\d.])(\d{0,30})\.(\d{0,30})\\overline\s?\{(\d{1,30})\}")
_SIGNS = re.compile(r"((?:[A-Za-z]\s?=)?)\s*(?:\\pm(?![a-z])|±)\s*([^-+=,]+)")
_BASE = re.compile(r"\d\s?_|[\dA-F]\s?_\s?\{?16")
_IN_BASE = re.compile(r"(\w{1,200}?)(?:\s?_\s?\{?\s?(\d{1,3})\s?\}?)?")
THOUSANDS = re.compile(
    r"(?<=\d)(?:\\,|\s?(?:,|\{,\})\s?\\!\s?|\{,\}|[\u2009\u202f\u00a0']|\\!)(?=\d{3}(?!\d))"
)
"""What MATH and others set between groups of three digits, besides the comma."""
_ARRAY = re.compile(
    r"[(\[]\s*\\begin\{array\}\s?\{[clr| ]*\}(.*?)\\end\{array\}\s*[)\]]", re.DOTALL
)
_VULGAR = {
    character: f"\\frac{{{top}}}{{{bottom}}}"
    for character in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
    for top, _, bottom in [unicodedata.normalize("NFKC", character).partition("\u2044")]
}
_LESS = r"\s*(<|\\leq?(?![a-z])|\u2264)\s*"
_BETWEEN = re.compile(rf"([^<>=]{{1,80}}?){_LESS}([A-Za-z]){_LESS}([^<>=]{{1,80}})")
_MEMBER = re.compile(r"[A-Za-z]\s?(?:\\in(?![a-z])|\u2208)\s*")
_TUPLE_NAME = re.compile(r"\(\s?([A-Za-z](?:\s?,\s?[A-Za-z])+)\s?\)\s?=\s*(?=\()")
_NEARLY = re.compile(r"\\(?:approx|simeq|thickapprox)(?![a-z])|\u2248")
_OPEN, _CLOSE = "([{", ")]}"
MAX_PARTS = 32
COMPARED_AS = "compared_as"
"""Key of a problem's data; "text": its reference is compared as text, as was decided when the
problem was loaded."""
AS_TEXT = "the reference is compared as text"
"""Said by the verdict on any answer to a reference that is no mathematics."""


def grade_math(problem: Problem, answer: str) -> Verdict | None:
    """The verdict on an answer, never None; DataError if the reference is empty.

    A reference, or a part of one, that cannot be read as mathematics is compared as text, and the
    explanation says so.
    """
    from factory.grading.expressions import UnreadableError, same_expression

    unread: list[str] = []

    def leaf(reference: str, candidate: str) -> bool:
        decided = same_number(reference, candidate)
        if decided is None:
            try:
                decided = same_expression(reference, candidate)
            except UnreadableError:
                unread.append(reference)
                decided = fold_text(reference) == fold_text(candidate)
        return decided

    verdict = _decide(problem, answer, leaf)
    if verdict is None or not unread:
        return verdict
    return verdict.model_copy(update={"explanation": f"{verdict.explanation}: {AS_TEXT}"})


def grade_math_plainly(problem: Problem, answer: str) -> Verdict | None:
    """The same verdict where numbers and text decide it, else None; nothing is evaluated."""
    return _decide(problem, answer, same_number)


def _decide(problem: Problem, answer: str, leaf: Leaf) -> Verdict | None:
    reference = undress(_box(problem.reference) or problem.reference)
    if not reference:
        raise DataError(f"problem {problem.id}: an empty reference cannot be graded")
    contents = boxes(answer)
    if contents is None:
        return Verdict(outcome="wrong", answer=answer, explanation="a box that is never closed")
    if len({undress(content) for content in contents}) > 1:
        return Verdict(outcome="wrong", answer=answer, explanation="several different boxes")
    candidate = undress(contents[0] if contents else answer)
    is_text = problem.data.get(COMPARED_AS) == "text" or is_words(reference)
    compare = _same_text if is_text else same_answer
    equal = compare(reference, candidate, leaf)
    if equal is None:
        return None
    explanation = "equal to the reference" if equal else "not equal to the reference"
    return Verdict(
        outcome="correct" if equal else "wrong",
        answer=candidate,
        explanation=f"{explanation}: {AS_TEXT}" if is_text else explanation,
    )


def _same_text(reference: str, candidate: str, leaf: Leaf) -> bool:
    return tight(reference) == tight(candidate) or fold_text(reference) == fold_text(candidate)


def parts_of(reference: str) -> list[str]:
    """What a reference is read as, part by part: the elements of a list, else itself."""
    text = undress(_box(reference) or reference)
    listed = None if is_words(text) or plain_number(text) is not None else elements(text)
    if listed is None:
        return [text]
    return [part for item in listed[1] for part in parts_of(item)]


def _box(text: str) -> str | None:
    contents = boxes(text)
    return contents[0] if contents else None


def undress(text: str) -> str:
    """An answer without what only dresses it: dollars, delimiters, spacing, "the answer is"."""
    text = text.translate(_MINUS).translate(_SPACES)
    text = re.sub(r"\\[()\[\]]|\\?\$|\\left(?![a-z])|\\right(?![a-z])|\\displaystyle", " ", text)
    text = THOUSANDS.sub("", text)
    text = re.sub(r"(?<!\\)\\[,;:!> ]|\\(?:quad|qquad)\b|~|\u2009", " ", text)
    text = re.sub(r"\\[dtc]frac", r"\\frac", text).replace("\\%", "%")
    text = re.sub(r"\\([lr])brace(?![a-z])", lambda m: r"\{" if m.group(1) == "l" else r"\}", text)
    text = re.sub(r"\{[bB]matrix\}", "{pmatrix}", text)
    text = _ARRAY.sub(r"\\begin{pmatrix}\1\\end{pmatrix}", text)
    text = "".join(_VULGAR.get(character, character) for character in text)
    text = re.sub(r"_\{(\w)\}", r"_\1", text)
    text = _REPEATING.sub(_fraction_of_repeating, text)
    text = re.sub(r"\\frac\s?(\d)\s?(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\^\s?\{?\\circ\}?|\\degree|°|[€£¥₹]", " ", text)
    text = _LETTER_UNIT.sub(r"\1", text)
    text = _WRAPPED.sub(r" \1 ", text)
    text = " ".join(text.split())
    if len(text) > 4 and text.startswith("**") and text.endswith("**"):
        text = text[2:-2]
    text = _LEAD.sub("", text, count=1) if _LEAD.match(text) else text
    text = text.strip().rstrip(".").strip()
    return text.removesuffix("\\\\").strip()


def _fraction_of_repeating(match: re.Match[str]) -> str:
    """0.a(b) repeating b is (ab - a) / (99..9 00..0)."""
    integer, once, again = match.groups()
    top = int(integer + once + again) - int(integer + once or "0")
    return f"\\frac{{{top}}}{{{(10 ** len(again) - 1) * 10 ** len(once)}}}"


def same_answer(reference: str, candidate: str, leaf: Leaf) -> bool | None:
    """Whether a whole answer equals the reference, part by part; None if `leaf` cannot tell.

    Every side of "a = b = c" must be right but a leading name, and in "a \\approx 1.41" a must be
    right and 1.41 its rounding. A list answers a list: in order
    inside ( ) or [ ], in any order otherwise. An answer that offers a choice ("41 or 42", "±2")
    is wrong unless the reference is a list.
    """
    if tight(reference) == tight(candidate):
        return True
    if not candidate:
        return False
    has_base = _BASE.search(reference) or _BASE.search(candidate)
    if has_base and elements(reference) is None:
        return _same_in_base(reference, candidate)
    number = reading(reference)
    if number is not None and reading(candidate) is not None:
        return leaf(reference, candidate)
    if is_words(reference) or ":" in reference or ":" in candidate:
        return fold_text(reference) == fold_text(candidate)
    reference = without_signs(reference)
    reference, candidate = _as_intervals(reference, candidate)
    expected = None if number is not None else elements(reference)  # 1,234 is no list
    if expected is not None:
        return _same_list(expected, elements(_without_tuple_name(without_signs(candidate))), leaf)
    if _SEVERAL.search(candidate) and not _SEVERAL.search(reference):
        return False
    if plain_number(candidate) is None:  # the commas of 1,234 make no list
        candidate = _without_group(candidate)
        if elements(candidate) is not None:
            return False
    return _same_chain(reference, candidate, leaf)


def _same_in_base(reference: str, candidate: str) -> bool:
    """Whether a number of a stated base is written with the same digits and no other base."""
    right, given = _IN_BASE.fullmatch(reference), _IN_BASE.fullmatch(candidate)
    if right is None or given is None or right.group(2) is None:
        return False
    same_digits = fold_text(right.group(1)) == fold_text(given.group(1))
    return same_digits and given.group(2) in (None, right.group(2))


def _as_intervals(reference: str, candidate: str) -> tuple[str, str]:
    """Both as intervals where one is written "0 <= x < 1" or "x in [0, 1)" and the other [0, 1)."""
    given = _MEMBER.sub("", candidate, count=1) if _MEMBER.match(candidate) else candidate
    if _is_interval(reference):
        return reference, interval(given)
    if _is_interval(given):
        as_interval = interval(reference)
        return (as_interval, given) if as_interval != reference else (reference, candidate)
    return reference, candidate


def _is_interval(text: str) -> bool:
    return text[:1] in ("(", "[") and text[-1:] in (")", "]") and len(_split(text[1:-1], ",")) == 2


def interval(text: str) -> str:
    """[0,1) of "0 \\le x < 1"; any other text as it is."""
    match = _BETWEEN.fullmatch(text)
    if match is None:
        return text
    low, opens, _, closes, high = match.groups()
    return f"{'(' if opens == '<' else '['}{low},{high}{')' if closes == '<' else ']'}"


def _without_tuple_name(text: str) -> str:
    """(1, 2) of "(x, y) = (1, 2)", its names in the order of the alphabet."""
    match = _TUPLE_NAME.match(text)
    names = match.group(1).replace(" ", "").split(",") if match else []
    return text[match.end() :] if match and names == sorted(set(names)) else text


def _without_group(text: str) -> str:
    """42 of "{42}": braces of LaTeX that only hold together."""
    is_group = text.startswith("{") and _closes_last(text) and "," not in text
    return text[1:-1].strip() if is_group and not text.endswith("\\}") else text


def without_signs(text: str) -> str:
    """ "a, -a" of "±a" and "x = a, x = -a" of "x = ±a", which stand for the two values."""
    return _SIGNS.sub(r"\1 \2, \1 -\2", text) if _SIGNS.fullmatch(text) else text


def tight(text: str) -> str:
    """Text without the spaces that separate nothing: "4 2" keeps its one, "( 1, 2 )" none."""
    return re.sub(r"(?<!\w)\s|\s(?!\w)", "", text)


def same_number(reference: str, candidate: str) -> bool | None:
    """Exact comparison of two plain numbers, units and percent signs aside; else None.

    "50%" equals the references 50 and 1/2, and the reference "50%" takes either: which of the
    two a question asks for is its own convention.
    """
    expected, given = reading(reference), reading(candidate)
    if expected is None or given is None:
        return None
    (right, right_percent), (value, percent) = expected, given
    if right_percent == percent:
        return right == value
    return right in (value, value / 100) if percent else value in (right, right / 100)


def reading(text: str) -> tuple[Fraction, bool] | None:
    """(exact value, has a percent sign) of a plain number with or without a unit."""
    number = plain_number(text)
    if number is not None:
        return number, False
    bare = re.sub(r"\s?(?:%|percent)$", "", text, flags=re.IGNORECASE)
    if bare != text:
        number = plain_number(bare)
        return None if number is None else (number, True)
    number = plain_number(without_unit(text))
    return None if number is None else (number, False)


def without_unit(text: str) -> str:
    """ "18 dollars" without its unit: up to three words that do not change the value."""
    match = _UNIT.fullmatch(text) if len(text) < 200 else None
    if match is None:
        return text
    words = re.split(r"[\s/.]+", match.group(2).strip().casefold())
    return text if NO_UNITS.intersection(words) else match.group(1)


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
    items = _split(inner, ",")
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


def _split(text: str, mark: str) -> list[str]:
    """Parts between marks outside of all brackets."""
    parts, depth, begin = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in _OPEN) - (character in _CLOSE)
        if depth == 0 and character == mark:
            parts.append(text[begin:position].strip())
            begin = position + 1
    return [*parts, text[begin:].strip()]


def _same_list(
    expected: tuple[str, list[str]], given: tuple[str, list[str]] | None, leaf: Leaf
) -> bool | None:
    if given is None or len(expected[1]) != len(given[1]) or len(given[1]) > MAX_PARTS:
        return False
    if expected[0] == "{}" and given[0] not in ("{}", ""):
        return False
    if expected[0][:1] in ("(", "["):
        if given[0] != expected[0]:
            return False
        pairs = zip(expected[1], given[1], strict=True)
        return _all(same_answer(right, item, leaf) for right, item in pairs)
    rest = list(given[1])
    for right in expected[1]:
        verdicts = [same_answer(right, item, leaf) for item in rest]
        if True in verdicts:
            rest.pop(verdicts.index(True))
        else:
            return None if None in verdicts else False
    return True


def _same_chain(reference: str, candidate: str, leaf: Leaf) -> bool | None:
    name, value = without_name(reference)
    given_name, rest = without_name(candidate)
    if name and given_name and name != given_name:
        return False
    if name and "=" in candidate and not given_name:
        is_same = leaf(reference, candidate)
        if is_same is not False:
            return is_same
    reference = value
    if "=" in reference:
        return leaf(reference, candidate)
    rest, *roundings = _NEARLY.split(rest)
    sides = re.split(r"(?<![<>!\\=])=(?!=)", rest)
    if len(sides) > MAX_PARTS or not all(side.strip() for side in sides):
        return False
    exact = _all(leaf(reference, without_unit(side.strip())) for side in sides)
    if not roundings or exact is False:
        return exact
    near = (leaf(reference, f"{NEARLY} {without_unit(text.strip())}") for text in roundings)
    return _all([exact, *near])


def without_name(text: str) -> tuple[str, str]:
    """("x", "5") of "x = 5"; the name is "" where the text is no such definition."""
    left, mark, right = text.partition("=")
    is_name = _NAME.fullmatch(left.strip()) and left.count("{") == left.count("}")
    if mark and is_name and right.strip() and "=" not in left:
        return left.strip(), right.strip()
    return "", text


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    results = list(verdicts)
    if False in results:
        return False
    return None if None in results else True
