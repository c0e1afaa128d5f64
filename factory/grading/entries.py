"""Reasoning-gym entries as JSON and back, without losing what their scorers rely on."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

from factory.core.errors import DataError

_MARK = "$"


def encode(value: Any) -> Any:
    """JSON for a value: tuples, sets, non-text keys, Decimal and Fraction become marked objects.

    DataError names a type that has no such form.
    """
    if value is None or isinstance(value, bool):
        return value
    for plain in (str, int, float):
        # Subclasses (numpy's str_, float64, enums of text) compare equal to the plain value.
        if isinstance(value, plain):
            return plain(value) if type(value) is not plain else value
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith(_MARK) for key in value):
            return {str(key): encode(item) for key, item in value.items()}
        return {"$dict": [[encode(key), encode(item)] for key, item in value.items()]}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, tuple):
        return {"$tuple": [encode(item) for item in value]}
    if isinstance(value, set | frozenset):
        return {"$set": sorted((encode(item) for item in value), key=repr)}
    if isinstance(value, Decimal | Fraction):
        return {f"${type(value).__name__.lower()}": str(value)}
    if hasattr(value, "tolist"):
        return encode(value.tolist())
    raise DataError(f"an entry holds a {type(value).__name__}, which has no JSON form")


def decode(value: Any) -> Any:
    """The value that `encode` was given; DataError for a mark it does not know."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1 and next(iter(value)).startswith(_MARK):
        mark, content = next(iter(value.items()))
        try:
            return _DECODERS[mark](content)
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise DataError(f"a stored entry holds a broken {mark!r} value") from error
    return {key: decode(item) for key, item in value.items()}


_DECODERS = {
    "$dict": lambda pairs: {decode(key): decode(item) for key, item in pairs},
    "$tuple": lambda items: tuple(decode(item) for item in items),
    "$set": lambda items: {decode(item) for item in items},
    "$decimal": Decimal,
    "$fraction": Fraction,
}
