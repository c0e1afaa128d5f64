"""Sets of real numbers: intervals, inequalities, unions and set-builders, as one canonical form."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

Value = Callable[[str], Fraction | None]
"""The value of an end point, exact or to 45 digits; None where it has none here."""
Key = Fraction | float
Cut = tuple[Key, int]
"""Where a piece begins or ends: just before a number (0) or just behind it (1)."""
Spans = tuple[tuple[Cut, Cut], ...]

_LEAST, _MOST = (-math.inf, 1), (math.inf, 0)
REALS: Spans = ((_LEAST, _MOST),)
_VARIABLE = r"\\?[A-Za-z]+(?:_\{?\w+\}?)?"
_SYMBOL = re.compile(
    r"[A-Za-z](?:_\{?\w\}?)?|\\(?!pi(?![a-z])|infty|sqrt|frac|in(?![a-z])|le(?![a-z])|ge|ne)[a-z]+"
)
_NAME = re.compile(rf"{_VARIABLE}(?:\([A-Za-z]\))?\s?=\s*(?=[\[({{\\]|\\mathbb)")
_MEMBER = re.compile(rf"({_VARIABLE})\s?\\in(?![a-z])\s*")
_BUILDER = re.compile(
    rf"\\?\{{\s*({_VARIABLE})\s*(?:\\in\s*(?:\\mathbb\{{R\}}|R))?\s*(?:\\?\||:|,)\s*(.+?)\s*\\?\}}",
    re.DOTALL,
)
_SIDE = re.compile(r"\s*(\\le(?![a-z])|\\ge(?![a-z])|\\ne(?![a-z])|<|>|=)\s*")
_ONE_SIDED = re.compile(r"<|>|\\[lg]e(?![a-z])")
_DISTANCE = re.compile(
    r"\s*\|\s*([A-Za-z])\s*(?:([+-])\s*([^|<>]{1,40}?))?\s*\|\s*(<|>|\\[lg]e(?![a-z]))\s*([^|<>]{1,40})"
)
_INFINITE = re.compile(r"([+-]?)\s?(?:\\infty|infinity|inf|oo)\s*")
_OPEN, _CLOSE = "([{", ")]}"
MOST_PARTS = 32


@dataclass
class RealSet:
    """A set of reals with the texts that its end points were written as."""

    spans: Spans
    texts: dict[Key, str] = field(default_factory=dict)
    names: frozenset[str] = frozenset()
    """Variables of its inequalities."""
    is_marked: bool = False
    """Nothing but a set can be meant: an inequality, a union, an infinite or half-open interval."""


def real_set(text: str, value: Value) -> RealSet | None:
    """The set that an undressed text writes down; None where it is none or an end has no value."""
    if len(text) > 300 or not any(c in text for c in "<>[](\\"):
        return None
    name = _NAME.match(text)
    body = text[name.end() :] if name else text
    reader = _Reader(value)
    spans = reader.read(body, depth=0)
    if spans is None:
        return None
    marked = reader.is_marked
    return RealSet(spans, reader.texts, frozenset(reader.names), is_marked=marked)


class _Reader:
    def __init__(self, value: Value) -> None:
        self.value = value
        self.texts: dict[Key, str] = {}
        self.names: set[str] = set()
        self.is_marked = False

    def read(self, text: str, *, depth: int) -> Spans | None:
        text = text.strip()
        if depth > 6 or not text:
            return None
        for marks, join in (
            ((r"\cup", " or ", r"\lor", " U "), union),
            ((r"\cap", " and ", r"\land"), intersection),
            ((r"\setminus",), difference),
        ):
            parts = split_at(text, marks)
            if len(parts) > 1:
                return self._joined(parts, join, depth)
        builder = _BUILDER.fullmatch(text)
        if builder:
            self.names.add(builder[1])
            self.is_marked = True
            return self.read(builder[2], depth=depth + 1)
        member = _MEMBER.match(text)
        if member:
            self.names.add(member[1])
            self.is_marked |= text[member.end() :][:1] in ("(", "[")
            return self.read(text[member.end() :], depth=depth + 1)
        unequal = split_at(text, (",",))
        if len(unequal) > 1 and any(r"\ne" in part for part in unequal):
            return self._joined(unequal, intersection, depth)
        if len(unequal) > 1 and all(_ONE_SIDED.search(part) for part in unequal):
            # "x > -1, x < 4" are both; "x < -1, x > 1", which cannot both hold, say nothing.
            return self._joined(unequal, intersection, depth) or None
        return self._atom(text, depth)

    def _joined(
        self, parts: list[str], join: Callable[[Spans, Spans], Spans], depth: int
    ) -> Spans | None:
        if len(parts) > MOST_PARTS:
            return None
        pieces = [self.read(part, depth=depth + 1) for part in parts]
        total = pieces[0]
        for piece in pieces[1:]:
            if total is None or piece is None:
                return None
            total = join(total, piece)
        self.is_marked |= join is not union or any(_is_wide(piece) for piece in pieces)
        return total

    def _atom(self, text: str, depth: int) -> Spans | None:
        if text == r"\emptyset":
            self.is_marked = True
            return ()
        if text == r"\mathbb{R}":
            self.is_marked = True
            return REALS
        if text[:1] in "([" and text[-1:] in ")]" and _closes_last(text):
            return self._interval(text)
        if text[:1] == "(" and _closes_last(text):
            return self.read(text[1:-1], depth=depth + 1)
        braces = text.replace("\\{", "{").replace("\\}", "}")
        if braces[:1] == "{" and braces[-1:] == "}" and _closes_last(braces):
            return self._points(split_at(braces[1:-1], (",",)))
        return self._inequality(text)

    def _interval(self, text: str) -> Spans | None:
        ends = split_at(text[1:-1], (",",))
        if len(ends) != 2:
            is_group = len(ends) == 1 and text[0] == "(" and text[-1] == ")"
            return self.read(text[1:-1], depth=5) if is_group else None
        low, high = (self._key(end) for end in ends)
        if low is None or high is None:
            return None
        if (text[0] == "[") != (text[-1] == "]") or math.inf in (abs(low), abs(high)):
            self.is_marked = True
        start, end = (low, int(text[0] == "(")), (high, int(text[-1] == "]"))
        return ((start, end),) if start < end else None

    def _points(self, items: list[str]) -> Spans | None:
        if len(items) > MOST_PARTS:
            return None
        total: Spans = ()
        for key in map(self._key, items):
            if key is None:
                return None
            total = union(total, (((key, 0), (key, 1)),))
        return total

    def _distance(self, text: str) -> Spans | None:
        """Of "|x - a| < b"; None for any other text."""
        match = _DISTANCE.fullmatch(text)
        if match is None:
            return None
        name, sign, middle, relation, radius = match.groups()
        at = Fraction(0) if middle is None else self.value(middle.strip())
        wide = self.value(radius.strip())
        if at is None or wide is None or wide <= 0:
            return None
        at = -at if sign == "+" else at
        self.names.add(name)
        self.is_marked = True
        is_closed = relation in (r"\le", r"\ge")
        inside: Spans = (((at - wide, int(not is_closed)), (at + wide, int(is_closed))),)
        if relation in ("<", r"\le"):
            return inside
        return difference(REALS, (((at - wide, int(is_closed)), (at + wide, int(not is_closed))),))

    def _inequality(self, text: str) -> Spans | None:
        distance = self._distance(text)
        if distance is not None:
            return distance
        parts = _SIDE.split(text)
        sides, signs = parts[::2], parts[1::2]
        named = [n for n, side in enumerate(sides) if _SYMBOL.fullmatch(side.strip())]
        if not signs or len(signs) > 2 or len(named) != 1:
            return None
        at = named[0]
        if len(signs) == 2 and at != 1:
            return None
        self.names.add(sides[at].strip())
        total = REALS
        for number, sign in enumerate(signs):
            other = sides[number] if number < at else sides[number + 1]
            key = self._key(other)
            if key is None or (sign in ("=", r"\ne") and len(signs) > 1):
                return None
            total = intersection(total, _ray(key, sign, is_flipped=number < at))
        self.is_marked |= signs != ["="]
        return total

    def _key(self, text: str) -> Key | None:
        infinite = _INFINITE.fullmatch(text.strip())
        if infinite:
            return -math.inf if infinite[1] == "-" else math.inf
        key = self.value(text.strip())
        if key is not None:
            self.texts[key] = text.strip()
        return key


def _ray(key: Key, sign: str, *, is_flipped: bool) -> Spans:
    if sign in ("=", r"\ne"):
        point: Spans = (((key, 0), (key, 1)),)
        return point if sign == "=" else difference(REALS, point)
    is_less = sign in ("<", r"\le")
    is_closed = sign in (r"\le", r"\ge")
    if is_less != is_flipped:
        return ((_LEAST, (key, int(is_closed))),)
    return (((key, int(not is_closed)), _MOST),)


def _is_wide(spans: Spans | None) -> bool:
    """Whether a piece is more than points."""
    return any(start[0] != end[0] for start, end in spans or ())


def union(a: Spans, b: Spans) -> Spans:
    """All numbers of either."""
    merged: list[tuple[Cut, Cut]] = []
    for start, end in sorted((*a, *b)):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return tuple(merged)


def intersection(a: Spans, b: Spans) -> Spans:
    """All numbers of both."""
    pieces = [(max(s, t), min(e, f)) for s, e in a for t, f in b]
    return tuple(sorted((start, end) for start, end in pieces if start < end))


def difference(a: Spans, b: Spans) -> Spans:
    """All numbers of the first that are not of the second."""
    for start, end in b:
        cut = ((_LEAST, start), (end, _MOST))
        a = intersection(a, tuple((s, e) for s, e in cut if s < e))
    return a


def split_at(text: str, marks: tuple[str, ...]) -> list[str]:
    """Parts between any of the marks outside of all brackets (intervals may mix theirs)."""
    parts, depth, begin, position = [], 0, 0, 0
    while position < len(text):
        character = text[position]
        depth += (character in _OPEN) - (character in _CLOSE)
        mark = next((m for m in marks if depth == 0 and text.startswith(m, position)), None)
        if mark is not None and not (
            mark[0] == "\\" and text[position + len(mark) :][:1].isalpha()
        ):
            parts.append(text[begin:position].strip())
            begin = position = position + len(mark)
            continue
        position += 1
    return [*parts, text[begin:].strip()]


def _closes_last(text: str) -> bool:
    depth = 0
    for position, character in enumerate(text):
        depth += (character in _OPEN) - (character in _CLOSE)
        if depth == 0:
            return position == len(text) - 1
    return False
