"""Programs that a model wrote, run in the sandbox on tests and compared outside of it.

A problem's `data` says how it is tested, by one of:
    tests: [{"stdin": text, "expected_stdout": text}, ...]
    calls: [{"args": [...], "expected": value}, ...] of the function `entry_point`
    check: source of a function `check(candidate)` for the function `entry_point`, HumanEval's form
The function may be a method of a class `Solution`, of which every call gets a new object. A call
may say `argument: n` to compare that argument after the call instead of what the function returns,
or `raises: "ValueError"` instead of `expected`; `or_first` takes the first of a list of values too.
Values of `calls` are JSON, or what `inside/plain.py` makes of other plain types; a JSON list takes
a tuple.
Optional are `language` (python), `prompt` (source that comes before the program: imports and
helpers), `timeout_seconds` for each test and each call (5), `tolerance` for real numbers of `tests`
and `calls` (0: see `outputs.py`), `exact_layout` for tests where blanks count, `output_mib` (twice
the expected output and 1 MiB), and `checker`: source of a function `check(stdin, stdout, expected)`
that decides tests with several right outputs; it runs in a sandbox of its own.
"""

import json
import math
import secrets
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from factory.core.errors import DataError
from factory.core.records import Outcome, Problem, Record, Verdict
from factory.grading.inside import plain
from factory.grading.isolation import python_command
from factory.grading.languages import LANGUAGES, Language
from factory.grading.outputs import same_output
from factory.grading.programs import complete, program_of, whole_program
from factory.grading.sandbox import Sandbox
from factory.grading.watching import PATIENCE, Finished, Limits

INSIDE = Path(__file__).parent / "inside"
MAX_PROGRAM = 100_000
"""Longest answer, in characters."""
BUILD = Limits(seconds=30.0, memory_mib=4096, output_bytes=64 << 20)
"""For a compiler, whose output is the program."""
SHOWN = 200
"""Characters of a program's text in an explanation."""


TESTS_FAULT = 3
"""Exit status with which a driver says that the check, not the candidate, is at fault."""


class StdinTest(Record):
    stdin: str
    expected_stdout: str | None = None
    """May be left out where a checker decides."""


class CallTest(Record):
    args: list[Any]
    expected: Any = None
    argument: int | None = Field(default=None, ge=0)
    """Which argument is compared after the call; None: what the function returns."""
    raises: str = ""
    """A built-in exception that the call must end in."""
    or_first: bool = False
    """Whether the first value of the expected list is right too: sets that wrap each value."""


class CodeTests(Record):
    """What `data` of a problem of kind code holds."""

    tests: tuple[StdinTest, ...] = ()
    calls: tuple[CallTest, ...] = ()
    check: str = ""
    entry_point: str = ""
    prompt: str = ""
    language: Literal["python", "cpp"] = "python"
    timeout_seconds: float = Field(default=5.0, gt=0, le=60)
    tolerance: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    exact_layout: bool = False
    output_mib: float | None = Field(default=None, gt=0, le=1024)
    checker: str = ""

    @model_validator(mode="after")
    def _has_one_form(self) -> "CodeTests":
        if sum(bool(form) for form in (self.tests, self.calls, self.check)) != 1:
            raise ValueError("give one of tests, calls and check")
        if not self.tests and not self.entry_point.isidentifier():
            raise ValueError("calls and check need entry_point, the name of a function")
        if not self.tests and self.language != "python":
            raise ValueError("functions are called in python only")
        if self.checker and not self.tests:
            raise ValueError("a checker is for tests")
        if not self.checker and any(test.expected_stdout is None for test in self.tests):
            raise ValueError("a test needs expected_stdout, or the tests a checker")
        return self


