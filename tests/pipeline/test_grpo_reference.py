"""The KL reference of an RL run: the model that training starts from, or no run."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_grpo_stage import MACHINE, Events, config, make_inputs, run_stage

from factory.core.artifacts import Inputs
from factory.core.errors import EngineError
from factory.stages.grpo import reference, rollouts
from factory.stages.grpo.trainer import FactoryGrpoTrainer

STOPPED = "step 1: the KL between policy and reference is .* before any update"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("artifacts"))


@pytest.fixture
def kls(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What every check found."""
    results: list[float] = []
    original = reference.mean_kl

    def noted(*logprobs: torch.Tensor) -> torch.Tensor:
        results.append(original(*logprobs).item())
        return original(*logprobs)

    monkeypatch.setattr(reference, "mean_kl", noted)
    return results


def changed(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Let `change` do something to every trainer that is made."""
    original = FactoryGrpoTrainer.__init__

    def init(self: FactoryGrpoTrainer, *args: Any, **rest: Any) -> None:
        original(self, *args, **rest)
        change(self)

    monkeypatch.setattr(FactoryGrpoTrainer, "__init__", init)


def shift(model: torch.nn.Module, by: float) -> None:
    with torch.no_grad():
        model.get_output_embeddings().weight.add_(by * torch.randn(model.lm_head.weight.shape))


def test_the_mean_kl_is_that_of_its_formula() -> None:
    """d = ln 2 and -ln 2: (2 - ln 2 - 1 + 0.5 + ln 2 - 1) / 2 = 0.25."""
    own = torch.tensor([0.0, 0.0])
    assert reference.mean_kl(own, own + math.log(2) * torch.tensor([1.0, -1.0])).item() == (
        pytest.approx(0.25, abs=1e-7)
    )
    assert reference.mean_kl(own, own).item() == 0.0
    assert reference.mean_kl(own[:0], own[:0]).item() == 0.0


@pytest.mark.parametrize("settings", [{"training_pass": "packed"}, {"training_pass": "trl"}])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_reference_of_other_weights_stops_the_run_before_an_update(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any, dtype: str
) -> None:
    changed(monkeypatch, lambda trainer: shift(trainer.ref_model, 0.3))
    machine = MACHINE.model_copy(update={**settings, "dtype": dtype})
    with pytest.raises(EngineError, match=f"{STOPPED}.* set kl: 0"):
        run_stage(config(), inputs, tmp_path, machine=machine)
    assert not (tmp_path / "scratch" / "telemetry.jsonl").exists()
    assert not [*(tmp_path / "out").iterdir()]


def test_in_float32_a_small_difference_is_seen(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kls: list[float]
) -> None:
    changed(monkeypatch, lambda trainer: shift(trainer.ref_model, 0.01))
    with pytest.raises(EngineError, match=STOPPED):
        run_stage(config(), inputs, tmp_path)
    assert 1e-6 < kls[0] < 1e-2


@pytest.mark.parametrize("settings", [{"training_pass": "packed"}, {"training_pass": "trl"}])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_right_reference_has_a_kl_of_0_and_is_checked_once(
    inputs: Inputs, tmp_path: Path, kls: list[float], settings: Any, dtype: str
) -> None:
    machine = MACHINE.model_copy(update={**settings, "dtype": dtype})
    run_stage(config(steps=4), inputs, tmp_path, machine=machine)
    assert kls == [0.0]


def test_dropout_of_the_policy_is_no_difference(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kls: list[float]
) -> None:
    def drop(trainer: FactoryGrpoTrainer) -> None:
        for layer in trainer.model.model.layers:
            layer.self_attn.attention_dropout = 0.5

    changed(monkeypatch, drop)
    monkeypatch.setattr(rollouts, "engine_parity", lambda *args, **rest: {})
    machine = MACHINE.model_copy(update={"training_pass": "trl"})
    run_stage(config(steps=1), inputs, tmp_path, machine=machine)
    assert kls == [0.0]


def test_adapters_that_do_not_start_at_nothing_are_seen(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kls: list[float]
) -> None:
    settings = config(lora={"rank": 2}, reference_refresh_steps=0, steps=1, updates_per_rollout=1)
    run_stage(settings, inputs, tmp_path / "right")
    assert kls == [0.0]

    def start_elsewhere(trainer: FactoryGrpoTrainer) -> None:
        with torch.no_grad():
            for name, parameter in trainer.model.named_parameters():
                if ".lora_B." in name:
                    parameter.fill_(0.5)

    changed(monkeypatch, start_elsewhere)
    # The engine holds the folder's weights until a step is done, so that parity would stop it too.
    monkeypatch.setattr(rollouts, "engine_parity", lambda *args, **rest: {})
    with pytest.raises(EngineError, match=STOPPED):
        run_stage(settings, inputs, tmp_path / "wrong")


def test_without_a_kl_term_and_after_a_step_nothing_is_checked(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kls: list[float]
) -> None:
    run_stage(config(kl=0.0, steps=1), inputs, tmp_path / "none")
    assert kls == []

    class Stopped(Exception):
        pass

    def stop(self: Events, line: str) -> None:
        if json.loads(line).get("done") == 3:
            raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(Events, "write", stop)
        with pytest.raises(Stopped):
            run_stage(config(steps=4), inputs, tmp_path / "resumed")
    run_stage(config(steps=4), inputs, tmp_path / "resumed")
    assert kls == [0.0]


def test_a_reference_that_ranks_did_not_load_names_the_setting_and_is_not_resumed_with(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remedy = "write fsdp_cpu_ram_efficient_loading: false"
    monkeypatch.setattr(reference, "_is_loaded_by_the_first_rank", lambda trainer: True)
    changed(monkeypatch, lambda trainer: shift(trainer.ref_model, 1.0))
    with pytest.raises(EngineError, match=f"{STOPPED}.*{remedy}"):
        run_stage(config(), inputs, tmp_path)

    class Trainer:
        ref_model = object()

    with pytest.raises(EngineError, match=remedy):
        reference.require_loaded_reference(Trainer())  # type: ignore[arg-type]
