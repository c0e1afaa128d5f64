"""Seeded mutations of nested values and of texts: what a careless or a hostile hand would write."""

import copy
import json
import random
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, "", "x", "\0", "\ud800", "\u202e", "a" * 5000, "..", "/dev/zero", "1e999",
    0, -1, 1, 2,
    10**12, -(10**12), 2**70, 10**400, 0.5, -0.0, 1e-300, 1e300, float("inf"), float("-inf"),
    float("nan"), [], {}, [[]], [None], {"": 1}, {"kind": "sft"}, {"type": "tiny"},
    [0.9], [1, 2, 3, 4],
)  # fmt: skip
ABSURD = (10**12, -(10**12), 2**70, 10**400, 1e300, float("inf"), float("-inf"), float("nan"))


def paths(value: Any) -> list[tuple[Any, ...]]:
    """The path of every value inside a value."""
    every: list[tuple[Any, ...]] = [()]
    values = [value]
    for path, inner in zip(every, values):  # noqa: B905  both grow
        keys = (
            list(inner)
            if isinstance(inner, dict)
            else range(len(inner))
            if isinstance(inner, list)
            else ()
        )
        every += [(*path, key) for key in keys]
        values += [inner[key] for key in keys]
    return every


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def mutated(value: Any, draw: random.Random) -> Any:
    """A copy with one to three changes, each somewhere in it."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        path = draw.choice(paths(value))
        if not path:
            continue
        parent, last = at(value, path[:-1]), path[-1]
        action = draw.randrange(6)
        if action == 0:
            del parent[last]
        elif action == 1 and isinstance(parent, dict):
            parent[draw.choice(("like", "kind", "x" * 300, last + "\n", last[:-1], "\0"))] = parent[
                last
            ]
        elif action == 2:
            parent[last] = copy.deepcopy(at(value, draw.choice(paths(value))))
        elif action == 3:
            for _ in range(draw.choice((1, 40, 400))):
                parent[last] = [parent[last]] if draw.random() < 0.5 else {"x": parent[last]}
        else:
            parent[last] = copy.deepcopy(draw.choice(VALUES))
    return value


def mutated_text(text: bytes, draw: random.Random) -> bytes:
    """A text with bytes removed, changed, doubled or put in."""
    for _ in range(draw.choice((1, 1, 2, 5))):
        start = draw.randrange(len(text) + 1)
        end = min(len(text), start + draw.choice((0, 1, 1, 10, 200)))
        piece = draw.choice(
            (b"", b"\0", b"\xff", b"\xed\xa0\x80", b"{", b"[" * 300, b": ", b"- ", b"*a", b"&a ",
             b"!!x ",
             b"\n", b"\t", b'"', b"'", b"1e999", b"NaN", b"9" * 5000, text[start:end] * 2)
        )  # fmt: skip
        text = text[:start] + piece + text[end:]
    return text


def dumped(value: Any) -> str:
    """JSON as Python writes it: NaN and Infinity too, and numbers of any length."""
    return json.dumps(value)
