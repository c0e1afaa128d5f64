"""Programs that a model wrote, run in the sandbox on tests and compared outside of it.

A problem's `data` says how it is tested, by one of:
    tests: [{"stdin": text, "expected_stdout": text}, ...]
    calls: [{"args": [...], "expected": value}, ...] of the function `entry_point`
    check: source of a function `check(candidate)` for the function `entry_point`, HumanEval's form
and optionally `language` (python), `prompt` (source that comes before the program: imports and
helpers), `timeout_seconds` for each test (5), and `tolerance` for floats of `calls` (0, exact).
Values of `calls` are JSON, or what `inside/plain.py` makes of other plain types.
"""

import json
import math
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from factory.errors import DataError
from factory.grading.inside import plain
from factory.grading.isolation import python_command
from factory.grading.languages import LANGUAGES, Language
from factory.grading.sandbox import Sandbox
from factory.grading.watching import PATIENCE, Finished, Limits
from factory.records import Outcome, Problem, Record, Verdict

INSIDE = Path(__file__).parent / "inside"
MAX_PROGRAM = 100_000
"""Longest answer, in characters."""
BUILD = Limits(seconds=30.0, memory_mib=4096, output_bytes=64 << 20)
"""For a compiler, whose output is the program."""
SHOWN = 200
"""Characters of a program's text in an explanation."""


class StdinTest(Record):
    stdin: str
    expected_stdout: str


class CallTest(Record):
    args: list[Any]
    expected: Any


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

    @model_validator(mode="after")
    def _has_one_form(self) -> "CodeTests":
        if sum(bool(form) for form in (self.tests, self.calls, self.check)) != 1:
            raise ValueError("give one of tests, calls and check")
        if not self.tests and not self.entry_point.isidentifier():
            raise ValueError("calls and check need entry_point, the name of a function")
        if not self.tests and self.language != "python":
            raise ValueError("functions are called in python only")
        return self


def grade_code(problem: Problem, answer: str, *, is_isolated: bool = True) -> Verdict:
    """Correct iff every test passes; the first failure ends the grading and is explained.

    wrong: an output or a value differs. crashed: it does not compile, raises, or ends with another
    status than 0. timeout: a test took longer than allowed. DataError where the problem has no
    usable tests, EngineError where there is no sandbox.
    """
    tests = tests_of(problem)
    source = program_of(answer)
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
    return PATIENCE * (build + tests.timeout_seconds * max(1, len(tests.tests)))


_FENCE = re.compile(
    r"^[ \t]*(`{3,}|~{3,})[^\n`]*\n(.*?)^[ \t]*\1`*[ \t]*$", re.DOTALL | re.MULTILINE
)


def program_of(answer: str) -> str:
    """The last fenced block of an answer; the whole answer where it has none."""
    blocks = _FENCE.findall(answer if answer.endswith("\n") else answer + "\n")
    return blocks[-1][1] if blocks else answer


def whole_program(prompt: str, source: str) -> str:
    """The program after its prompt; a source that begins indented continues the prompt's body."""
    is_body = source[:1] in (" ", "\t")
    return f"{prompt}{'' if is_body or not prompt else chr(10) * 2}{source}\n"


def _limits(tests: CodeTests) -> Limits:
    return Limits(seconds=tests.timeout_seconds)


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
            limits=_limits(tests),
        )
        failed = _failure(finished, test.expected_stdout)
        if failed:
            return failed[0], f"test {number} of {len(tests.tests)}: {failed[1]}"
    return "correct", f"passed {len(tests.tests)} tests"


def _command(language: Language) -> list[str]:
    return list(language.run) or python_command(language.file)


def _failure(finished: Finished, expected: str) -> tuple[Outcome, str] | None:
    if stopped := _stopped(finished):
        return "timeout" if finished.timed_out else "crashed", stopped
    if finished.status != 0:
        return "crashed", f"ended with status {finished.status}: {_said(finished)}"
    output = finished.stdout.decode("utf-8", "replace")
    if _lines(output) == _lines(expected):
        return None
    return "wrong", f"wrote {_short(output)}, expected {_short(expected)}"


