"""Parts of a causal model by name and type, which torch's `Module` does not tell."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer


class Attention(Protocol):
    """Of a layer; only Qwen3's has norms."""

    head_dim: int
    q_norm: nn.Module
    k_norm: nn.Module
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    o_proj: nn.Linear


class FeedForward(Protocol):
    gate_proj: nn.Linear
    up_proj: nn.Linear
    down_proj: nn.Linear


class Layer(Protocol):
    """Of a Llama- or Qwen-shaped model. Under LoRA adapters stand in place of linear layers."""

    self_attn: Attention
    mlp: FeedForward
    input_layernorm: nn.Module
    post_attention_layernorm: nn.Module


class Rotation(Protocol):
    inv_freq: Tensor
    attention_scaling: float

    def __call__(self, hidden: Tensor, positions: Tensor, /) -> tuple[Tensor, Tensor]:
        """Cosine and sine of the angles of these positions."""
        ...


class Backbone(Protocol):
    """A Llama- or Qwen-shaped model without its head."""

    layers: Sequence[Layer]
    norm: nn.Module
    rotary_emb: Rotation


def backbone_of(model: "PreTrainedModel") -> Backbone:
    """Of a model whose type is among those that a caller covers."""
    return cast(Backbone, model.base_model)


def causal_model(model: nn.Module) -> "PreTrainedModel":
    """The causal language model itself, inside a PEFT wrapper or not."""
    inner: Any = model
    return inner.get_base_model() if hasattr(model, "get_base_model") else inner


def trained_model(trainer: "Trainer") -> "PreTrainedModel":
    """What a trainer trains; a PEFT wrapper answers for the model in it."""
    return cast("PreTrainedModel", trainer.model)


def embedding_of(model: "PreTrainedModel") -> nn.Embedding:
    """The table of tokens that a model reads by."""
    return cast(nn.Embedding, model.get_input_embeddings())


def head_of(model: "PreTrainedModel") -> nn.Linear:
    """The layer that scores the next token; its weight may be the embedding's own."""
    return cast(nn.Linear, model.get_output_embeddings())


def move(model: nn.Module, device: torch.device | str) -> None:
    """Move a model in place: transformers' own `to` hides its parameters from type checkers."""
    model.to(device)
