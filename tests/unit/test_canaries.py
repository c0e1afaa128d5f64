"""Canary problems: nothing honest is right on them, and what is graded correct raises an alarm."""

import pytest
from namespaces import needs_namespaces

from factory.core.errors import EngineError
from factory.core.records import FinishReason, Problem, ProblemKind, Verdict
from factory.grading import grade
from factory.problems.canaries import canaries, canary, is_canary
from factory.stages.grpo.graded import Graded, GraderFailures, figures
from factory.stages.grpo.train import canary_alarms
from factory.text.chat import completion_text, parse

BODY = "```python\ndef add(a, b):\n    return a + b\n```"
TESTS = {
    "stdout": {"tests": [{"stdin": "", "expected_stdout": "3"}]},
    "calls": {"entry_point": "add", "calls": [{"args": [1, 2], "expected": 3}]},
    "check": {
        "entry_point": "add",
        "check": "def check(candidate):\n    assert candidate(1, 2) == 3",
    },
}


def problem(kind: ProblemKind, name: str = "p", **data: object) -> Problem:
    return Problem(id=name, prompt="1 + 2 =", reference="3", kind=kind, source="s", data=data)


@pytest.mark.parametrize("kind", ["math", "exact", "choice", "procedural", "open"])
def test_the_right_answer_is_wrong_on_a_canary(kind: ProblemKind) -> None:
    made = canary(problem(kind), 7)
    assert is_canary(made)
    assert (made.prompt, made.source) == ("1 + 2 =", "s")
    assert grade(made, completion_text("so", "3")).outcome == "wrong"
    assert grade(made, completion_text("so", made.reference)).is_correct


@needs_namespaces
@pytest.mark.parametrize("form", TESTS)
def test_a_right_program_is_wrong_on_a_canary(form: str) -> None:
    answer = "```python\nprint(3)\n```" if form == "stdout" else BODY
    requested = problem("code", **TESTS[form])
    assert grade(requested, completion_text("so", answer)).is_correct
    assert grade(canary(requested, 7), completion_text("so", answer)).outcome == "wrong"


def test_canaries_are_drawn_alike_for_a_seed_and_never_more_than_there_are_problems() -> None:
    problems = [problem("math", str(number)) for number in range(9)]
    assert canaries(problems, 3, 7) == canaries(problems, 3, 7) != canaries(problems, 3, 8)
    assert len({made.reference for made in canaries(problems, 20, 7)}) == 9
    assert canaries(problems, 0, 7) == []


def graded(outcome: str) -> Graded:
    text = completion_text("so", "3")
    verdict = Verdict.model_validate({"outcome": outcome, "answer": "3", "explanation": ""})
    return Graded(verdict, parse(text), {"language": 1.0, "accuracy": 0.0})


def shares(outcomes: list[str], problems: list[Problem]) -> dict[str, float]:
    count = len(problems)
    rows = [graded(outcome) for outcome in outcomes]
    ends: list[FinishReason] = ["stop"] * count
    return figures(rows, ["so"] * count, ends, problems=problems)


def test_accuracy_leaves_canaries_out_and_theirs_is_told_apart() -> None:
    plain, made = problem("math"), canary(problem("math"), 7)
    result = shares(["correct", "wrong", "wrong", "correct"], [plain, plain, made, made])
    assert (result["accuracy"], result["canary_accuracy"]) == (0.5, 0.5)
    assert "canary_accuracy" not in shares(["correct"], [plain])
    assert shares(["wrong"], [made])["accuracy"] == 0.0


def test_few_failures_in_every_rollout_stop_a_run_once_they_are_many() -> None:
    wrong = Verdict(outcome="wrong", answer="", explanation="")
    failed = Verdict(outcome="ungradable", answer=None, explanation="the worker died")
    failures = GraderFailures()
    for _ in range(19):
        failures.check([failed, failed, *[wrong] * 98])
    with pytest.raises(EngineError, match="40 of 2000 answers are ungradable, at most 1%"):
        failures.check([failed, failed, *[wrong] * 98])
    GraderFailures().check([failed, *[wrong] * 9])
    with pytest.raises(EngineError, match="2 of 10"):
        GraderFailures().check([failed, failed, *[wrong] * 8])


def test_a_rewarded_canary_raises_an_alarm_and_no_other_row_does() -> None:
    [text] = canary_alarms({"step": 3, "canary_accuracy": 0.25})
    assert text.startswith("ALARM, update 3: 25% of the answers to canary problems")
    assert canary_alarms({"step": 3, "canary_accuracy": 0.0}) == []
    assert canary_alarms({"step": 3}) == []
