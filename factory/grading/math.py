"""Mathematical answers: what can be decided without evaluating an expression, and how.

Numbers are compared exactly, as fractions; lists, chains of equalities and boxes by their parts.
Only what remains, one expression against one, goes to math-verify's LaTeX reader and sympy
(`expressions.py`), in a process that can be killed.
"""

import re
from collections.abc import Callable, Iterable
from fractions import Fraction

from factory.core.errors import DataError
from factory.core.records import Problem, Verdict
from factory.grading.dress import HEDGES, undress
from factory.grading.exact import fold_text, says
from factory.grading.expressions import NEARLY
from factory.grading.numbers import plain_number
from factory.grading.parts import (
    MAX_PARTS,
    as_intervals,
    bare,
    elements,
    expanded,
    is_quantity,
    is_words,
    named_values,
    reading,
    tight,
    without_group,
    without_name,
    without_signs,
)
from factory.grading.sets import RealSet, Value, real_set
from factory.grading.units import contradict, spelled_alike, split_unit
from factory.grading.votes import has_value, with_value
from factory.text.chat import boxes

_INDEX = re.compile(r"_?\{?\d{1,2}\}?$")
Leaf = Callable[[str, str], bool | None]
"""Whether an expression (second) equals the reference (first); None: not decided here."""

_SEVERAL = re.compile(r"\b(?:or|either|maybe|perhaps|not|else|possibly)\b|\\(?:pm|mp|lor|vee)\b|±")
_BASE = re.compile(r"\d\s?_|[\dA-F]\s?_\s?\{?16")
_IN_BASE = re.compile(r"(\w{1,200}?)(?:\s?_\s?\{?\s?(\d{1,3})\s?\}?)?")
_LESS = r"\s*(<|\\le(?![a-z]))\s*"
_NEARLY = re.compile(r"\\approx(?![a-z])")
_INDIAN = re.compile(r"-?\d{1,2}(?:,\d{2})+,\d{3}(?:\.\d+)?(?: .*)?")
"""25,00,000: where one number is asked for, groups of two."""
_DECIMAL = re.compile(r"-?\d*\.\d+")
_JOINED = re.compile(
    r"(?:[\s,;.$]|\\[()\[\],;: ]|\b(?:and|or|is|answers?|are|the|[a-z]_?\d?\s?=)(?![a-z]))*",
    re.IGNORECASE,
)
_OPTION = re.compile(r"(?:\(([A-H])\)|([A-H])[.):])\s*(?=[\d$\\.(]|-\s?\d)")
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
                decided = same_expression(reference, candidate, problem.prompt)
            except UnreadableError:
                unread.append(reference)
                decided = fold_text(reference) == fold_text(candidate)
        return decided

    verdict = _decide(problem, answer, leaf)
    verdict = verdict and with_value(verdict)
    if verdict is None or not unread:
        return verdict
    return verdict.model_copy(update={"explanation": f"{verdict.explanation}: {AS_TEXT}"})


def grade_math_plainly(problem: Problem, answer: str) -> Verdict | None:
    """The same verdict where numbers and text decide it, else None; nothing is evaluated."""
    verdict = _decide(problem, answer, same_number)
    return None if verdict is None or has_value(verdict) else verdict


def _decide(problem: Problem, answer: str, leaf: Leaf) -> Verdict | None:
    reference = read_reference(problem.reference)
    if not reference:
        raise DataError(f"problem {problem.id}: an empty reference cannot be graded")
    contents = boxes(answer)
    if contents is None:
        return Verdict(outcome="wrong", answer=answer, explanation="a box that is never closed")
    candidates = list(dict.fromkeys(undress(content, in_box=True) for content in contents))
    candidates = candidates or [undress(answer)]
    is_text = problem.data.get(COMPARED_AS) == "text" or is_words(reference)
    compare = _same_text if is_text else same_answer
    equal = _all(compare(reference, _without_option(reference, c), leaf) for c in candidates)
    candidate = candidates[0]
    if equal is False and len(candidates) > 1:
        candidate = ", ".join(candidates)
        is_list = _JOINED.fullmatch(_outside_boxes(answer, contents)) is not None
        equal = is_list and compare(reference, candidate, leaf)
    if equal is None:
        return None
    explanation = "equal to the reference" if equal else "not equal to the reference"
    if not equal and len(candidates) > 1:
        explanation = "several different boxes"
    return Verdict(
        outcome="correct" if equal else "wrong",
        answer=candidate,
        explanation=f"{explanation}: {AS_TEXT}" if is_text else explanation,
    )


