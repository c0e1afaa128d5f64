"""A run that wins reward while its held-out score falls ends, and gives back its best weights."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_grpo_stage import config, digests, make_inputs, run_stage

from factory.core.artifacts import Inputs
from factory.evaluation.statistics import Interval
from factory.stages.grpo import watch
from factory.stages.grpo.early_stop import EarlyStop
from factory.stages.grpo.trends import Alarm

STOPPING: dict[str, Any] = {
    "watch": {"problems": "sums", "every": 1, "samples": 2, "limit": 4, "stops": True},
    "updates_per_rollout": 1,
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("artifacts"))


def alarm_at(step: int, best: int) -> Any:
    """An alarm that comes with the measurement of a step, and names another as the best."""

    def alarm(rows: Any, rewards: Any) -> Alarm | None:
        if rows[-1].step < step:
            return None
        fall = Interval(value=-0.5, low=-0.7, high=-0.3, n=4)
        return Alarm(step=step, best_step=best, held_out=fall, reward_before=0.1, reward_now=0.9)

    return alarm


def score(self: Any, step: int, **options: Any) -> Any:
    """A measurement whose held-out score is best at step 2."""
    row = self.measured(step, **options)
    message = row.model_copy(update={"correct": (2, 2, 2, 2) if step == 2 else (0, 0, 0, 1)})
    self.rows[-1] = message
    return message


def test_an_alarm_ends_the_run_and_the_best_weights_come_back(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    until_2, _, _ = run_stage(config(steps=2, updates_per_rollout=1), inputs, tmp_path / "two")
    monkeypatch.setattr(watch.Watcher, "measured", watch.Watcher.measure, raising=False)
    monkeypatch.setattr(watch.Watcher, "measure", score)
    monkeypatch.setattr(watch, "alarm", alarm_at(4, best=2))
    out, metrics, events = run_stage(config(**STOPPING), inputs, tmp_path / "run")
    # Measured before update 5, which is the last one.
    assert (metrics["stopped_step"], metrics["weights_step"], metrics["steps"]) == (5, 2, 5)
    message = json.loads((out / "stopped.json").read_text())
    assert (message["step"], message["weights_step"], message["alarm"]["step"]) == (5, 2, 4)
    assert digests(out)["model.safetensors"] == digests(until_2)["model.safetensors"]
    assert any("ended after step 5, weights of step 2" in e.get("text", "") for e in events)
    kept = sorted(path.name for path in (tmp_path / "run" / "scratch").glob("watched-*"))
    assert kept == ["watched-2.safetensors", "watched-4.safetensors"]


def test_without_an_alarm_nothing_ends_and_nothing_is_said(inputs: Inputs, tmp_path: Path) -> None:
    out, metrics, _ = run_stage(config(**STOPPING), inputs, tmp_path / "run")
    plain, _, _ = run_stage(config(updates_per_rollout=1), inputs, tmp_path / "plain")
    assert metrics["steps"] == 6 and "stopped_step" not in metrics
    assert not (out / "stopped.json").exists()
    assert digests(out)["model.safetensors"] == digests(plain)["model.safetensors"]


def test_a_resumed_run_keeps_the_best_weights_of_the_time_before(tmp_path: Path) -> None:
    class Measured:
        alarm = None
        rows: tuple[Any, ...] = ()

        def is_due(self, step: int) -> bool:
            return True

    model = torch.nn.Linear(1, 1)
    state = SimpleNamespace(global_step=3)
    for step in (1, 3):
        EarlyStop(Measured(), tmp_path)._write(step, model)  # type: ignore[arg-type]
    early = EarlyStop(Measured(), tmp_path)  # type: ignore[arg-type]
    early.on_train_begin(None, state, None, model=model)  # type: ignore[arg-type]
    assert load_file(tmp_path / "watched-1.safetensors")
    rows = [(1, 9), (3, 2)]
    Measured.rows = tuple(SimpleNamespace(step=s, correct=(c,)) for s, c in rows)
    state.global_step = 4
    early.on_step_end(None, state, None, model=model)  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "sums-watched-1.safetensors.json", "sums-watched-4.safetensors.json",
        "watched-1.safetensors", "watched-4.safetensors",
    ]  # fmt: skip
