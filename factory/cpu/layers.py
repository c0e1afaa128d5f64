"""The layers of a Llama or Qwen decoder over a flat row of tokens, with backward passes by hand.

The formulas are transformers' own; what differs is what it costs. torch's backward makes a
gradient for every use of a weight and then adds it to `grad`; here the product itself adds to
`grad`. A norm is three passes over its input instead of five, a rotation two instead of five, and
their backward passes likewise. On a CPU this takes a fifth off a training pass of a small model,
of which three quarters are matrix products.

On other devices and in mixed precision the model's own modules are called instead, so autograd and
autocast do there what they do in TRL's pass. So are everywhere modules that are not plain linear
layers (LoRA's).

By hand, `backward` may run once a forward pass. Parameters are kept as they are and not through
`save_for_backward`: under gradient checkpointing that gives back copies, and what is added to the
`grad` of a copy is lost.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from factory.models.parts import Layer, backbone_of, embedding_of

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Attention of the flat row: (N, H, D), (N, KV, D), (N, KV, D) -> (N, H, D)."""


def is_by_hand(tensor: Tensor) -> bool:
    """Whether the backward passes of this file are taken: on CPUs, in one precision."""
    return tensor.is_cpu and not torch.is_autocast_enabled("cpu")


def last_hidden(
    inner: PreTrainedModel, input_ids: Tensor, position_ids: Tensor, attend: Attend
) -> Tensor:
    """Hidden states (N, width) after the last norm of a causal model, for a flat row (N,)."""
    decoder, table = backbone_of(inner), embedding_of(inner)
    if is_by_hand(table.weight):
        hidden = Lookup.apply(input_ids, table.weight, table.padding_idx)
    else:
        hidden = table(input_ids)
    cosine, sine = decoder.rotary_emb(hidden[None], position_ids[None])
    half = cosine.shape[-1] // 2
    # Both halves hold the same angles.
    angles = cosine[0, :, None, :half], sine[0, :, None, :half]
    is_saving = inner.is_gradient_checkpointing and torch.is_grad_enabled()
    for layer in decoder.layers:
        if is_saving:
            hidden = checkpoint(_layer, layer, hidden, angles, attend, use_reentrant=False)
        else:
            hidden = _layer(layer, hidden, angles, attend)
    return _norm(decoder.norm, hidden)


