"""Ending early at an error bar: rounds, the rule by hand, and coverage in simulation."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from factory.core.records import EarlyStop, Problem, SamplingConfig, Score, Stopped, Verdict
from factory.evaluation.rounds import is_narrow, rounds, stopped
from factory.evaluation.statistics import Z, mean_interval, sampling_half_width
from factory.report.difference import _gap
from factory.report.records import Evaluation, Tally
from factory.report.sections.scorecard import outcome_rows

RULE = EarlyStop(half_width=0.1, least=2)


def draws_of(*runs: Any, problems: int) -> list[Any]:
    return [
        SimpleNamespace(run=run, document=str(problem), sample=sample)
        for run in runs
        for problem in range(problems)
        for sample in range(run.samples)
    ]


def test_a_round_asks_every_problem_of_a_run_equally_often() -> None:
    ruled = SimpleNamespace(name="a.sampled", samples=5, stop_at=RULE)
    full = SimpleNamespace(name="a.greedy", samples=1, stop_at=None)
    draws = draws_of(ruled, full, problems=2)
    looks: list[tuple[str, int]] = []

    def enough(at: int) -> list[list[tuple[str, str, int]]]:
        looks.clear()

        def is_enough(run: Any, samples: int) -> bool:
            looks.append((run.name, samples))
            return samples >= at

        return [
            [(request.run.name, request.document, request.sample) for request in requests]
            for requests in rounds(draws, is_enough)
        ]

    first = [("a.sampled", p, s) for p in "01" for s in (0, 1)]
    first += [("a.greedy", p, 0) for p in "01"]
    second = [("a.sampled", p, s) for p in "01" for s in (2, 3)]
    third = [("a.sampled", p, 4) for p in "01"]
    assert enough(4) == [first, second] and looks == [("a.sampled", 2), ("a.sampled", 4)]
    assert enough(99) == [first, second, third]
    assert enough(2) == [first]


def test_the_half_width_by_hand() -> None:
    # p = 0, 1/2, 1 of 4: (1/4 + 1/4) / 3 = 1/6, over 3 problems.
    assert sampling_half_width([0, 2, 4], 4) == pytest.approx(Z * math.sqrt(1 / 6) / 3, abs=1e-12)
    # Nothing varied, and yet the error is not nothing.
    assert sampling_half_width([0, 0], 4) == pytest.approx(Z * math.sqrt(1 / 12) / 2, abs=1e-12)
    with pytest.raises(ValueError, match="1 samples a problem, at least 2"):
        sampling_half_width([0, 1], 1)


def graded(problem: str, strict: Verdict, lenient: Verdict) -> Any:
    return SimpleNamespace(
        trace=SimpleNamespace(problem_id=problem, verdict=strict), lenient=lenient
    )


def test_strict_verdicts_alone_decide() -> None:
    right, wrong = (Verdict(outcome=o, answer=o, explanation="") for o in ("correct", "wrong"))  # type: ignore[arg-type]
    problems = [
        Problem(id=i, prompt="q", reference="r", kind="exact", source="t") for i in ("p", "q")
    ]
    run: Any = SimpleNamespace(
        name="a.sampled", samples=64, stop_at=EarlyStop(half_width=0.29), problems=problems
    )
    # By hand: no noise at k = 4 gives 0.283, one of two halves 0.400.
    even = [graded("p", right, wrong)] * 4 + [graded("q", wrong, right)] * 4
    mixed = even[:6] + [graded("q", right, right)] * 2
    assert is_narrow(run, even) and not is_narrow(run, mixed)
    result = stopped(run, [[right] * 4, [wrong] * 4])
    assert result is not None and result.half_width == pytest.approx(0.2829, abs=1e-4)
    assert result.summary(4) == "k = 4 of 64: 95 % sampling interval ±28.3 points, ±29 asked for"
    run.stop_at = None
    assert not is_narrow(run, even) and stopped(run, [[right]]) is None


@pytest.mark.parametrize("beta", [(0.2, 0.2), (0.2, 0.5), (0.5, 0.5), (0.1, 2.0)])
@pytest.mark.parametrize(
    ("n", "half_width", "least"), [(30, 0.03, 4), (30, 0.05, 8), (100, 0.02, 4)]
)
def test_intervals_cover_as_they_say_where_sampling_ended_early(
    n: int, half_width: float, least: int, beta: tuple[float, float]
) -> None:
    """U-shaped and hard benchmarks, 64 samples at most; standard error of a coverage 0.6 %."""
    random = np.random.default_rng(5)
    repetitions, most, early = 1500, 64, 0
    hits = {"same problems": 0, "new problems": 0}
    for _ in range(repetitions):
        chances = random.beta(*beta, n)
        right, k = np.zeros(n, dtype=int), 0
        half = 1.0
        while k < most and half > half_width:
            right, k = right + random.binomial(least, chances), k + least
            half = sampling_half_width(right.tolist(), k)
        early += k < most
        rates = right / k
        hits["same problems"] += abs(rates.mean() - chances.mean()) <= half
        interval = mean_interval(rates.tolist(), samples=k)
        hits["new problems"] += interval.low <= beta[0] / sum(beta) <= interval.high
    assert early > 0.9 * repetitions
    assert 0.93 <= hits["same problems"] / repetitions <= 0.97
    # Few problems that carry most successes: mean_interval's docstring has its worst case.
    assert (0.93 if beta[0] > 0.1 else 0.89) <= hits["new problems"] / repetitions <= 0.98


def test_a_report_says_why_sampling_ended() -> None:
    score = Score(
        benchmark="b", version="1", metric="pass@1", value=0.5, low=0.4, high=0.6, n=30, k=16,
        stopped=Stopped(asked=64, rule=EarlyStop(half_width=0.02), half_width=0.0189),
        outcomes={"correct": 1}, sampling=SamplingConfig(), prompt_style="chat",
    )  # fmt: skip
    row = Evaluation(
        label="m", model="m", model_kind="model", stage="e", prompt="chat", role=None,
        scores=(score,),
    )  # fmt: skip
    ((_, settings, _),) = outcome_rows(row, "b")
    assert settings.endswith("k = 16 of 64: 95 % sampling interval ±1.9 points, ±2 asked for")


def test_builds_do_not_compare_what_ended_early_with_other_numbers_of_samples() -> None:
    full, early = (
        Tally(stage="e", benchmark="b", mode="sampled", samples=k, ended_early=k < 64,
              shares={"p": 0.5, "q": 1.0})
        for k in (64, 16)
    )  # fmt: skip
    assert _gap(full, early, ["1", "1"]).startswith("ended early: k = 64 and 16; `factory compare`")
    assert _gap(early, early, ["1", "1"]) == ""