def grade_code(problem: Problem, answer: str, *, is_isolated: bool = True) -> Verdict:
    """Correct iff every test passes; the first failure ends the grading and is explained.

    wrong: an output or a value differs. crashed: it does not compile, raises, or ends with another
    status than 0. timeout: a test took longer than allowed. DataError where the problem has no
    usable tests, EngineError where there is no sandbox.
    """
    tests = tests_of(problem)
    source = program_of(answer, tests.language)
    sandbox = Sandbox(is_isolated=is_isolated)
    if not source.strip():
        outcome, explanation = "wrong", "an empty program"
    elif tests.tests:
        outcome, explanation = _run_tests(source, tests, sandbox)
    elif tests.calls:
        outcome, explanation = _run_calls(source, tests, sandbox)
    else:
        outcome, explanation = _run_check(source, tests, sandbox)
    stamp = "" if is_isolated else "unsandboxed: "
    return Verdict(outcome=outcome, answer=source, explanation=stamp + explanation)


def tests_of(problem: Problem) -> CodeTests:
    """How a problem is tested; DataError where its data does not say so."""
    try:
        # JSON mode: strict Python mode would refuse a list where a tuple is declared.
        return CodeTests.model_validate_json(json.dumps(problem.data))
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise DataError(f"problem {problem.id}: no usable tests in its data: {reason}") from error
    except (RecursionError, TypeError, ValueError) as error:
        reason = f"it is no JSON: {error}"
        raise DataError(f"problem {problem.id}: no usable tests in its data: {reason}") from error


def program_seconds(problem: Problem) -> float:
    """The longest that all tests of a problem may take together on the clock; 0 for broken data."""
    try:
        tests = tests_of(problem)
    except DataError:
        return 0.0
    build = BUILD.seconds if LANGUAGES[tests.language].compile else 0.0
    return PATIENCE * (build + tests.timeout_seconds * max(1, len(tests.tests), len(tests.calls)))


def _limits(tests: CodeTests, expected: str = "", *, times: int = 1) -> Limits:
    most = 2 * len(expected.encode("utf-8", "replace")) + (1 << 20)
    if tests.output_mib is not None:
        most = int(tests.output_mib * 2**20)
    return Limits(seconds=tests.timeout_seconds * times, output_bytes=most)


def _run_tests(source: str, tests: CodeTests, sandbox: Sandbox) -> tuple[Outcome, str]:
    language = LANGUAGES[tests.language]
    files = {language.file: whole_program(tests.prompt, source).encode("utf-8", "replace")}
    if language.compile:
        built = sandbox.run(language.compile, files=files, limits=BUILD)
        if built.status != 0:
            return "crashed", f"does not compile: {_stopped(built) or _said(built)}"
        files = {"main": built.stdout}
    for number, test in enumerate(tests.tests, start=1):
        finished = sandbox.run(
            _command(language),
            files=files,
            stdin=test.stdin.encode("utf-8", "replace"),
            limits=_limits(tests, test.expected_stdout or ""),
        )
        failed = _failure(finished) or _compared(finished.stdout, test, tests, sandbox)
        if failed:
            return failed[0], f"test {number} of {len(tests.tests)}: {failed[1]}"
    return "correct", f"passed {len(tests.tests)} tests"


def _command(language: Language) -> list[str]:
    return list(language.run) or python_command(language.file)


def _compared(
    output: bytes, test: StdinTest, tests: CodeTests, sandbox: Sandbox
) -> tuple[Outcome, str] | None:
    text = output.decode("utf-8", "replace")
    if tests.checker:
        return _checked(text, test, tests, sandbox)
    expected = test.expected_stdout or ""
    if same_output(text, expected, tolerance=tests.tolerance, is_exact=tests.exact_layout):
        return None
    return "wrong", f"wrote {_short(text)}, expected {_short(expected)}"


def _checked(
    text: str, test: StdinTest, tests: CodeTests, sandbox: Sandbox
) -> tuple[Outcome, str] | None:
    """What the checker says of an output; DataError where it fails itself."""
    material = {"stdin": test.stdin, "stdout": text, "expected": test.expected_stdout}
    finished = sandbox.run(
        python_command("checker.py"),
        files=_inside("checker.py") | {"check.py": tests.checker.encode("utf-8", "replace")},
        stdin=json.dumps(material).encode(),
        limits=_limits(tests),
    )
    if finished.status == 0:
        return None
    if finished.status == 1:
        return "wrong", f"the checker refuses {_short(text)}: {_said(finished)}"
    raise DataError(f"the checker failed: {_stopped(finished) or _said(finished)}")


