"""Python values as JSON and back, for what crosses a sandbox's border: plain types only.

Also runs inside the sandbox, so it imports nothing but the standard library. A value of a subclass
(`Counter`, a named tuple, an enum) crosses as its base type, read by that type's own methods: an
`__eq__` or a `__repr__` that it brings never decides.
"""

import json
import math
from collections import Counter, deque
from collections.abc import Callable
from fractions import Fraction
from typing import Any

MARK = "$"
DEPTH = 200
ALIKE = 64
"""Most members of a set, or keys of a dict, that may have one hash: each is compared with all of
its kind, so that a line made of nothing else would take quadratic time."""


class NotPlainError(ValueError):
    """The value is none of the plain types, or nested too deeply."""


def dump(value: Any) -> str:
    """The value as one line of JSON; NotPlainError names what has no such form."""
    return json.dumps(_encode(value, 0), allow_nan=False)


def load(text: str) -> Any:
    """The value that `dump` was given, in time linear in the text; ValueError for any other text.

    Nothing else is raised, whatever the text says: nested more than DEPTH deep, numbers that no
    float can hold, more than ALIKE members of one hash.
    """
    try:
        return _decode(json.loads(text), 0)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError) as error:
        raise ValueError(f"not a plain value: {error}") from None


def _encode(value: Any, depth: int) -> Any:
    if depth > DEPTH:
        raise NotPlainError(f"nested more than {DEPTH} deep")
    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        # JSON has no limit, but Python refuses to read more than 4300 digits.
        return value if -(10**18) < value < 10**18 else {MARK: "int", "v": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {MARK: "float", "v": repr(value)}
    if kind is list:
        return [_encode(item, depth + 1) for item in value]
    if kind in (tuple, set, frozenset, deque):
        return {MARK: kind.__name__, "v": [_encode(item, depth + 1) for item in value]}
    if kind is dict:
        pairs = [[_encode(k, depth + 1), _encode(v, depth + 1)] for k, v in value.items()]
        return {MARK: "dict", "v": pairs}
    return _encode_rarer(value, kind, depth)


def _encode_rarer(value: Any, kind: type, depth: int) -> Any:
    if kind is complex:
        return {MARK: "complex", "v": [_encode(value.real, 0), _encode(value.imag, 0)]}
    if kind is bytes:
        return {MARK: "bytes", "v": value.hex()}
    if kind is range:
        return {MARK: "range", "v": [_encode(n, 0) for n in (value.start, value.stop, value.step)]}
    if kind is Fraction:
        return {MARK: "Fraction", "v": [_encode(value.numerator, 0), _encode(value.denominator, 0)]}
    base = _based(value, kind)
    if base is value:
        raise NotPlainError(f"a {kind.__name__} is no plain value")
    return _encode(base, depth + 1)


BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, int.__int__),
    (float, float.__float__),
    (str, str.__str__),
    (bytes, lambda value: bytes.join(b"", [value])),
    (dict, lambda value: dict(dict.items(value))),
    (list, lambda value: list(list.__iter__(value))),
    (tuple, lambda value: tuple(tuple.__iter__(value))),
    (set, lambda value: set(set.__iter__(value))),
    (frozenset, lambda value: frozenset(frozenset.__iter__(value))),
    (deque, lambda value: deque(deque.__iter__(value))),
)


def _based(value: Any, kind: type) -> Any:
    """The value as the plain type that it is a subclass of; itself where it is of none."""
    for base, convert in BASES:
        if base in kind.__mro__:
            return convert(value)
    if any(parent.__module__ == "enum" and parent.__name__ == "Enum" for parent in kind.__mro__):
        return value._value_
    if kind.__module__ == "numpy" and hasattr(kind, "tolist"):
        return kind.tolist(value)
    return value


def _decode(value: Any, depth: int) -> Any:
    if depth > DEPTH:
        raise ValueError(f"nested more than {DEPTH} deep")
    if isinstance(value, list):
        return [_decode(item, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    kind, content = value[MARK], value["v"]
    if kind in SCALARS:
        return SCALARS[kind](content)
    if kind == "complex":
        real, imaginary = (_decode(part, DEPTH) for part in content)
        return complex(real, imaginary)
    if kind in ("range", "Fraction"):
        parts = [_decode(part, DEPTH) for part in content]
        return range(*parts) if kind == "range" else Fraction(*parts)
    if kind == "dict":
        pairs = [(_decode(key, depth + 1), _decode(item, depth + 1)) for key, item in content]
        _check_hashes([key for key, _ in pairs])
        return dict(pairs)
    items = [_decode(item, depth + 1) for item in content]
    if kind not in ("tuple", "deque"):
        _check_hashes(items)
    return COLLECTIONS[kind](items)


SCALARS: dict[str, Callable[[Any], Any]] = {
    "int": lambda content: int(content, 16),
    "float": float,
    "bytes": bytes.fromhex,
}
COLLECTIONS: dict[str, Callable[[Any], Any]] = {
    "tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque,
}  # fmt: skip


def _check_hashes(items: list[Any]) -> None:
    counts = Counter(map(hash, items))
    if counts and max(counts.values()) > ALIKE:
        raise ValueError(f"more than {ALIKE} members of one hash")
