"""Python values as JSON and back, for what crosses a sandbox's border: plain types only.

Also runs inside the sandbox, so it imports nothing but the standard library. `type(...) is`, never
isinstance: a subclass could bring an `__eq__` or a `__repr__` of its own, and is not plain.
"""

import json
import math
from typing import Any

MARK = "$"
DEPTH = 200


class NotPlainError(Exception):
    """The value is none of the plain types, or nested too deeply."""


def dump(value: Any) -> str:
    """The value as one line of JSON; NotPlainError names what has no such form."""
    return json.dumps(_encode(value, 0), allow_nan=False)


def load(text: str) -> Any:
    """The value that `dump` was given; ValueError for text that is no such line."""
    try:
        return _decode(json.loads(text))
    except (KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
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
    if kind is complex:
        return {MARK: "complex", "v": [_encode(value.real, 0), _encode(value.imag, 0)]}
    if kind is bytes:
        return {MARK: "bytes", "v": value.hex()}
    if kind is list:
        return [_encode(item, depth + 1) for item in value]
    if kind in (tuple, set, frozenset):
        return {MARK: kind.__name__, "v": [_encode(item, depth + 1) for item in value]}
    if kind is dict:
        pairs = [[_encode(k, depth + 1), _encode(v, depth + 1)] for k, v in value.items()]
        return {MARK: "dict", "v": pairs}
    raise NotPlainError(f"a {kind.__name__} is no plain value")


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind, content = value[MARK], value["v"]
    readers = {
        "int": lambda: int(content, 16),
        "float": lambda: float(content),
        "complex": lambda: complex(_decode(content[0]), _decode(content[1])),
        "bytes": lambda: bytes.fromhex(content),
        "tuple": lambda: tuple(_decode(item) for item in content),
        "set": lambda: {_decode(item) for item in content},
        "frozenset": lambda: frozenset(_decode(item) for item in content),
        "dict": lambda: {_decode(key): _decode(item) for key, item in content},
    }
    return readers[kind]()
