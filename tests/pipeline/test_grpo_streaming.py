"""Rollouts that are drawn without rounds: to the byte those of rounds, with an engine that gives
each request the same completion in any company."""

import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from test_grpo_stage import DYNAMIC, MACHINE, config, digests, make_inputs, run_stage

from factory.core.machine import Machine
from factory.core.records import SamplingConfig
from factory.sampling import Completion, Request
from factory.sampling.sampler import OnEnd, nobody
from factory.sampling.streams import Supply
from factory.sampling.transformers import TransformersSampler
from factory.stages.grpo import train as grpo_run
from factory.stages.grpo.streaming import Groups

ROWS = 6


class Alone(TransformersSampler):
    """Draws each request by itself, so that no number depends on who shares a product with it."""

    def sample(
        self, requests: Sequence[Request], sampling: SamplingConfig, on_end: OnEnd = nobody
    ) -> list[Completion]:
        return [super(Alone, self).sample([request], sampling)[0] for request in requests]

    def stream(self, supply: Supply, sampling: SamplingConfig) -> Iterator[tuple[int, Completion]]:
        chance, going = random.Random(5), dict[int, Request]()
        numbers = itertools.count()
        while True:
            for request in supply.take(ROWS - len(going)):
                going[next(numbers)] = request
            if not going:
                return
            number = chance.choice([*going])
            yield number, self.sample([going.pop(number)], sampling)[0]


@pytest.mark.parametrize("settings", [{}, DYNAMIC], ids=["plain", "dynamic"])
def test_rollouts_that_stream_are_those_of_rounds_in_whatever_order_completions_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    inputs = make_inputs(tmp_path / "inputs")
    calls: list[str] = []

    def opened(model: Path, machine: Machine, *, ends: Sequence[int], **rest: Any) -> Alone:
        return Alone(model, machine, max_length=rest["max_length"], ends=ends)

    def watched(self: Groups[Any], *args: Any) -> Any:
        calls.append("draw")
        return draw(self, *args)

    draw = Groups.draw
    monkeypatch.setattr(Groups, "draw", watched)
    monkeypatch.setattr(grpo_run, "open_sampler", opened)
    steps = {"steps": 4, "reference_refresh_steps": 2}
    runs = [
        run_stage(
            config(**{**settings, **steps}), inputs, tmp_path / name,
            machine=MACHINE.model_copy(update={"drawing": drawing}),
        )[0]
        for name, drawing in (("rounds", "exact"), ("streamed", "full"))
    ]  # fmt: skip
    assert len(calls) == 4 // config(**settings).updates_per_rollout
    assert digests(runs[0]) == digests(runs[1])
