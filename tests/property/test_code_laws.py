"""Laws of what a program may answer to a call: any value, and any line, gets a verdict."""

import json
import math
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from factory.core.records import Problem, Verdict
from factory.grading import code
from factory.grading.code import equal, grade_code
from factory.grading.inside import plain
from factory.grading.watching import Finished

SCALARS = (
    st.none()
    | st.booleans()
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | st.integers()
    | st.integers(1, 40_000).map(lambda bits: 1 << bits)
    | st.integers(1, 40_000).map(lambda bits: 1 - (1 << bits))
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
)
HASHABLE = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=6,
)
VALUES = st.recursive(
    HASHABLE | st.floats() | st.complex_numbers() | st.sets(HASHABLE, max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(HASHABLE, inner, max_size=3)
    ),
    max_leaves=10,
)
MARKED = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5)
    | st.integers(1, 40_000).map(lambda bits: hex(1 << bits)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["$", "v", "value", "error"]), inner, max_size=2)
        | st.builds(
            lambda kind, content: {"$": kind, "v": content},
            st.sampled_from(
                ["int", "float", "complex", "bytes", "tuple", "set", "frozenset", "dict", "no"]
            ),
            inner,
        )
    ),
    max_leaves=12,
)  # fmt: skip
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def answered(monkeypatch: pytest.MonkeyPatch, line: str, *, expected: Any, **data: Any) -> Verdict:
    """The verdict on a program whose sandbox wrote this line."""

    class Written:
        def __init__(self, *, is_isolated: bool) -> None:
            self.is_isolated = is_isolated

        def run(self, command: list[str], **_: object) -> Finished:
            output = f"{command[-1]} {line}\n".encode("utf-8", "replace")
            return Finished(status=0, stdout=output, stderr=b"", seconds=0.1)

    monkeypatch.setattr(code, "Sandbox", Written)
    calls = [{"args": [], "expected": json.loads(plain.dump(expected))}]
    requested = Problem(
        id="p", prompt="q", reference="", kind="code", source="s",
        data={"calls": calls, "entry_point": "f", **data},
    )  # fmt: skip
    verdict = grade_code(requested, "def f(): ...")
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict
    return verdict


def replied(value: Any) -> str:
    return plain.dump({"value": value})


@PATIENT
@given(value=VALUES, other=VALUES, tolerance=st.sampled_from([0.0, 1e-6]))
@example(value=10**400, other=25, tolerance=0.0)
@example(value=10**400, other=25.5, tolerance=1e-6)
@example(value=[10**9000], other=[10**9000 + 1], tolerance=0.0)
@example(value=float("inf"), other=10**400, tolerance=1e-6)
def test_every_value_gets_a_verdict_right_or_wrong(value: Any, other: Any, tolerance: float):
    with pytest.MonkeyPatch.context() as patch:
        right = answered(patch, replied(value), expected=value, tolerance=tolerance)
        assert right.outcome == "correct"
        verdict = answered(patch, replied(other), expected=value, tolerance=tolerance)
        assert verdict.outcome == (
            "correct" if equal(other, value, tolerance=tolerance) else "wrong"
        )
        message = answered(patch, plain.dump({"error": other}), expected=value)
        assert message.outcome == "crashed"


@PATIENT
@given(MARKED)
@example({"$": "complex", "v": [{"$": "int", "v": "0x1" + "0" * 400}, 0]})
@example({"$": "dict", "v": [["error", {"$": "int", "v": "0x1" + "0" * 9000}]]})
@example({"$": "float", "v": 10**400})
@example({"$": "dict", "v": [["error", "\ud800"]]})
def test_every_line_gets_a_verdict(line: Any):
    with pytest.MonkeyPatch.context() as patch:
        for text in (json.dumps(line), json.dumps({"$": "dict", "v": [["value", line]]})):
            assert answered(patch, text, expected=25).outcome in ("correct", "wrong", "crashed")


@given(st.text(max_size=40), st.text(alphabet='{}[]"$v:,0x1e', max_size=40))
def test_no_text_makes_decoding_raise_anything_else(text: str, jsonish: str):
    for line in (text, jsonish):
        try:
            plain.load(line)
        except ValueError:
            continue


@given(VALUES)
def test_a_plain_value_survives_its_line(value: Any):
    assert equal(plain.load(plain.dump(value)), value)


@given(st.integers(), st.integers(), st.integers(0, 4000), st.sampled_from([1e-9, 1e-3, 0.5, 2.0]))
def test_integers_beyond_floats_are_close_as_small_ones_are(a, b, bits, tolerance):
    """Scaled by a power of two, a relative difference stays what it is."""
    small, large = (equal(a << s, b << s, tolerance=tolerance) for s in (60, 60 + bits))
    assert small == large or math.isclose(
        abs(a - b), tolerance * max(abs(a), abs(b)), rel_tol=1e-12
    )


HASH = 2**61 - 1
"""Integers that differ by it have one hash."""


@pytest.mark.parametrize(
    "members",
    [
        [str(k * HASH) for k in range(1, 42_000)],
        [f'{{"$":"tuple","v":[{k * HASH}, 1]}}' for k in range(1, 20_000)],
        [f'{{"$":"float","v":"{k}e0"}}' for k in [1.0] * 50_000],
    ],
    ids=["integers", "tuples", "one value"],
)
@pytest.mark.parametrize("kind", ["set", "frozenset", "dict"])
def test_members_of_one_hash_cost_linear_time(members, kind, monkeypatch):
    if kind == "dict":
        members = [f"[{member},0]" for member in members]
    line = f'{{"$":"dict","v":[["value",{{"$":"{kind}","v":[{",".join(members)}]}}]]}}'
    began = time.process_time()
    assert answered(monkeypatch, line, expected=25).outcome in ("wrong", "crashed")
    assert time.process_time() - began < 3


def test_honest_sets_of_powers_and_neighbours_are_read(monkeypatch):
    """hash(2**k) is 2**(k % 61), and -1 and -2 have one hash: few of each."""
    value = {-1, -2, *(2**k for k in range(2000)), *(2.0**-k for k in range(900))}
    assert answered(monkeypatch, replied(value), expected=value).outcome == "correct"


@pytest.mark.parametrize("opening", ["[", '{"$":"tuple","v":[', '{"$":"complex","v":[0,'])
@pytest.mark.parametrize("depth", [199, 250, 900, 100_000])
def test_values_of_any_depth_get_a_verdict(opening, depth, monkeypatch):
    closing = "]" if opening == "[" else "]}"
    line = f'{{"$":"dict","v":[["value",{opening * depth}0{closing * depth}]]}}'
    assert answered(monkeypatch, line, expected=25).outcome in ("wrong", "crashed")
