"""Nulls of every task that ships with data: gold gives all, another problem's gold about nothing.

A random letter gives chance. No model is run: a script answers in the engine's place.
"""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from ifeval_gold import CONTRADICTORY, following
from namespaces import needs_namespaces
from test_harness import Bench, model, problems, tagged

from factory.building.suite import load_suite
from factory.core.artifacts import Artifact, Inputs
from factory.core.context import stderr_context
from factory.core.jsonl import read_records
from factory.core.machine import Machine
from factory.core.records import Problem, SamplingConfig
from factory.grading import grade, grade_lenient
from factory.problems.bundled import BUNDLES, BundledSource, BundleName, supply
from factory.stages.evaluate import BenchmarkConfig
from factory.stages.problems import STAGE, ProblemsConfig

__all__ = ["model", "problems"]
"""Fixtures of the harness's tests."""

Answer = Callable[[list[Problem], int, int], str]
"""(problems, number, seed) -> the text inside the answer tags."""

PROGRAMS = 3
"""Programs take a sandbox each; tests/pipeline/test_humaneval.py runs all of them."""


def problems_of(name: BundleName) -> list[Problem]:
    results = list(supply(BundledSource(type="bundled", name=name), 0).problems)
    return results[:PROGRAMS] if results[0].kind == "code" else results


def run(
    root: Path, model: Artifact, problems: Artifact, monkeypatch: pytest.MonkeyPatch,
    *, name: BundleName, answer: Answer, samples: int = 0,
) -> dict[str, float]:  # fmt: skip
    """Scores of one task whose every answer is `answer`'s, by metric."""
    expected = problems_of(name)
    numbers = {problem.prompt: number for number, problem in enumerate(expected)}

    def reply(prompt: str, seed: int) -> str:
        question = prompt.split("user\n", 1)[1].rpartition("<|im_end|>\n<|im_start|>assistant")[0]
        return tagged(answer(expected, numbers[question], seed))

    bench = Bench(root, model, problems)
    room = SamplingConfig(max_new_tokens=7000)
    benchmark = BenchmarkConfig(name=name, task=name, limit=len(expected), sampling=room)
    bench.run(reply, monkeypatch, benchmarks=(benchmark,), samples=samples, greedy=not samples)
    scores = bench.scores()
    assert {score.n for score in scores.values()} == {len(expected)}
    return {metric: score.value for metric, score in scores.items()}


def gold(problems: list[Problem], number: int, seed: int) -> str:
    return problems[number].reference


def gold_of_another(problems: list[Problem], number: int, seed: int) -> str:
    """The next reference that is not this problem's own."""
    own = problems[number].reference
    others = [problem.reference for problem in problems[number + 1 :] + problems[:number]]
    return next(other for other in others if other != own)


@needs_namespaces
# Instructions have no gold of their own: below.
@pytest.mark.parametrize("name", [name for name in BUNDLES if name != "ifeval_541"])
def test_gold_gives_all_and_shuffled_gold_about_nothing(
    name: BundleName, tmp_path: Path, model: Artifact, problems: Artifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for folder in ("gold", "shuffled"):
        (tmp_path / folder).mkdir()
    right = run(tmp_path / "gold", model, problems, monkeypatch, name=name, answer=gold)
    assert right == {"greedy": 1.0, "greedy_lenient": 1.0}
    wrong = run(
        tmp_path / "shuffled", model, problems, monkeypatch, name=name, answer=gold_of_another
    )
    assert wrong == {"greedy": 0.0, "greedy_lenient": 0.0}


def test_what_follows_every_instruction_gives_all(
    tmp_path: Path, model: Artifact, problems: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = run(
        tmp_path, model, problems, monkeypatch,
        name="ifeval_541", answer=lambda expected, number, seed: following(expected[number]),
    )  # fmt: skip
    # Five prompts contradict themselves, in one instruction each.
    rest = len(CONTRADICTORY)
    assert scores == pytest.approx(
        {
            "greedy": 1 - rest / 541,
            "greedy_lenient": 1.0,
            "greedy_instructions": 1 - rest / 834,
            "greedy_instructions_lenient": 1.0,
        },
        abs=1e-12,
    )


def test_a_random_letter_gives_chance(
    tmp_path: Path, model: Artifact, problems: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = run(
        tmp_path, model, problems, monkeypatch,
        name="gpqa_25", samples=16, answer=lambda expected, number, seed: "ABCD"[seed // 7 % 4],
    )  # fmt: skip
    # 400 letters, one of four right: standard error 0.022.
    assert 0.18 < scores["pass@1"] < 0.32
    assert scores["pass@1"] == scores["pass@1_lenient"]


@pytest.mark.parametrize("level", ["easy", "medium", "hard"])
def test_generated_benchmarks_of_the_offline_suite_have_their_nulls(
    level: str, tmp_path: Path
) -> None:
    """The twelve families by level, without the harness around them."""
    config = ProblemsConfig.model_validate_json(json.dumps(load_suite("offline").problems[level]))
    (tmp_path / "out").mkdir()
    STAGE.run(config, Inputs(), tmp_path / "out", stderr_context(0, tmp_path, Machine(threads=1)))
    families: dict[str, list[Problem]] = {}
    for problem in read_records(tmp_path / "out" / "held_out.jsonl", Problem):
        families.setdefault(problem.source, []).append(problem)
    assert {source: len(expected) for source, expected in families.items()} == {
        f"reasoning_gym/{name}": 50 for name in ("chain_sum", "gcd", "leg_counting", "countdown")
    }
    for expected in families.values():
        for number, problem in enumerate(expected):
            for answer, is_right in ((gold, True), (gold_of_another, False)):
                text = answer(expected, number, 0)
                verdicts = grade(problem, tagged(text)), grade_lenient(problem, text)
                assert [verdict.is_correct for verdict in verdicts] == [is_right] * 2, problem.id
        # What a constant answer gets.
        ((_, often),) = Counter(problem.reference for problem in expected).most_common(1)
        assert often <= 0.32 * len(expected)
