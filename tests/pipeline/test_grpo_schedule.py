"""What changes during an RL run: the length limit, exactly at its update and through a kill."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from test_grpo_stage import config, digests, killed_child, make_inputs, run_stage

from factory.core.artifacts import Inputs
from factory.rewards.rules import overlong_penalty
from factory.stages.grpo.trainer import FactoryGrpoTrainer

JUMPING: dict[str, Any] = {
    "max_new_tokens": 4,
    "length_jumps": [{"from_step": 3, "max_new_tokens": 8}],
    "rewards": [{"name": "language"}, {"name": "overlong"}],
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("artifacts"))


def jump_at(step: int) -> dict[str, Any]:
    return {**JUMPING, "length_jumps": ({"from_step": step, "max_new_tokens": 8},)}


def test_the_limit_jumps_at_its_update_and_inside_a_phase_with_the_next() -> None:
    limits = [config(**jump_at(3)).limit_at(step) for step in (1, 2, 3, 4, 500)]
    assert limits == [4, 4, 8, 8, 8]
    paper = config(
        max_new_tokens=32768, length_jumps=({"from_step": 8200, "max_new_tokens": 65536},)
    )
    assert [paper.limit_at(step) for step in (8199, 8200)] == [32768, 65536]
    assert (paper.largest_limit, config().largest_limit) == (65536, 8)
    with pytest.raises(ValidationError, match=r"from_step \[5, 5\] must rise"):
        config(length_jumps=({"from_step": 5, "max_new_tokens": 8},) * 2)


def test_a_jump_is_drawn_graded_and_resumed_at_the_exact_step(
    inputs: Inputs, tmp_path: Path
) -> None:
    """Three rollouts of two updates each. A random model hardly ever ends by itself."""
    out, _, _ = run_stage(config(**jump_at(3)), inputs, tmp_path / "undisturbed")
    rows = [json.loads(line) for line in (out / "telemetry.jsonl").read_text().splitlines()]
    lengths = {row["step"]: row["completion_length"] for row in rows if "reward" in row}
    assert lengths.keys() == {1, 3, 5}
    assert lengths[1] <= 4 < lengths[3], lengths
    assert lengths[5] > 4
    for line in (out / "rollouts.jsonl").read_text().splitlines():
        row = json.loads(line)
        limit = 4 if row["step"] < 3 else 8
        assert row["trace"]["sampling"]["max_new_tokens"] == limit
        penalty = overlong_penalty(row["trace"]["completion_tokens"], limit)
        assert row["rewards"]["overlong"] == penalty

    killed_child(inputs, tmp_path / "killed", step=3, settings=JUMPING)
    resumed, _, _ = run_stage(config(**jump_at(3)), inputs, tmp_path / "killed")
    assert digests(resumed) == digests(out)


def test_a_jump_inside_a_phase_waits_for_the_next_rollout(inputs: Inputs, tmp_path: Path) -> None:
    out, _, _ = run_stage(config(**jump_at(4)), inputs, tmp_path)
    lines = [json.loads(line) for line in (out / "rollouts.jsonl").read_text().splitlines()]
    limits = {line["step"]: line["trace"]["sampling"]["max_new_tokens"] for line in lines}
    assert limits == {1: 4, 3: 4, 5: 8}


def test_the_reference_is_the_policy_after_every_refresh_and_never_else(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hard copy, bit by bit, every second update; R1 takes every 400th."""
    are_equal: dict[int, bool] = {}
    training_step = FactoryGrpoTrainer.training_step

    def watch(self: FactoryGrpoTrainer, *args: Any, **options: Any) -> torch.Tensor:
        own, reference = (dict(model.named_parameters()) for model in (self.model, self.ref_model))
        same = [torch.equal(own[name], reference[name]) for name in own]
        are_equal[self.state.global_step] = all(same)
        return training_step(self, *args, **options)

    monkeypatch.setattr(FactoryGrpoTrainer, "training_step", watch)
    settings = config(updates_per_rollout=1, steps=5, reference_refresh_steps=2)
    run_stage(settings, inputs, tmp_path)
    assert are_equal == {0: True, 1: False, 2: True, 3: False, 4: True}