def _failure(finished: Finished) -> tuple[Outcome, str] | None:
    if stopped := _stopped(finished):
        return "timeout" if finished.timed_out else "crashed", stopped
    if finished.status != 0:
        return "crashed", f"ended with status {finished.status}: {_said(finished)}"
    return None


def _stopped(finished: Finished) -> str:
    """Why a run was ended from outside; empty where it ended by itself."""
    if finished.timed_out:
        clock, processor = finished.seconds, finished.processor
        return f"stopped after {processor:.1f} s of processor time, {clock:.1f} s on the clock"
    if finished.flooded:
        return "wrote more output than is read"
    return "took more memory than it may" if finished.overfilled else ""


def _run_calls(source: str, tests: CodeTests, sandbox: Sandbox) -> tuple[Outcome, str]:
    """All calls in one sandbox; their values come back as plain JSON and are compared here."""
    nonce = secrets.token_hex(8)
    try:
        expected = [_plain(call.expected) for call in tests.calls]
        right = plain.dump(expected)
        questions = [plain.dump([tests.entry_point, _plain(call.args)]) for call in tests.calls]
    except ValueError as error:
        raise DataError(f"a value of the tests cannot be used: {error}") from error
    program = whole_program(tests.prompt, source).encode("utf-8", "replace")
    files = {**_inside("answerer.py", "plain.py"), "main.py": program}
    finished = sandbox.run(
        [*python_command("answerer.py"), str(tests.timeout_seconds), nonce],
        files=files,
        stdin="".join(f"{question}\n" for question in questions).encode(),
        limits=_limits(tests, right, times=len(tests.calls)),
    )
    replies = _replies(finished.stdout, nonce, most=len(expected))
    return _judged(finished, replies, expected, tests)


def _judged(
    finished: Finished, replies: list[Mapping[str, Any]], expected: list[Any], tests: CodeTests
) -> tuple[Outcome, str]:
    """The outcome of a run's calls from its replies, whatever they are."""
    for number, (value, call) in enumerate(zip(expected, tests.calls, strict=True), start=1):
        where = f"call {number} of {len(expected)}"
        if number > len(replies):
            if finished.status == OVERTIME:
                limit = tests.timeout_seconds
                return "timeout", f"{where}: took more than {limit:g} s of processor time"
            if stopped := _stopped(finished):
                return "timeout" if finished.timed_out else "crashed", f"{where}: {stopped}"
            return "crashed", f"{where}: the program ended before it answered"
        reply = replies[number - 1]
        if call.raises:
            if reply.get("raised") == call.raises:
                continue
            return "wrong", f"{where}: did not raise {call.raises}"
        if "value" not in reply:
            error = reply.get("error", "no value")
            return "crashed", f"{where}: {_short(error) if type(error) is str else _shown(error)}"
        given = reply["value"]
        if call.argument is not None:
            after = reply.get("args")
            given = None
            if isinstance(after, list) and call.argument < len(after):
                given = after[call.argument]
        right = [value]
        if call.or_first and isinstance(value, list) and value:
            right.append(value[0])
        if not any(equal(given, v, tolerance=tests.tolerance) for v in right):
            return "wrong", f"{where}: gave {_shown(given)}, expected {_shown(value)}"
    return "correct", f"passed {len(expected)} calls"


OVERTIME = 128 + signal.SIGPROF
"""Status of a driver whose call took longer than its own clock allows."""


def _shown(value: Any) -> str:
    """The beginning of a plain value's text; integers that Python refuses to print in hex."""
    try:
        return _short(repr(value))
    except ValueError:
        return _short(plain.dump(value))


