"""Which samples a trace run draws: problems retire, cut ones come again, memory has a bound."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from factory.core.jsonl import write_records
from factory.core.records import FinishReason, Problem, SamplingConfig, Trace, Verdict
from factory.stages.chosen import sources_cut_off
from factory.stages.generate.config import GenerateConfig
from factory.stages.generate.drawing import Draw, Line, Retry

Ended = Callable[[Draw], tuple[bool, FinishReason]]
LIMIT, HIGHER = 10, 30


def problems(count: int) -> list[Problem]:
    return [
        Problem(id=f"p{n}", prompt="?", reference="1", kind="exact", source="s")
        for n in range(count)
    ]


def trace(draw: Draw, is_correct: bool, reason: FinishReason) -> Trace:
    outcome = "correct" if is_correct else "wrong"
    return Trace(
        problem_id=draw.problem.id, sample=draw.sample, question="?", prompt="?", completion="",
        reasoning=None, answer=None, finish_reason=reason, completion_tokens=1, seed=0,
        sampling=SamplingConfig(max_new_tokens=draw.max_new_tokens), style="chat", model="m",
        verdict=Verdict(outcome=outcome, answer=None, explanation=""),
    )  # fmt: skip


class Run:
    """A line walked to its end, `ended` deciding how each sample comes out."""

    def __init__(self, count: int, size: int, ended: Ended, **settings: Any) -> None:
        self.line = Line(iter(problems(count)), max_new_tokens=LIMIT, **settings)
        self.blocks: list[list[tuple[int, int, int]]] = []
        self.kept: dict[tuple[int, int], Trace] = {}
        self.most_open = 0
        while draws := self.line.next(size):
            self.most_open = max(self.most_open, len(self.line._open))
            self.blocks.append([(d.index, d.sample, d.max_new_tokens) for d in draws])
            for draw in draws:
                made = trace(draw, *ended(draw))
                if self.line.add(draw, made):
                    assert (draw.index, draw.sample) not in self.kept
                    self.kept[draw.index, draw.sample] = made


def always(is_correct: bool, reason: FinishReason = "stop") -> Ended:
    return lambda draw: (is_correct, reason)


def by_chance(right: float, cut: float) -> Ended:
    """Chances that depend on the draw alone, as those of an engine with seeds do."""

    def ended(draw: Draw) -> tuple[bool, FinishReason]:
        chance = random.Random(f"{draw.index}/{draw.sample}/{draw.max_new_tokens}")
        return chance.random() < right, "length" if chance.random() < cut else "stop"

    return ended


def test_without_enough_the_blocks_are_the_samples_in_order() -> None:
    run = Run(3, 4, always(False), samples=3)
    assert run.blocks == [
        [(0, 0, 10), (0, 1, 10), (0, 2, 10), (1, 0, 10)],
        [(1, 1, 10), (1, 2, 10), (2, 0, 10), (2, 1, 10)],
        [(2, 2, 10)],
    ]
    assert (run.line.retired, run.line.answered, run.line.solved) == (3, 3, 0)


def test_a_problem_with_enough_verified_traces_is_asked_no_further() -> None:
    # Place 1 is never right: it alone gets all of its samples.
    run = Run(4, 4, lambda draw: (draw.index != 1, "stop"), samples=6, enough=1)
    assert run.blocks[0] == [(0, 0, 10), (1, 0, 10), (2, 0, 10), (3, 0, 10)]
    assert run.blocks[1:] == [[(1, n, 10) for n in (1, 2, 3, 4)], [(1, 5, 10)]]
    assert (run.line.solved, run.line.retired, run.line.settled) == (3, 4, 24)


def test_new_problems_fill_the_block_before_further_samples_do() -> None:
    run = Run(5, 3, always(False), samples=3, enough=1)
    assert run.blocks == [
        [(0, 0, 10), (1, 0, 10), (2, 0, 10)],
        [(0, 1, 10), (1, 1, 10), (2, 1, 10)],
        [(0, 2, 10), (1, 2, 10), (2, 2, 10)],
        # Three places, two problems: the first gets one sample more than it needs.
        [(3, 0, 10), (4, 0, 10), (3, 1, 10)],
        [(3, 2, 10), (4, 1, 10), (4, 2, 10)],
    ]


def test_cut_completions_are_drawn_once_more_in_blocks_of_their_own() -> None:
    ended: Ended = lambda draw: (False, "length" if draw.sample == 0 else "stop")  # noqa: E731
    run = Run(4, 3, ended, samples=2, length_stops=Retry(retry=HIGHER))
    assert all(len({limit for _, _, limit in block}) == 1 for block in run.blocks)
    again = [
        (position, sample) for b in run.blocks for position, sample, limit in b if limit == HIGHER
    ]
    assert again == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert run.line.retried == 4
    # Still cut at the higher limit: kept as it is, not drawn a third time.
    assert run.kept[0, 0].finish_reason == "length"
    assert run.kept[0, 0].sampling.max_new_tokens == HIGHER
    assert len(run.kept) == 8


def test_dropped_traces_are_counted_and_verify_nothing() -> None:
    run = Run(2, 4, always(True, "length"), samples=3, enough=1, length_stops="drop")
    assert run.kept == {}
    assert (run.line.dropped, run.line.solved, run.line.answered) == (6, 0, 0)


def test_a_loop_is_no_length_stop() -> None:
    for policy in ("drop", Retry(retry=HIGHER)):
        run = Run(1, 4, always(False, "loop"), samples=2, length_stops=policy)
        assert len(run.kept) == 2
        assert run.line.retried == run.line.dropped == 0


@pytest.mark.parametrize("enough", [None, 1, 3])
@pytest.mark.parametrize("policy", ["keep", "drop", Retry(retry=HIGHER)])
@pytest.mark.parametrize("right", [0.05, 0.6])
def test_every_problem_has_enough_or_all_of_its_samples(
    enough: int | None, policy: Any, right: float
) -> None:
    count, size, samples = 400, 16, 8
    settings = {"samples": samples, "enough": enough, "length_stops": policy}
    run = Run(count, size, by_chance(right, cut=0.3), **settings)
    assert run.most_open <= 3 * size
    sampled: dict[int, set[int]] = {position: set() for position in range(count)}
    for block in run.blocks:
        assert len(block) == len(set(block)) <= size
        for position, sample, _ in block:
            sampled[position].add(sample)
    for position, numbers in sampled.items():
        assert numbers == set(range(len(numbers)))
        kept = [run.kept[position, n] for n in sorted(numbers) if (position, n) in run.kept]
        verified = sum(item.verdict.is_correct for item in kept)
        assert len(numbers) == samples or (enough is not None and verified >= enough)
        if policy != "drop":
            assert len(kept) == len(numbers)
    assert run.line.settled == count * samples
    assert run.line.retired == count
    if enough == 1 and right == 0.6:
        assert sum(map(len, sampled.values())) < 0.5 * count * samples


def test_an_easy_set_costs_few_samples_beyond_those_that_it_needs() -> None:
    # A problem needs 1 / 0.6 samples in the mean, with a deviation of sqrt(0.4) / 0.6 = 1.05: all
    # 2,000 need 3,333 with one of 47. Only the last blocks have further ones.
    run = Run(2000, 16, by_chance(0.6, cut=0.0), samples=64, enough=1)
    assert 3333 - 3 * 47 < sum(map(len, run.blocks)) < 3333 + 3 * 47 + 64


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"enough": 5}, r"enough \(5\) is more than samples \(4\)"),
        ({"length_stops": {"retry": 2048}}, r"more than max_new_tokens \(2048\)"),
        ({"length_stops": "again"}, "length_stops"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(fields: dict[str, Any], message: str) -> None:
    given = {"kind": "generate", "model": "m", "problems": "p", **fields}
    with pytest.raises(ValidationError, match=message):
        GenerateConfig.model_validate(given)


def test_a_limit_tells_the_sources_that_it_leaves_out(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    rows = [
        Problem(id=f"{source}-{n}", prompt="?", reference="1", kind="exact", source=source)
        for source in ("add", "mul", "ops")
        for n in range(3)
    ]
    write_records(path, rows)
    assert sources_cut_off(path, (), 4) == ["ops"]
    assert sources_cut_off(path, (), 3) == ["mul", "ops"]
    assert sources_cut_off(path, ("mul", "ops"), 3) == ["ops"]
    assert sources_cut_off(path, ("mul",), 1) == []
    assert sources_cut_off(path, (), None) == []
