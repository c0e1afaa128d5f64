"""Code: what is run, what passes, and why a program fails; and that nothing forges a verdict."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from namespaces import needs_namespaces

from factory.core.errors import DataError
from factory.core.records import Problem, Verdict
from factory.grading import GradeItem, GradingPool, grade
from factory.grading.code import equal, grade_code, program_of, whole_program
from factory.grading.inside import plain
from factory.text.chat import completion_text

pytestmark = needs_namespaces

ECHO = [{"stdin": "1 2\n", "expected_stdout": "3\n"}, {"stdin": "5 6\n", "expected_stdout": "11"}]
ADDS = "a, b = map(int, input().split())\nprint(a + b)\n"
CALLS = {
    "entry_point": "double",
    "calls": [{"args": [2], "expected": 4}, {"args": [[1]], "expected": [1, 1]}],
}
CHECK = {
    "entry_point": "double",
    "prompt": 'def double(x):\n    """Twice x."""\n',
    "check": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(0) == 0\n",
}


def problem(**data) -> Problem:
    return Problem(id="p", prompt="q", reference="", kind="code", source="s", data=data)


def patience(outcome: str) -> float:
    """Seconds a test may take: a busy machine must not make a crash a timeout."""
    return 1.5 if outcome == "timeout" else 30.0


def verdict(source: str, **data) -> Verdict:
    return grade_code(problem(**data), source)


@pytest.mark.parametrize(
    ("source", "outcome", "says"),
    [
        (ADDS, "correct", "passed 2 tests"),
        (
            "import sys\nprint(sum(map(int, sys.stdin.read().split())), end='  \\n\\n')",
            "correct",
            "",
        ),
        ("print(3)", "wrong", "test 2 of 2: wrote"),
        ("print(3)\nprint(4)", "wrong", "test 1 of 2"),
        (ADDS + "print('more')", "wrong", "test 1 of 2"),
        (ADDS + "raise SystemExit(1)", "crashed", "ended with status 1"),
        (ADDS + "import os\nos._exit(3)", "crashed", "ended with status 3"),
        (ADDS + "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "crashed", "139"),
        ("print(", "crashed", "SyntaxError"),
        ("raise ValueError('no')", "crashed", "ValueError: no"),
        ("", "wrong", "an empty program"),
        ("while True: pass", "timeout", "stopped after"),
    ],
)
def test_programs_that_read_and_write(source: str, outcome: str, says: str) -> None:
    result = verdict(source, tests=ECHO, timeout_seconds=patience(outcome))
    assert (result.outcome, says in result.explanation) == (outcome, True), result


@pytest.mark.parametrize(
    ("source", "outcome", "says"),
    [
        ("def double(x):\n    return x * 2", "correct", "passed 2 calls"),
        ("print('noise')\ndef double(x):\n    print('more')\n    return x * 2", "correct", ""),
        ("def double(x):\n    return x + 2", "crashed", "call 2 of 2: TypeError"),
        ("def double(x):\n    return x", "wrong", "call 1 of 2: gave 2, expected 4"),
        ("def double(x):\n    return tuple(x * 2) if x == [1] else x * 2", "correct", ""),
        ("def double(x):\n    return True", "wrong", "call 1 of 2: gave True"),
        ("def halve(x):\n    return x", "crashed", "the program defines no double"),
        ("import os\nos._exit(0)", "crashed", "ended before it answered"),
        ("def double(x):\n    import sys; sys.exit(0)", "crashed", "SystemExit"),
        ("def double(x):\n    while True: pass", "timeout", "call 1 of 2"),
        ("def double(x):\n    return lambda: 4", "crashed", "is no plain value"),
    ],
)
def test_functions_that_are_called(source: str, outcome: str, says: str) -> None:
    result = verdict(source, **CALLS, timeout_seconds=patience(outcome))
    assert (result.outcome, says in result.explanation) == (outcome, True), result


@pytest.mark.parametrize(
    ("source", "outcome"),
    [
        ("    return 2 * x\n", "correct"),
        ("def double(x):\n    return x + x\n", "correct"),
        ("    return x\n", "wrong"),
        ("    return None\n", "wrong"),
        ("    raise ValueError\n", "crashed"),
        ("    import os; os._exit(0)\n", "crashed"),
        ("    while True: pass\n", "timeout"),
    ],
)
def test_a_benchmarks_own_check_calls_from_another_process(source: str, outcome: str) -> None:
    result = verdict(source, **CHECK, timeout_seconds=patience(outcome))
    assert result.outcome == outcome, result


ALWAYS_EQUAL = """
class Any(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = int.__hash__
def double(x): return Any(7)
"""
FRAME_WALK = """
import sys
def double(x):
    frame = sys._getframe()
    while frame:
        for name in ("expected", "result", "answers", "broken", "mark"):
            if name in frame.f_locals or name in frame.f_globals:
                frame.f_globals[name] = True
        frame = frame.f_back
    return 7
"""
FORGED_REPLY = """
import os, json
for fd in range(3, 20):
    try: os.write(fd, b'{"$": "dict", "v": [["value", 4]]}\\n' * 4)
    except OSError: pass
os._exit(0)
def double(x): return 7
"""
PATCHED = """
import builtins, json
builtins.AssertionError = type("Nothing", (Exception,), {})
builtins.len = lambda x: 0
json.dumps = lambda *a, **k: '{"$": "dict", "v": [["value", 4]]}'
def double(x): return 7
"""
EXIT_HOOK = """
import atexit, os
atexit.register(lambda: os._exit(0))
def double(x): raise SystemExit(0)
"""


@pytest.mark.parametrize(
    "source",
    [ALWAYS_EQUAL, FRAME_WALK, FORGED_REPLY, EXIT_HOOK],
    ids=["equal", "frames", "reply", "exit"],
)
@pytest.mark.parametrize("data", [CALLS, CHECK], ids=["calls", "check"])
def test_no_trick_makes_a_wrong_function_right(source: str, data: dict) -> None:
    assert verdict(source, **data, timeout_seconds=30.0).outcome in ("wrong", "crashed")


def test_a_program_that_patches_its_own_answers_is_only_a_program_that_answers_so() -> None:
    # It answers 4 to every call: right for double(2), wrong for the second one.
    for data in (CALLS, CHECK):
        assert verdict(PATCHED, **data).outcome in ("wrong", "crashed")


def test_state_does_not_survive_from_test_to_test() -> None:
    source = (
        "import os\nhere = os.path.exists('seen')\nopen('seen', 'w').close()\n"
        "a, b = map(int, input().split())\nprint(0 if here else a + b)"
    )
    assert verdict(source, tests=ECHO).outcome == "correct"


@pytest.mark.parametrize(
    ("answer", "program"),
    [
        ("print(1)", "print(1)"),
        (
            "First:\n```python\nprint(1)\n```\nBetter:\n```python\nprint(2)\n```\nDone.",
            "print(2)\n",
        ),
        ("~~~\nprint(3)\n~~~", "print(3)\n"),
        ("````\n```\nnot this\n```\nprint(4)\n````", "```\nnot this\n```\nprint(4)\n"),
        ("```print(5)```", "print(5)"),
    ],
)
def test_the_last_fenced_block_is_the_program(answer: str, program: str) -> None:
    assert program_of(answer) == program


def test_a_body_continues_the_prompt_and_a_whole_program_follows_it() -> None:
    prompt = "def f(x):\n"
    assert whole_program(prompt, "    return x") == "def f(x):\n    return x\n"
    assert whole_program(prompt, "def f(x): return x") == "def f(x):\n\n\ndef f(x): return x\n"


def test_a_completion_is_graded_through_the_pool_and_only_its_answer_runs() -> None:
    right = completion_text("I add.", f"```python\n{ADDS}```")
    thought = completion_text(f"```python\n{ADDS}```", "print(0)")
    items = [GradeItem(problem(tests=ECHO), text) for text in (right, thought, "no tags")]
    with GradingPool(1) as pool:
        outcomes = [v.outcome for v in pool.grade(items)]
    assert outcomes == ["correct", "wrong", "no_answer"]
    assert grade(problem(tests=ECHO), right).outcome == "correct"


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"tests": ECHO, "check": "x", "entry_point": "f"},
        {"calls": CALLS["calls"]},
        {"calls": CALLS["calls"], "entry_point": "f", "language": "cpp"},
        {"tests": ECHO, "language": "cobol"},
        {"tests": ECHO, "surplus": 1},
    ],
)
def test_a_problem_without_usable_tests_is_ungradable_not_wrong(data: dict) -> None:
    with pytest.raises(DataError, match="problem p: no usable tests in its data"):
        verdict("print(1)", **data)
    assert grade(problem(**data), completion_text("", "print(1)")).outcome == "ungradable"


def test_unsandboxed_verdicts_say_so() -> None:
    result = grade_code(problem(tests=ECHO), ADDS, is_isolated=False)
    assert result.outcome == "correct"
    assert result.explanation.startswith("unsandboxed: ")
    assert (
        grade_code(problem(**CALLS), "def double(x): return x", is_isolated=False).outcome
        == "wrong"
    )
    assert (
        grade_code(problem(**CHECK), "    return 2 * x\n", is_isolated=False).outcome == "correct"
    )


@pytest.mark.parametrize(
    ("actual", "expected", "tolerance", "same"),
    [
        (1, 1.0, 0.0, True),
        (True, 1, 0.0, False),
        (1, True, 0.0, False),
        ((1, 2), [1, 2], 0.0, True),
        ([1, 2], (1, 2), 0.0, False),
        (float("nan"), float("nan"), 0.0, True),
        (0.1 + 0.2, 0.3, 0.0, False),
        (0.1 + 0.2, 0.3, 1e-9, True),
        ([0.1 + 0.2], [0.3], 1e-9, True),
        ({"a": 1}, {"a": 1}, 0.0, True),
        ({"a": 1, "b": 2}, {"a": 1}, 0.0, False),
        ({1, 2}, {2, 1}, 0.0, True),
        ("1", 1, 0.0, False),
        (None, 0, 0.0, False),
    ],
)
def test_values_are_compared_as_plain_types(actual, expected, tolerance, same) -> None:
    assert equal(actual, expected, tolerance=tolerance) == same


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.integers() | st.text(), inner)
        | st.frozensets(st.integers() | st.text())
    ),
    max_leaves=20,
)


@given(PLAIN)
def test_plain_values_cross_the_border_unchanged(value) -> None:
    back = plain.load(plain.dump(value))
    assert back == value
    assert type(back) is type(value)


@given(st.text())
def test_text_from_the_other_side_is_a_value_or_a_value_error(text: str) -> None:
    try:
        plain.load(text)
    except ValueError:
        return


def test_values_with_behaviour_do_not_cross() -> None:
    class Sly(int):
        def __eq__(self, other):
            return True

        __hash__ = int.__hash__

    for value in (object(), print, [print], {"a": object()}):
        with pytest.raises(plain.NotPlainError):
            plain.dump(value)
    # A subclass crosses as its base type, without what it brings.
    assert type(plain.load(plain.dump(Sly(4)))) is int
    assert plain.load(plain.dump([Sly(4)])) == [4] != [5]


def test_a_value_or_a_text_that_no_file_can_hold_ends_no_worker() -> None:
    """10**9000 is no float and is not printed; half of a surrogate pair is no UTF-8."""
    called = problem(entry_point="f", calls=[{"args": [], "expected": 1}])
    surd = Problem(id="m", prompt="", reference="\\sqrt{2}", kind="math", source="s")
    with GradingPool(1) as pool:
        items = [
            GradeItem(called, completion_text("", "def f():\n    return 10**9000")),
            GradeItem(called, completion_text("", "def f():\n    return 1  # \ud800")),
            GradeItem(surd, completion_text("", "\\sqrt{3} \ud800")),
        ]
        result = pool.grade(items[:2]) + pool.grade(items[2:])
    assert [item.outcome for item in result] == ["wrong", "correct", "wrong"], result
    assert "0x" in result[0].explanation and "\\ud800" in (result[1].answer or "")


def test_values_of_the_tests_that_cannot_be_used_are_the_problems_fault() -> None:
    broken = {"entry_point": "f", "calls": [{"args": [], "expected": {"$": "int", "v": "no"}}]}
    with pytest.raises(DataError, match="a value of the tests"):
        verdict("def f(): ...", **broken)
    huge = {"entry_point": "f", "calls": [{"args": [], "expected": 10**5000}]}
    with pytest.raises(DataError, match="no usable tests"):
        verdict("def f(): ...", **huge)