def read_reference(reference: str) -> str:
    """A reference without its box and its dress."""
    content = _box(reference)
    return undress(reference) if content is None else undress(content, in_box=True)


def _outside_boxes(answer: str, contents: list[str]) -> str:
    for content in contents:
        answer = answer.replace(f"\\boxed{{{content}}}", " ", 1)
    return answer


def _without_option(reference: str, candidate: str) -> str:
    """ "46" of "(B) 46", unless the letter may be part of the value."""
    match = _OPTION.match(candidate)
    if match is None or (match[1] or match[2]) in reference:
        return candidate
    return candidate[match.end() :]


_ARTICLE = re.compile(r"^(?:an?|the)\s+(?=\w)")
_MEANS = re.compile(r"^(?:[^\W\d_][\w'-]*\s+){1,8}(?:is|are|was)\s+")


def _same_text(reference: str, candidate: str, leaf: Leaf) -> bool:
    if tight(reference) == tight(candidate) or says(candidate, reference):
        return True
    sentence = _MEANS.match(candidate)
    if sentence and not HEDGES.search(candidate) and is_words(reference):
        candidate = candidate[sentence.end() :]
    return _same_words(reference, candidate)


def _same_words(reference: str, candidate: str) -> bool:
    return _folded(reference) == _folded(candidate)


def _folded(text: str) -> str:
    """Folded, without an article, with one spelling of a.m., of 5th and of 7 : 2."""
    text = _ARTICLE.sub("", fold_text(text))
    text = re.sub(r"(?<![a-z])([ap])\.?\s?m\.?(?![a-z])", r"\1m", text)
    text = re.sub(r"(?<=\d)(?:st|nd|rd|th)\b", "", text)
    return re.sub(r"(?<=\d)\s*(?::|\bto\b)\s*(?=\d)", ":", text)


def parts_of(reference: str) -> list[str]:
    """What a reference is read as, part by part: the elements of a list, else itself."""
    text = read_reference(reference)
    listed = None if is_words(text) or plain_number(text) is not None else elements(text)
    if listed is None:
        return [text]
    return [part for item in listed[1] for part in parts_of(item)]


def _box(text: str) -> str | None:
    contents = boxes(text)
    return contents[0] if contents else None


def same_answer(reference: str, candidate: str, leaf: Leaf) -> bool | None:
    """Whether a whole answer equals the reference, part by part; None if `leaf` cannot tell.

    Every side of "a = b = c" must be right but a leading name, and in "a \\approx 1.41" a must be
    right and 1.41 its rounding. A list answers a list: in order inside ( ) or [ ], in any order
    otherwise; different names fix the order. Sets of reals are compared as sets. An answer that
    offers a choice ("41 or 42", "±2") is wrong unless the reference is a list.
    """
    if tight(reference) == tight(candidate):
        return True
    if not candidate:
        return False
    has_base = _BASE.search(reference) or _BASE.search(candidate)
    if has_base and elements(reference) is None:
        return _same_in_base(reference, candidate)
    reference, candidate = spelled_alike(reference, candidate), spelled_alike(candidate, reference)
    number = reading(reference)
    if number is not None and _INDIAN.fullmatch(candidate):
        candidate = candidate.replace(",", "")
    if number is not None and reading(candidate) is not None:
        is_other = contradict(split_unit(reference)[1], split_unit(candidate)[1])
        return False if is_other else leaf(reference, candidate)
    as_sets = _same_sets(reference, candidate, leaf)
    if as_sets is not None:
        return as_sets[0]
    if is_words(reference) or ":" in reference or ":" in candidate:
        return _same_words(reference, candidate)
    reference, candidate = bare(without_signs(reference)), bare(candidate)
    as_named = _same_named(reference, without_signs(candidate), leaf)
    if as_named is not None:
        return as_named[0]
    reference, candidate = as_intervals(reference, candidate)
    expected = None if number is not None else elements(reference)  # 1,234 is no list
    if expected is not None:
        given = elements(without_signs(candidate))
        return _same_list(expanded(expected), given and expanded(given), leaf)
    if _SEVERAL.search(candidate) and not _SEVERAL.search(reference):
        return False
    if plain_number(candidate) is None:  # the commas of 1,234 make no list
        candidate = without_group(candidate)
        if elements(candidate) is not None:
            return False
    return _same_chain(reference, candidate, leaf)


