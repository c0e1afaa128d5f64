"""Tests of programs as data sets publish them, in the form that `grading/code.py` runs."""

import json
import re
from typing import Any

_CALL = re.compile(r"assert\s+(?:not\s+)?\(*\s*([A-Za-z_]\w*)\s*\(")
OWN = ("tests", "calls", "check")
"""Keys of tests that are in that form already."""


def program_tests(value: Any) -> dict[str, Any] | None:
    """What a problem's `data` holds for these tests; None where they are none that can be mapped.

    Inputs and outputs (with `fn_name`, calls of that function), records of input and output, lines
    that begin with `assert`, and `check(candidate)` with an `entry_point`; as records or as JSON.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return _asserts(value.splitlines())
    if isinstance(value, list):
        if value and all(isinstance(test, str) for test in value):
            return _asserts(value)
        if not all(isinstance(test, dict) for test in value):
            return None
        pairs = [(test.get("input"), test.get("output")) for test in value]
        return _stdin(pairs)
    if not isinstance(value, dict):
        return None
    if any(value.get(key) for key in OWN):
        return value
    inputs, outputs = (
        value.get("inputs", value.get("input")),
        value.get("outputs", value.get("output")),
    )
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        return None
    name = value.get("fn_name") or value.get("entry_point")
    if not name:
        return _stdin(list(zip(inputs, outputs, strict=True)))
    if not inputs or not all(isinstance(arguments, list) for arguments in inputs):
        return None
    calls = [{"args": a, "expected": b} for a, b in zip(inputs, outputs, strict=True)]
    return {"calls": calls, "entry_point": str(name)}


def _stdin(pairs: list[tuple[Any, Any]]) -> dict[str, Any] | None:
    def lines(value: Any) -> str | None:
        if isinstance(value, list):
            return "\n".join(map(str, value)) + "\n"
        return value if isinstance(value, str) else None

    tests = [{"stdin": lines(a), "expected_stdout": lines(b)} for a, b in pairs]
    if not tests or any(text is None for test in tests for text in test.values()):
        return None
    return {"tests": tests}


def _asserts(lines: list[str]) -> dict[str, Any] | None:
    checks = [line.strip() for line in lines if line.strip().startswith("assert")]
    names = {match[1] for line in checks if (match := _CALL.match(line))}
    if not checks or len(names) != 1:
        return None
    name = names.pop()
    body = "\n".join(f"    {line}" for line in checks)
    return {
        "check": f"def check(candidate):\n    {name} = candidate\n{body}\n",
        "entry_point": name,
    }
