"""No mathematical verdict takes longer than its bound of processor time."""

import subprocess
import sys

import pytest

from factory.core.records import Problem
from factory.grading import GradeItem, GradingPool
from factory.grading.bounded import MOST_SECONDS, TOO_SLOW, TooSlowError, bounded, was_ended
from factory.text.chat import completion_text

REFERENCE = r"(a+b+c+d+x+y)^{90}"
SLOW = r"(a+b+c+d+x+y)^{89}\cdot a+(a+b+c+d+x+y)^{89}(b+c+d+x+y)"
"""Equal to it, and of 58 million terms."""


def problem(reference: str) -> Problem:
    return Problem(id=reference, prompt="", reference=reference, kind="math", source="s")


def test_a_slow_comparison_is_given_up_with_a_reason_and_the_worker_goes_on() -> None:
    answers = [(REFERENCE, SLOW), (r"\sqrt{12}", r"2\sqrt{3}"), ("7", "8")]
    items = [GradeItem(problem(r), completion_text("so", a)) for r, a in answers]
    with GradingPool(1) as pool:
        slow, equal, other = pool.grade(items)
    assert (slow.outcome, slow.explanation) == ("wrong", TOO_SLOW)
    assert (equal.outcome, other.outcome) == ("correct", "wrong")


def test_the_bound_passes_code_that_catches_every_exception() -> None:
    def stubborn() -> None:
        while True:
            try:
                while True:
                    pass
            except Exception:
                continue

    with pytest.raises(TooSlowError), bounded():
        stubborn()
    with bounded():
        pass  # and the next one has all of its time


def test_a_long_call_of_c_ends_its_process() -> None:
    code = "from factory.grading.bounded import bounded\nwith bounded():\n    sum(range(10**12))"
    ended = subprocess.run([sys.executable, "-P", "-c", code], check=False)
    assert was_ended(ended.returncode)
    assert MOST_SECONDS < 2


def test_a_hostile_answer_to_a_procedural_problem_is_wrong_within_the_same_bound() -> None:
    from test_grading import HANGS, gym

    integral = gym("simple_integration")
    with GradingPool(1, deadline_seconds=120) as pool:
        slow, right = pool.grade(
            [
                GradeItem(integral, completion_text("a", text))
                for text in (HANGS, integral.reference)
            ]
        )
    assert (slow.outcome, right.outcome) == ("wrong", "correct")
