"""Training in little memory: 16-bit and packed bases under adapters, 8-bit Adam, adapters kept."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from fine_tuning import MACHINE, config, sealed, stage
from peft import PeftModel
from safetensors.torch import load_file

from factory.core.artifacts import InputEntry, Inputs
from factory.core.errors import RecipeError
from factory.core.machine import Machine
from factory.models.tiny import save_tiny_model
from factory.publish.export import write_adapters, write_weights
from factory.stages.sft.config import SftConfig
from factory.trainers import lowmem as lora_module
from factory.trainers import running
from factory.trainers.adapters import open_policy
from factory.trainers.lora import LoraConfig
from factory.trainers.lowmem import gaps
from factory.trainers.opening import open_model
from factory.trainers.telemetry import Telemetry

PACKED = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes: extra lowmem")
ROUNDED = MACHINE.model_copy(update={"dtype": "bfloat16"})
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits.float()


def adapted(folder: Path, base: Any) -> Any:
    return PeftModel.from_pretrained(base, str(folder / "adapter"))


def test_a_frozen_base_lies_in_the_dtype_of_the_products(sft_inputs: Inputs) -> None:
    folder = sft_inputs["model"].path
    adapters = LoraConfig(rank=2)
    for settings, machine, dtype in (
        (adapters, ROUNDED, torch.bfloat16), (adapters, MACHINE, torch.float32),
        (None, ROUNDED, torch.float32),
    ):  # fmt: skip
        model = open_policy(folder, settings, machine)
        assert {p.dtype for p in model.parameters()} == {dtype}


def test_adapters_learn_in_float32_on_a_base_of_16_bits(
    tmp_path: Path, sft_inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[bool, set[torch.dtype]] = {}

    def look(trainer: Any, *_: Any) -> None:
        for parameter in trainer.model.parameters():
            seen.setdefault(parameter.requires_grad, set()).add(parameter.dtype)

    checked = running.require_shards
    monkeypatch.setattr(running, "require_shards", lambda *args: (look(*args), checked(*args)))
    stage(tmp_path, config(lora=LoraConfig(rank=2)), sft_inputs, machine=ROUNDED)
    assert seen == {True: {torch.float32}, False: {torch.bfloat16}}


def test_kept_adapters_on_their_base_are_the_merged_model(
    tmp_path: Path, sft_inputs: Inputs
) -> None:
    settings = config(lora=LoraConfig(rank=2, keep="both"), learning_rate=1e-2)
    stage(tmp_path, settings, sft_inputs)
    out = tmp_path / "out"
    assert {path.name for path in (out / "adapter").iterdir()} >= {
        "adapter_config.json", "adapter_model.safetensors",
    }  # fmt: skip
    base = sft_inputs["model"].path
    alone, merged = logits(open_model(base)), logits(open_model(out))
    kept = logits(adapted(out, open_model(base)))
    assert float((kept - merged).abs().max()) < 1e-5
    assert float((alone - merged).abs().max()) > 1e-3
    said = json.loads((out / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert said["base_model_name_or_path"] == base.name  # no path of this machine


def test_adapters_are_published_with_their_base_as_the_hub_names_it(
    tmp_path: Path, sft_inputs: Inputs
) -> None:
    stage(tmp_path, config(lora=LoraConfig(rank=2, keep="both")), sft_inputs)
    made, base = sealed(tmp_path / "out", "model"), sft_inputs["model"]
    source = {"type": "hub", "id": "owner/base", "revision": "a" * 40}
    hub = replace(base, manifest=base.manifest.model_copy(update={"config": {"source": source}}))
    entry = InputEntry(name="base", fingerprint=base.fingerprint)
    student = replace(made, manifest=made.manifest.model_copy(update={"inputs": {"model": entry}}))
    folder = tmp_path / "published"
    folder.mkdir()
    write_weights(student, folder)
    write_adapters(student, [hub], folder)
    assert {path.name for path in folder.glob("*.safetensors")} == {"model.safetensors"}
    said = json.loads((folder / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (said["base_model_name_or_path"], said["revision"]) == ("owner/base", "a" * 40)
    kept = logits(adapted(folder, open_model(base.path)))
    assert float((kept - logits(open_model(student.path))).abs().max()) < 1e-5
    plain = tmp_path / "plain"
    plain.mkdir()
    write_adapters(base, [hub], plain)
    assert list(plain.iterdir()) == []


@PACKED
@pytest.mark.parametrize("base", ["int8", "nf4"])
def test_what_is_saved_is_the_rounded_base_with_what_was_learned_on_it(
    base: Any, tmp_path: Path, sft_inputs: Inputs
) -> None:
    settings = config(lora=LoraConfig(rank=2, base=base, keep="both"), learning_rate=1e-2)
    model = sealed(save_tiny_model(tmp_path / "model", "llama", hidden=64, layers=1), "model")
    inputs = Inputs(model=model, traces=sft_inputs["traces"])
    metrics, _ = stage(tmp_path, settings, inputs)
    out, folder = tmp_path / "out", model.path
    assert metrics["loss_last"] < metrics["loss_first"]
    source, merged = load_file(folder / "model.safetensors"), load_file(out / "model.safetensors")
    assert source.keys() == merged.keys()
    assert "quantization" not in (out / "config.json").read_text(encoding="utf-8")
    delta = load_file(out / "adapter" / "adapter_model.safetensors")
    scale = settings.lora.alpha / settings.lora.rank if settings.lora else 0.0
    worst = 0.0
    for name, weight in merged.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" not in delta:
            assert torch.equal(weight, source[name])
            continue
        low, high = delta[f"{stem}.lora_A.weight"], delta[f"{stem}.lora_B.weight"]
        rounded = weight - scale * high @ low
        gap = (rounded - source[name]).abs()
        worst = max(worst, float(gap.max()))
        # NF4: the widest gap between two of its sixteen values is 0.304 of a block's largest.
        bound = 0.152 if base == "nf4" else 1 / 254 + 1e-6
        assert float(gap.max()) <= (bound + 0.005) * float(source[name].abs().max())
    assert worst > 0
    packed = open_policy(folder, settings.lora, MACHINE)
    kept = logits(adapted(out, packed))
    assert float((kept - logits(open_model(out))).abs().max()) < (5e-2 if base == "int8" else 1e-2)


@PACKED
def test_eight_bit_adam_learns_and_goes_on_to_the_same_bytes(
    tmp_path: Path, sft_inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks of fewer than 4,096 numbers keep 32-bit moments: a wider model has larger ones.
    settings = config(optimizer="adamw_8bit")
    model = sealed(save_tiny_model(tmp_path / "model", "llama", hidden=128, layers=1), "model")
    inputs = Inputs(model=model, traces=sft_inputs["traces"])
    metrics, _ = stage(tmp_path / "whole", settings, inputs)
    assert metrics["loss_last"] < metrics["loss_first"]
    stage(tmp_path / "plain", config(), inputs)
    original, logged = Telemetry.on_log, []

    def stops(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        logged.append(0)
        if len(logged) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(Telemetry, "on_log", stops)
    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path / "stopped", settings, inputs)
    monkeypatch.undo()
    _, events = stage(tmp_path / "stopped", settings, inputs)
    assert next(event["done"] for event in events if event["event"] == "progress") > 1
    full, plain, resumed = (
        (tmp_path / run / "out" / "model.safetensors").read_bytes()
        for run in ("whole", "plain", "stopped")
    )
    assert full == resumed != plain


def test_what_is_not_installed_is_said_before_a_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora_module, "find_spec", lambda name: None)
    fields = {"kind": "sft", "model": "m", "traces": "t"}
    said = [
        gaps(SftConfig.model_validate({**fields, **more}))
        for more in (
            {"lora": {"base": "nf4"}}, {"optimizer": "adamw_8bit"},
            {"trl": {"optim": "adamw_8bit"}}, {"lora": {}}, {},
        )
    ]  # fmt: skip
    assert [len(lines) for lines in said] == [1, 1, 1, 0, 0]
    assert said[0][0].startswith("lora.base: nf4: needs bitsandbytes")


@PACKED
def test_rows_that_blocks_would_straddle_are_refused(sft_inputs: Inputs) -> None:
    with pytest.raises(RecipeError, match=r"rows of \[32, 64\]: take lora.base: plain"):
        open_policy(sft_inputs["model"].path, LoraConfig(base="nf4"), MACHINE)


def test_packed_weights_are_not_divided(sft_inputs: Inputs) -> None:
    shards = Machine.model_validate(
        {"device": "cpu", "launcher": "accelerate", "processes": 2, "train": {"shard": "fsdp2"}}
    )
    with pytest.raises(RecipeError, match=r"lora\.base: nf4: packed weights are not divided"):
        open_policy(sft_inputs["model"].path, LoraConfig(base="nf4"), shards)
