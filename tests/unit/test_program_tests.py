"""Tests of programs in the forms of public sets: a right program passes, a wrong one does not."""

import base64
import json
import pickle
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from factory.core.records import Problem
from factory.grading.code import grade_code
from factory.reading.programs import program_tests

STDIN = ("a, b = map(int, input().split())\nprint(a + b)", "print(input().split()[0])")
ADD = ("def add(a, b):\n    return a + b", "def add(a, b):\n    return a - b")
METHOD = (
    "class Solution:\n    def add(self, a, b):\n        return a + b",
    "class Solution:\n    def add(self, a, b):\n        return b",
)
EVENS = ("def add(a):\n    return [x for x in a if x % 2 == 0]", "def add(a):\n    return a")
FORMS: dict[str, tuple[Any, tuple[str, str]]] = {
    "apps, stdin": ({"inputs": ["2 3\n", "4 9\n"], "outputs": ["5\n", "13\n"]}, STDIN),
    "apps, lines": ({"inputs": [["2 3"], ["4 9"]], "outputs": [["5"], ["13"]]}, STDIN),
    "taco, calls": ({"fn_name": "add", "inputs": [[2, 3], [4, 9]], "outputs": [5, 13]}, ADD),
    "taco, wrapped": ({"fn_name": "add", "inputs": [[2, 3], [4, 9]], "outputs": [[5], [13]]}, ADD),
    # A list of one value that is meant as it stands.
    "taco, lists": (
        {"fn_name": "add", "inputs": [[[2, 3]], [[4, 6, 7]]], "outputs": [[2], [4, 6]]}, EVENS,
    ),
    "deepcoder, stdin": (
        [{"type": "stdin_stdout", "input": "2 3\n", "output": "5\n"},
         {"type": "stdin_stdout", "input": "4 9\n", "output": "13\n"}], STDIN,
    ),
    "deepcoder, calls": (
        [{"type": "function_call", "fn_name": "add", "input": [2, 3], "output": [5]},
         {"type": "function_call", "fn_name": "add", "input": [4, 9], "output": [13]}], ADD,
    ),
    "livecodebench, stdin": (
        [{"input": "2 3", "output": "5", "testtype": "stdin"},
         {"input": "4 9", "output": "13", "testtype": "stdin"}], STDIN,
    ),
    "livecodebench, calls": (
        [{"input": "2\n3", "output": "5", "testtype": "functional",
          "metadata": {"func_name": "add"}},
         {"input": "4\n9", "output": "13", "testtype": "functional",
          "metadata": '{"func_name": "add"}'}], METHOD,
    ),
    "mbpp": (["assert add(2, 3) == 5", "assert add(4, 9) == 13"], ADD),
}  # fmt: skip


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("name", FORMS)
def test_a_public_form_takes_a_right_program_and_no_wrong_one(name: str, as_json: bool) -> None:
    value, (right, wrong) = FORMS[name]
    data = program_tests(json.dumps(value) if as_json else value)
    assert data is not None
    problem = Problem(
        id="p", prompt="Add.", reference="tests", kind="code", source="set", data=data
    )
    for program, outcome in ((right, "correct"), (wrong, "wrong")):
        verdict = grade_code(problem, f"```python\n{program}\n```")
        assert verdict.outcome == outcome, verdict.explanation


@pytest.mark.parametrize(
    "value",
    [
        [{"input": "2\n3", "output": "5", "testtype": "functional"}],
        [
            {"input": "2 3", "output": "5", "testtype": "stdin"},
            {"input": "2\n3", "output": "5", "testtype": "functional", "fn_name": "add"},
        ],
        [{"input": "two\n3", "output": "5", "testtype": "functional", "fn_name": "add"}],
        [
            {"input": [2], "output": 5, "fn_name": "add"},
            {"input": [2], "output": 5, "fn_name": "sub"},
        ],
        {"fn_name": "add", "inputs": [[2, 3]], "outputs": [5, 6]},
        [],
        "no tests",
    ],
)
def test_tests_that_cannot_be_mapped_are_no_tests(value: Any) -> None:
    assert program_tests(value) is None


CALLS = [{"input": "2\n3", "output": "5", "testtype": "functional"}]


def packed(value: Any, dump: Callable[[Any], bytes], level: int = -1) -> str:
    return base64.b64encode(zlib.compress(dump(value), level)).decode()


@pytest.mark.parametrize("level", [0, 1, 6, 9])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_hidden_tests_of_livecodebench_are_read(protocol: int, level: int) -> None:
    text = json.dumps(CALLS * 99)
    value = packed(text, lambda it: pickle.dumps(it, protocol), level)
    data = program_tests(value, '{"func_name": "add"}')
    assert data == program_tests(CALLS * 99, {"func_name": "add"})
    assert data is not None and data["entry_point"] == "add" and len(data["calls"]) == 99
    assert program_tests(packed(text, str.encode, level), {"func_name": "add"}) == data


class Hostile:
    ran = False

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return exec, ("from test_program_tests import Hostile; Hostile.ran = True",)


@pytest.mark.parametrize(
    "value",
    [
        packed(Hostile(), pickle.dumps),
        packed([json.dumps(CALLS)], pickle.dumps),
        packed(("a", "b"), pickle.dumps),
        packed(json.dumps(CALLS), pickle.dumps)[:-8],
        packed(json.dumps(CALLS), pickle.dumps).replace("e", "é", 1),
        packed("[" + "1" * (65 << 20) + "]", str.encode),
        packed(b"\x80\x04X\xff\xff\xff\x7f", bytes),
        "eJ" + "A" * 4001,
    ],
    ids=["code", "list", "pair", "torn", "no base64", "bomb", "too short", "noise"],
)
def test_a_pickle_is_never_run_and_what_is_no_text_is_no_test(value: str) -> None:
    assert program_tests(value, {"func_name": "add"}) is None
    assert not Hostile.ran