def _layer(layer: Layer, hidden: Tensor, angles: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
    attention, mlp = layer.self_attn, layer.mlp
    normed = _norm(layer.input_layernorm, hidden)
    projected = _products(normed, attention.q_proj, attention.k_proj, attention.v_proj)
    query, key, value = (part.unflatten(-1, (-1, attention.head_dim)) for part in projected)
    if hasattr(attention, "q_norm"):
        query, key = _norm(attention.q_norm, query), _norm(attention.k_norm, key)
    attended = attend(_turned(query, *angles), _turned(key, *angles), value)
    hidden = hidden + _products(attended.flatten(1), attention.o_proj)[0]
    normed = _norm(layer.post_attention_layernorm, hidden)
    gate, up = _products(normed, mlp.gate_proj, mlp.up_proj)
    return hidden + _products(silu(gate) * up, mlp.down_proj)[0]


def _products(rows: Tensor, *modules: nn.Module) -> tuple[Tensor, ...]:
    """What linear layers make of the same rows."""
    if is_by_hand(rows) and all(type(module) is nn.Linear for module in modules):
        flat = [tensor for module in modules for tensor in (module.weight, module.bias)]
        return Products.apply(rows, *flat)
    return tuple(module(rows) for module in modules)


def _norm(module: Any, rows: Tensor) -> Tensor:
    if is_by_hand(rows):
        return Norm.apply(rows, module.weight, module.variance_epsilon)
    return module(rows)


def _turned(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions of heads (N, H, D); see `Rotation`."""
    if is_by_hand(heads):
        return Rotation.apply(heads, cosine, sine)
    left, right = heads.chunk(2, dim=-1)
    return torch.cat([left * cosine - right * sine, right * cosine + left * sine], dim=-1)


def gradient_of(weight: Tensor) -> Tensor:
    """The weight's `grad`, to be added to in place; zeros where there is none yet."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad


class Lookup(Function):
    """Rows of an embedding; the gradient is added to `weight.grad` itself.

    torch's own makes a gradient of the whole vocabulary for every pack, most of it zeros. As
    there, the padding token's row gets none.
    """

    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, padding: int | None) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.weight, ctx.padding = weight, padding
        return weight[ids]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        (ids,) = ctx.saved_tensors
        if ctx.padding is not None:
            gradient = gradient.masked_fill((ids == ctx.padding)[:, None], 0.0)
        gradient_of(ctx.weight).index_add_(0, ids, gradient)
        return None, None, None


class Products(Function):
    """x @ W.T + b for several pairs of W and b (or None), as a tuple.

    With g the gradient of a product: dx = sum of g @ W; to W.grad is added g.T @ x, to b.grad the
    column sums of g. Shapes: x (N, in), W (out, in), b (out,) -> (N, out).
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, *weights: Any) -> tuple[Tensor, ...]:
        ctx.save_for_backward(rows)
        ctx.pairs = list(zip(weights[::2], weights[1::2], strict=True))
        return tuple(nn.functional.linear(rows, weight, bias) for weight, bias in ctx.pairs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (rows,) = ctx.saved_tensors
        rows_gradient = None
        for gradient, (weight, bias) in zip(gradients, ctx.pairs, strict=True):
            if rows_gradient is None:
                rows_gradient = gradient @ weight
            else:
                rows_gradient.addmm_(gradient, weight)
            if weight.requires_grad and weight.grad is None:
                weight.grad = gradient.T @ rows
            elif weight.requires_grad:
                weight.grad.addmm_(gradient.T, rows)
            if bias is not None and bias.requires_grad:
                gradient_of(bias).add_(gradient.sum(dim=0))
        return rows_gradient, *(None for pair in ctx.pairs for _ in pair)


class Norm(Function):
    """Root mean square norm, y = w * x / s with s = sqrt(mean(x^2) + epsilon), over the last axis.

    With n its width, u = x / s and g the gradient of y:

        dx = (w g - u mean(w g u)) / s        dw = sum over rows of g u
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        inverse = length.square_().div_(rows.shape[-1]).add_(epsilon).rsqrt_()
        unit = rows * inverse
        ctx.save_for_backward(unit, inverse)
        ctx.weight = weight
        return unit * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        unit, inverse = ctx.saved_tensors
        weight = ctx.weight
        shared = gradient * unit
        mean = (shared @ weight).div_(weight.numel())[..., None]
        if weight.requires_grad:
            gradient_of(weight).add_(shared.flatten(0, -2).sum(dim=0))
        rows_gradient = torch.mul(gradient, weight, out=shared)
        return rows_gradient.addcmul_(unit, mean, value=-1).mul_(inverse), None, None


class Rotation(Function):
    """Rotary positions: the halves (a, b) of every head become (a cos - b sin, b cos + a sin).

    The gradient is turned back by the same angles. Shapes: heads (N, H, D), cos and sin
    (N, 1, D / 2).
    """

    @staticmethod
    def forward(ctx: Any, heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        return _rotated(heads, cosine, sine, sign=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _rotated(gradient, *ctx.saved_tensors, sign=-1), None, None


def _rotated(heads: Tensor, cosine: Tensor, sine: Tensor, *, sign: int) -> Tensor:
    turned = torch.empty_like(heads)
    (first, second), (left, right) = heads.chunk(2, dim=-1), turned.chunk(2, dim=-1)
    torch.mul(first, cosine, out=left).addcmul_(second, sine, value=-sign)
    torch.mul(second, cosine, out=right).addcmul_(first, sine, value=sign)
    return turned