def _stopped(finished: Finished) -> str:
    """Why a run was ended from outside; empty where it ended by itself."""
    if finished.timed_out:
        clock, processor = finished.seconds, finished.processor
        return f"stopped after {processor:.1f} s of processor time, {clock:.1f} s on the clock"
    if finished.flooded:
        return "wrote more output than is read"
    return "took more memory than it may" if finished.overfilled else ""


BLANKS = " \t\r"
"""What does not matter at the end of a line; all other blanks of Unicode are characters."""


def _lines(text: str) -> list[str]:
    """Lines without trailing blanks; missing or further newlines at the end do not matter."""
    lines = [line.rstrip(BLANKS) for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _run_calls(source: str, tests: CodeTests, sandbox: Sandbox) -> tuple[Outcome, str]:
    """All calls in one sandbox; their values come back as plain JSON and are compared here."""
    nonce = secrets.token_hex(8)
    try:
        expected = [_plain(call.expected) for call in tests.calls]
        plain.dump(expected)
        questions = [plain.dump([tests.entry_point, _plain(call.args)]) for call in tests.calls]
    except ValueError as error:
        raise DataError(f"a value of the tests cannot be used: {error}") from error
    program = whole_program(tests.prompt, source).encode("utf-8", "replace")
    files = {**_inside("answerer.py"), "main.py": program}
    finished = sandbox.run(
        [*python_command("answerer.py"), nonce],
        files=files,
        stdin="".join(f"{question}\n" for question in questions).encode(),
        limits=_limits(tests),
    )
    replies = _replies(finished.stdout, nonce, most=len(expected))
    return _judged(finished, replies, expected, tolerance=tests.tolerance)


def _judged(
    finished: Finished, replies: list[Mapping[str, Any]], expected: list[Any], *, tolerance: float
) -> tuple[Outcome, str]:
    """The outcome of a run's calls from its replies, whatever they are."""
    for number, value in enumerate(expected, start=1):
        where = f"call {number} of {len(expected)}"
        if number > len(replies):
            if stopped := _stopped(finished):
                return "timeout" if finished.timed_out else "crashed", f"{where}: {stopped}"
            return "crashed", f"{where}: the program ended before it answered"
        reply = replies[number - 1]
        if "value" not in reply:
            error = reply.get("error", "no value")
            return "crashed", f"{where}: {_short(error) if type(error) is str else _shown(error)}"
        if not equal(reply["value"], value, tolerance=tolerance):
            return "wrong", f"{where}: gave {_shown(reply['value'])}, expected {_shown(value)}"
    return "correct", f"passed {len(expected)} calls"


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

    True is not 1, a tuple is not a list, nan is nan. With a tolerance, floats may differ by it,
    absolutely or relative to the larger one. Integers may have any size: no float has to hold them.
    """
    if type(expected) in (int, float) and type(actual) in (int, float):
        if actual == expected or (actual != actual and expected != expected):
            return True
        return bool(tolerance) and _is_close(actual, expected, tolerance)
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
    check = f"{tests.prompt}\n\n{tests.check}\n"
    finished = sandbox.converse(
        python_command("asker.py", tests.entry_point),
        python_command("answerer.py"),
        asking_files={**_inside("asker.py"), "check.py": check.encode("utf-8", "replace")},
        answering_files={
            **_inside("answerer.py"),
            "main.py": whole_program(tests.prompt, source).encode("utf-8", "replace"),
        },
        limits=_limits(tests),
    )
    if stopped := _stopped(finished):
        return "timeout" if finished.timed_out else "crashed", stopped
    if finished.status == 0:
        return "correct", "the check passed"
    return ("wrong" if finished.status == 1 else "crashed"), _said(finished)


def _inside(name: str) -> dict[str, bytes]:
    return {part: (INSIDE / part).read_bytes() for part in (name, "plain.py")}


def _said(finished: Finished) -> str:
    """The end of what a program wrote on standard error, in one line."""
    lines = finished.stderr.decode("utf-8", "replace").strip().splitlines()
    return _short(lines[-1]) if lines else "it says nothing"


def _short(text: str) -> str:
    text = text.encode("utf-8", "backslashreplace").decode()
    shown = text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
    return repr(shown) if "\n" in shown else shown
