"""Attention by two products against transformers' own, and where each is taken."""

from pathlib import Path
from typing import Any

import pytest
import torch
from doubles import CLOSE
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
)

import factory.cpu.attention
from factory.cpu.attention import TWO_PRODUCTS, attention
from factory.models.tiny import byte_tokenizer
from factory.stages.sft import trainer
from factory.trainers.opening import open_model

SHAPE: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2,
}  # fmt: skip
pytestmark = pytest.mark.usefixtures("float64")
IDS = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 0, 0]])
PADDED = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def loss_and_gradient(implementation: str, mask: torch.Tensor | None) -> tuple[float, torch.Tensor]:
    torch.manual_seed(0)
    model = LlamaForCausalLM._from_config(
        LlamaConfig(**SHAPE), attn_implementation=implementation, dtype=torch.float32
    )
    labels = IDS if mask is None else IDS.masked_fill(mask == 0, -100)
    loss = model(input_ids=IDS, attention_mask=mask, labels=labels).loss
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("mask", [None, PADDED], ids=["no mask", "padded on the right"])
def test_losses_and_gradients_are_those_of_transformers_attention(
    mask: torch.Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = loss_and_gradient("sdpa", mask)
    taken: list[int] = []
    monkeypatch.setattr(
        factory.cpu.attention,
        "attention",
        lambda *args, **kwargs: taken.append(1) or attention(*args, **kwargs),
    )
    loss, gradient = loss_and_gradient(TWO_PRODUCTS, mask)
    assert len(taken) == 2
    assert loss == pytest.approx(expected[0], rel=CLOSE)
    assert (gradient - expected[1]).norm() < CLOSE * expected[1].norm()


def test_many_scores_of_a_row_and_other_types_go_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = torch.full((6, 6), float("-inf")).triu_(1)
    query, key, value = torch.randn(3, 2, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    few = attention(query, key, value, mask)
    calls: list[torch.dtype] = []
    own = factory.cpu.attention.scaled_dot_product_attention
    monkeypatch.setattr(
        factory.cpu.attention,
        "scaled_dot_product_attention",
        lambda *args, **kwargs: calls.append(args[0].dtype) or own(*args, **kwargs),
    )
    half = [part.bfloat16() for part in (query, key, value)]
    assert torch.equal(attention(*half, mask.bfloat16()), own(*half, attn_mask=mask.bfloat16()))
    with torch.autocast("cpu", torch.bfloat16):
        attention(query, key, value, mask)
    monkeypatch.setattr(factory.cpu.attention, "ROW_BYTES", 3 * 6 * 6 * 8 - 1)
    assert torch.allclose(attention(query, key, value, mask), few, atol=CLOSE)
    assert calls == [torch.bfloat16, torch.float32, torch.float32]


@pytest.mark.parametrize("rows_of_mask", [None, 1, 5])
def test_many_rows_go_through_in_parts(
    rows_of_mask: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 5, 3, 6, 8, generator=stream)
    shape = (6, 6) if rows_of_mask is None else (rows_of_mask, 1, 6, 6)
    mask = torch.randn(shape, generator=stream)
    full = attention(query, key, value, mask)
    monkeypatch.setattr(factory.cpu.attention, "PART_BYTES", 2 * 3 * 6 * 6 * 8)
    assert torch.allclose(attention(query, key, value, mask), full, atol=CLOSE)
    alone = [
        attention(query[row : row + 1], key[row : row + 1], value[row : row + 1],
                  mask[row : row + 1] if rows_of_mask == 5 else mask)
        for row in range(5)
    ]  # fmt: skip
    assert torch.allclose(torch.cat(alone), full, atol=CLOSE)


def test_a_saved_model_does_not_name_it(tmp_path: Path) -> None:
    model = LlamaForCausalLM._from_config(LlamaConfig(**SHAPE), attn_implementation=TWO_PRODUCTS)
    model.save_pretrained(tmp_path)
    assert TWO_PRODUCTS not in (tmp_path / "config.json").read_text(encoding="utf-8")
    assert AutoConfig.from_pretrained(tmp_path)._attn_implementation != TWO_PRODUCTS


@pytest.mark.parametrize(
    ("config", "taken"), [(LlamaConfig, TWO_PRODUCTS), (MistralConfig, "sdpa")]
)
def test_fine_tuning_leaves_models_that_were_not_checked_their_own(
    config: Any, taken: str, tmp_path: Path
) -> None:
    AutoModelForCausalLM.from_config(config(**SHAPE)).save_pretrained(tmp_path)
    model = open_model(tmp_path)
    trainer._fit_to_texts(model, byte_tokenizer(), {})
    assert model.config._attn_implementation == taken
