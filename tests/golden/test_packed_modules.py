"""The packed pass through the model's own modules, as it runs on GPUs and in mixed precision."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from passes import (
    GROUP,
    assert_same,
    batch,
    bfloat16_distances,
    fill_adapters,
    loss_and_gradients,
    make_trainer,
    save_model,
    with_old_and_reference,
)
from transformers import AutoModelForCausalLM, Qwen3Config

from factory.cpu import layers, packed, packed_logprobs
from factory.cpu.packed import Group, pack_groups
from factory.trainers.lora import LoraConfig


@pytest.fixture
def no_hands(float64_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """No backward pass by hand, and an error where one is taken all the same."""
    for module in (layers, packed, packed_logprobs):
        monkeypatch.setattr(module, "is_by_hand", lambda tensor: False)
    for name in ("Lookup", "Products", "Norm", "Rotation"):
        monkeypatch.setattr(layers, name, None)
    monkeypatch.setattr(packed_logprobs, "HeadLogprobs", None)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_modules_give_trls_loss_and_gradients(
    no_hands: None, architecture: str, tmp_path: Path
) -> None:
    trainer = make_trainer(save_model(tmp_path / "model", architecture), tmp_path)
    for beta in (0.0, 0.05):
        trainer.beta = beta
        inputs = with_old_and_reference(trainer, batch(), old=True)
        plain = loss_and_gradients(trainer, inputs, None)
        assert_same(plain, loss_and_gradients(trainer, inputs, 2 * GROUP))
    trainer.model.gradient_checkpointing_enable()
    assert_same(plain, loss_and_gradients(trainer, inputs, GROUP))


def test_adapters_train_through_modules(no_hands: None, tmp_path: Path) -> None:
    trainer = make_trainer(
        save_model(tmp_path / "model", "qwen2"), tmp_path, lora=LoraConfig(rank=4)
    )
    fill_adapters(trainer)
    inputs = with_old_and_reference(trainer, batch(), old=True)
    plain = loss_and_gradients(trainer, inputs, None)
    assert_same(plain, loss_and_gradients(trainer, inputs, GROUP))


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_in_bfloat16_gradients_are_as_near_to_float32_as_trls(
    architecture: str, tmp_path: Path
) -> None:
    """Rounding is all that may differ, and it is about that of TRL's own bfloat16 pass.

    Not in float64, of which autocast makes no bfloat16.
    """
    mixed, trls, ours = bfloat16_distances(architecture, tmp_path, "cpu")
    assert mixed.accelerator.native_amp
    assert 1e-4 < ours() < 1.5 * trls
    mixed.model.gradient_checkpointing_enable()
    assert 1e-4 < ours() < 1.5 * trls


def test_no_tensor_strays_from_the_models_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On torch's device without storage, in place of a GPU: there too ops refuse to mix devices."""
    # It knows nothing of that device.
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    config = Qwen3Config(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).to("meta")
    pack = pack_groups([Group([1, 2], [[3, 4], [5]]), Group([6], [[7, 8, 9]])], "meta")
    logprobs, entropies = packed_logprobs._score(model, pack, 1.3)
    assert logprobs.is_meta and entropies.is_meta and logprobs.shape == (6,)
    logprobs.sum().backward()
    assert all(parameter.grad.is_meta for parameter in model.parameters())
    strayed = replace(pack, prompt_mask=torch.ones(1, 1, 2, 2, dtype=torch.bool))
    with pytest.raises(RuntimeError, match="device"):
        packed_logprobs._score(model, strayed, 1.3)