def _value_by(leaf: Leaf) -> Value:
    """How end points are read: as plain numbers, or also by sympy where expressions may be."""
    if leaf is same_number:
        return plain_number
    from factory.grading.expressions import real_value

    return lambda text: plain_number(text) or real_value(text)


Decided = tuple[bool | None] | None
"""What a way to compare says, if it applies: None where it does not."""


def _same_sets(reference: str, candidate: str, leaf: Leaf) -> Decided:
    """Whether two sets of reals are equal, where both sides are one and one of them must be."""
    if not any(mark in text for text in (reference, candidate) for mark in _SET_MARKS):
        return None
    value = _value_by(leaf)
    expected, given = real_set(reference, value), real_set(candidate, value)
    if expected is None or given is None:
        is_open = leaf is same_number and _may_be_sets(reference, candidate)
        return (None,) if is_open else None
    if not (expected.is_marked or given.is_marked):
        return None
    if expected.names and given.names and expected.names != given.names:
        return (False,)
    if expected.spans != given.spans:
        return (False,)
    return (_all(leaf(*texts) for texts in _paired(expected, given)),)


_SET_MARKS = (
    "<",
    ">",
    r"\le",
    r"\ge",
    r"\ne",
    r"\in",
    r"\cup",
    r"\cap",
    "[",
    r"\mathbb",
    r"\set",
    r"\empty",
)


def _may_be_sets(reference: str, candidate: str) -> bool:
    """Whether both would be sets if all their end points had values."""
    return all(real_set(text, _any_value) is not None for text in (reference, candidate))


def _any_value(text: str) -> Fraction | None:
    return Fraction(hash(text))


def _paired(expected: RealSet, given: RealSet) -> list[tuple[str, str]]:
    keys = [key for key in expected.texts if key in given.texts]
    pairs = [(expected.texts[key], given.texts[key]) for key in keys]
    return [(a, b) for a, b in pairs if a != b]


def _same_named(reference: str, candidate: str, leaf: Leaf) -> Decided:
    """Values by different names, which fix their order: "x = 4, y = -1" is (4, -1)."""
    expected, given = named_values(reference), named_values(candidate)
    named = given if expected is None else expected
    listed = elements(reference if expected is None else candidate)
    if named and len(named) > 1 and (expected is None) != (given is None):
        # x_1 = 1, x_2 = 2 number the values of one name: they have no order.
        is_numbered = len({_INDEX.sub("", name) for name in named}) == 1
        if is_numbered and listed and listed[0] in ("", "{}"):
            values = ("", [*named.values()])
            both = (listed, values) if expected is None else (values, listed)
            return (_same_list(*both, leaf),)
    if expected is not None and given is not None:
        if expected.keys() != given.keys():
            return (False,)
        return (_all(same_answer(value, given[name], leaf) for name, value in expected.items()),)
    named = given if expected is None else expected
    if named is None:
        return None
    brackets, items = elements(reference if expected is None else candidate) or ("{}", [])
    values = [named[name] for name in sorted(named)]
    if brackets not in ("", "()") or len(values) != len(items):
        return (False,)
    pairs = zip(items, values, strict=True) if expected is None else zip(values, items, strict=True)
    return (_all(same_answer(a, b, leaf) for a, b in pairs),)


def _same_in_base(reference: str, candidate: str) -> bool:
    """Whether a number of a stated base is written with the same digits and no other base."""
    right, given = _IN_BASE.fullmatch(reference), _IN_BASE.fullmatch(candidate)
    if right is None or given is None or right.group(2) is None:
        return False
    same_digits = fold_text(right.group(1)) == fold_text(given.group(1))
    return same_digits and given.group(2) in (None, right.group(2))


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
    right, unit = split_unit(reference)
    rest, *roundings = _NEARLY.split(rest)
    if not rest.strip() and len(roundings) == 1 and _DECIMAL.fullmatch(right):
        return plain_number(roundings[0]) == plain_number(right)
    sides = [split_unit(side.strip()) for side in re.split(r"(?<![<>!\\=])=(?!=)", rest)]
    if len(sides) > MAX_PARTS or not all(side for side, _ in sides):
        return False
    if any(contradict(unit, other) for _, other in sides):
        return False
    if len(sides) > 1 and is_quantity(sides[0][0]):
        sides = sides[1:]
    exact = _all(leaf(right, side) for side, _ in sides)
    if not roundings or exact is False:
        return exact
    near = (leaf(right, f"{NEARLY} {split_unit(text.strip())[0]}") for text in roundings)
    return _all([exact, *near])


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    results = list(verdicts)
    if False in results:
        return False
    return None if None in results else True