def _plain(value: Any) -> Any:
    """A value of a problem's data: plain JSON stands for itself, marked objects for other types."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        if plain.MARK in value:
            return plain.load(json.dumps(value))
        return {key: _plain(item) for key, item in value.items()}
    return value


def _replies(output: bytes, nonce: str, *, most: int) -> list[Mapping[str, Any]]:
    """The first `most` answers, each on a line that begins with the run's nonce; else it ends."""
    replies = []
    for line in output.decode("utf-8", "replace").split("\n")[:-1][:most]:
        mark, _, text = line.partition(" ")
        if mark != nonce:
            break
        try:
            reply = plain.load(text)
        except ValueError:
            break
        if type(reply) is not dict:
            break
        replies.append(reply)
    return replies


def equal(actual: Any, expected: Any, *, tolerance: float = 0.0) -> bool:
    """Whether two plain values are the same: types too, but for 1 and 1.0 in either place.

    True is not 1, nan is nan; an expected list takes a tuple too, for JSON has only lists. With a
    tolerance, floats may differ by it, absolutely or relative to the larger one. Integers may have
    any size: no float has to hold them.
    """
    if type(expected) in (int, float) and type(actual) in (int, float):
        if actual == expected or (actual != actual and expected != expected):
            return True
        return bool(tolerance) and _is_close(actual, expected, tolerance)
    if type(expected) is list and type(actual) is tuple:
        actual = list(actual)
    if type(actual) is not type(expected):
        return False
    if isinstance(expected, list | tuple):
        return len(actual) == len(expected) and all(
            equal(a, b, tolerance=tolerance) for a, b in zip(actual, expected, strict=True)
        )
    if isinstance(expected, complex):
        return equal(actual.real, expected.real) and equal(actual.imag, expected.imag)
    if isinstance(expected, dict):
        return actual.keys() == expected.keys() and all(
            equal(actual[key], value, tolerance=tolerance) for key, value in expected.items()
        )
    return actual == expected


def _is_close(a: float, b: float, tolerance: float) -> bool:
    """`math.isclose` with the tolerance as the relative and the absolute one, also of integers that
    are larger than every float."""
    if any(type(side) is float and not math.isfinite(side) for side in (a, b)):
        return False
    try:
        return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)
    except OverflowError:
        pass
    # Over a common denominator there are integers alone; a float's denominator is small.
    (top_a, bottom_a), (top_b, bottom_b) = a.as_integer_ratio(), b.as_integer_ratio()
    first, second, common = top_a * bottom_b, top_b * bottom_a, bottom_a * bottom_b
    share, of = tolerance.as_integer_ratio()
    return of * abs(first - second) <= share * max(abs(first), abs(second), common)


def _run_check(source: str, tests: CodeTests, sandbox: Sandbox) -> tuple[Outcome, str]:
    check = f"{complete(tests.prompt)}\n\n{tests.check}\n"
    finished = sandbox.converse(
        python_command("asker.py", tests.entry_point),
        python_command("answerer.py"),
        asking_files={
            **_inside("asker.py", "plain.py"),
            "check.py": check.encode("utf-8", "replace"),
        },
        answering_files={
            **_inside("answerer.py", "plain.py"),
            "main.py": whole_program(tests.prompt, source).encode("utf-8", "replace"),
        },
        limits=_limits(tests),
    )
    if stopped := _stopped(finished):
        return "timeout" if finished.timed_out else "crashed", stopped
    if finished.status == 0:
        return "correct", "the check passed"
    if finished.status == TESTS_FAULT:
        raise DataError(f"the check is at fault: {_said(finished)}")
    return ("wrong" if finished.status == 1 else "crashed"), _said(finished)


def _inside(*names: str) -> dict[str, bytes]:
    return {name: (INSIDE / name).read_bytes() for name in names}


def _said(finished: Finished) -> str:
    """The end of what a program wrote on standard error, in one line."""
    lines = finished.stderr.decode("utf-8", "replace").strip().splitlines()
    return _short(lines[-1]) if lines else "it says nothing"


def _short(text: str) -> str:
    text = text.encode("utf-8", "backslashreplace").decode()
    shown = text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
    return repr(shown) if "\n" in shown else shown
