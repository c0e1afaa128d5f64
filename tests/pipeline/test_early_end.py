"""Evaluations that end early at an error bar, through the stage; a script answers for the model."""

from pathlib import Path

import pytest
from test_harness import Bench, bench, contents, dies_after, half_right, model, problems

from factory.core.artifacts import Artifact
from factory.core.records import EarlyStop
from factory.evaluation.statistics import sampling_half_width

__all__ = ["bench", "model", "problems"]
"""Fixtures of the harness's tests."""

EARLY = EarlyStop(half_width=0.18, least=2)


def test_sampling_ends_at_its_error_bar_with_the_same_samples_of_every_problem(
    bench: Bench, tmp_path: Path, model: Artifact, problems: Artifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "whole").mkdir()
    full = Bench(tmp_path / "whole", model, problems)
    full.run(half_right, monkeypatch, samples=12)
    bench.run(half_right, monkeypatch, samples=12, stop_at=EARLY)
    samples: dict[str, list[int]] = {}
    for sample in bench.samples():
        if sample.mode == "sampled":
            samples.setdefault(sample.trace.problem_id, []).append(sample.trace.sample)
    score = bench.scores()["pass@1"]
    assert score.stopped is not None and (score.stopped.asked, score.stopped.rule) == (12, EARLY)
    assert 2 < score.k < 12 and score.stopped.half_width <= EARLY.half_width
    assert list(samples.values()) == [list(range(score.k))] * 6
    assert f"pass@{score.k}" in bench.scores() and sum(score.outcomes.values()) == 6 * score.k
    # One round earlier the bar was still too wide.
    before = [
        sum(s.trace.verdict.is_correct for s in bench.samples()
            if s.mode == "sampled" and s.trace.problem_id == name and s.trace.sample < score.k - 2)
        for name in samples
    ]  # fmt: skip
    assert sampling_half_width(before, score.k - 2) > EARLY.half_width
    # The samples are the first of those without the rule; greedy answers know nothing of it.
    texts = {
        (s.mode, s.trace.problem_id, s.trace.sample): s.trace.completion for s in full.samples()
    }
    kept = {
        (s.mode, s.trace.problem_id, s.trace.sample): s.trace.completion for s in bench.samples()
    }
    assert kept.items() <= texts.items()
    greedy = bench.scores()["greedy"]
    assert greedy == full.scores()["greedy"] and greedy.stopped is None
    # lm-eval's own numbers are those of what was drawn, not of what was not.
    assert bench.harness()["results"]["sums.sampled"]["pass@1,samples"] == pytest.approx(
        score.value, abs=1e-12
    )


def test_an_evaluation_that_may_end_early_goes_on_to_the_same_end(
    bench: Bench, tmp_path: Path, model: Artifact, problems: Artifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        bench.run(dies_after(24), monkeypatch, samples=12, stop_at=EARLY)
    bench.run(half_right, monkeypatch, samples=12, stop_at=EARLY)
    assert bench.sampler is not None
    # The first round is 12 sampled requests and 6 greedy ones; of the second a block of 4 was done.
    assert sum(map(len, bench.sampler.calls)) == 6 * bench.scores()["pass@1"].k + 6 - 22
    (tmp_path / "whole").mkdir()
    undisturbed = Bench(tmp_path / "whole", model, problems)
    undisturbed.run(half_right, monkeypatch, samples=12, stop_at=EARLY)
    assert contents(bench.out) == contents(undisturbed.out)
