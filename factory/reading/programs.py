"""Tests of programs as data sets publish them, in the form that `grading/code.py` runs."""

import base64
import json
import pickletools
import re
import zlib
from typing import Any

MOST_PACKED = 64 << 20
"""Bytes that packed tests may have when they are unpacked."""
_CALL = re.compile(r"assert\s+(?:not\s+)?\(*\s*([A-Za-z_]\w*)\s*\(")
OWN = ("tests", "calls", "check")
"""Keys of tests that are in that form already."""


def program_tests(value: Any, details: Any = None) -> dict[str, Any] | None:
    """What a problem's `data` holds for these tests; None where they are none that can be mapped.

    Inputs and outputs (with `fn_name`, calls of that function: APPS, TACO), records of input and
    output that may say that they are calls (LiveCodeBench, DeepCoder), lines that begin with
    `assert`, and `check(candidate)` with an `entry_point`; as records, as JSON, or as LiveCodeBench
    packs them. `details`: the row's metadata, which may name the function.
    """
    if isinstance(value, str):
        try:
            value = json.loads(_unpacked(value))
        except (ValueError, RecursionError):
            return _asserts(value.splitlines())
    if isinstance(value, list):
        if value and all(isinstance(test, str) for test in value):
            return _asserts(value)
        if not all(isinstance(test, dict) for test in value):
            return None
        return _records(value, details)
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
    return _calls(list(zip(inputs, outputs, strict=True)), str(name))


_PICKLED_TEXT = {
    "PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "STOP",
    "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
}  # fmt: skip
"""Operations of a pickle that is one text and nothing else."""


def _unpacked(text: str) -> str:
    """LiveCodeBench's hidden tests: JSON as a pickled text, deflated, in base64. The pickle is read
    as what it says and never run; a text that is not so packed comes back as it is."""
    if not text.startswith(("eA", "eF", "eJ", "eN")):  # deflate begins with "x"
        return text
    try:
        inflated = zlib.decompressobj()
        data = inflated.decompress(base64.b64decode(text, validate=True), MOST_PACKED)
        if not inflated.eof:
            return text
        if not data.startswith(b"\x80"):
            return data.decode("utf-8")
        steps = [(step.name, argument) for step, argument, _ in pickletools.genops(data)]
    except (ValueError, zlib.error):
        return text
    texts = [argument for name, argument in steps if name.endswith("UNICODE") or "UNICODE8" in name]
    is_text = len(texts) == 1 and {name for name, _ in steps} <= _PICKLED_TEXT
    return str(texts[0]) if is_text else text


def _records(tests: list[dict[str, Any]], details: Any) -> dict[str, Any] | None:
    """Tests of one program, each with what it calls; None where they are of several kinds."""
    names = {_function(test, _record_of(details)) for test in tests}
    pairs: list[tuple[Any, Any]] = [(test.get("input"), test.get("output")) for test in tests]
    if names == {None}:
        return _stdin(pairs)
    name = names.pop() if names else None
    if names or not name:
        return None
    if not all(isinstance(given, str) for given, _ in pairs):
        return _calls(pairs, name) if all(isinstance(given, list) for given, _ in pairs) else None
    try:
        # LiveCodeBench: a line of JSON for each argument, and the value as JSON.
        read = [
            ([json.loads(line) for line in given.splitlines() if line.strip()], json.loads(value))
            for given, value in pairs
        ]
    except (TypeError, ValueError, RecursionError):
        return None
    calls = [{"args": arguments, "expected": value} for arguments, value in read]
    return {"calls": calls, "entry_point": name}


def _record_of(value: Any) -> dict[str, Any]:
    """A record, as one or as JSON; empty for anything else."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}


def _function(test: dict[str, Any], details: dict[str, Any]) -> str | None:
    """The function that a test calls; empty where it calls one without a name, None for a program
    that reads its input."""
    kind = str(test.get("testtype") or test.get("type") or "")
    sources = [test, _record_of(test.get("metadata"))]
    sources += [details] if kind.startswith("function") else []
    names = [
        source.get(key) for source in sources for key in ("fn_name", "func_name", "entry_point")
    ]
    name = next((name for name in names if isinstance(name, str) and name), "")
    return name if name or kind.startswith("function") else None


def _calls(pairs: list[tuple[Any, Any]], name: str) -> dict[str, Any]:
    """Calls as APPS has them: its own harness takes [5] for 5 as well."""
    calls = [{"args": a, "expected": b} for a, b in pairs]
    for call in calls:
        if isinstance(call["expected"], list) and len(call["expected"]) == 1:
            call["or_first"] = True
    return {"calls": calls, "entry_point": name}


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
