"""One flat row for many prompt groups: each prompt is run once and shared by its completions.

    [prompt 1, c 1.1, ..., c 1.G, prompt 2, c 2.1, ...]     (N cells, no padding)

Linear layers see the flat row. Position ids restart after the prompt for every completion, so a
token sits at the position it has in a row of its own. Attention is a few small padded batches:
prompts on themselves, and completions of about one length on (own prompt + own past). The last
token of a completion is scored but is never an input. It is the same computation as one padded row
a sample, gradient into the prompt included; only the order of additions differs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from factory.cpu.attention import attention
from factory.cpu.layers import is_by_hand, last_hidden
from factory.models.parts import causal_model, embedding_of, head_of

ALIKE = 0.5
"""Completions attend together that are at least this share of the longest among them. Scores grow
with the square of a length, and RL's completions are many short ones and a few at the limit."""

COVERED = ("llama", "qwen2", "qwen3")
"""Model types whose layers were checked against the plain pass."""


@dataclass(frozen=True)
class Group:
    """A prompt and its completions as token ids; no list is empty."""

    prompt: Sequence[int]
    completions: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Alike:
    """Completions that attend together: B of them with at least one input, the longest of C."""

    cells: Tensor
    """(B, C) cell of every completion input, right-padded with cell 0."""
    owner: Tensor
    """(B,) prompt of each completion."""
    mask: Tensor
    """(B, 1, C, P + C) own prompt's tokens, then causal."""


@dataclass(frozen=True)
class Pack:
    """Where every token of some groups sits in the flat row, and what is scored there.

    N cells; U prompts, the longest of P tokens; R scored cells; T tokens of all completions.
    """

    input_ids: Tensor
    """(N,)"""
    position_ids: Tensor
    """(N,)"""
    prompt_cells: Tensor
    """(U, P) cell of every prompt token, right-padded with cell 0."""
    prompt_mask: Tensor
    """(1, 1, P, P) causal."""
    completions: tuple[Alike, ...]
    """Those of at least two tokens, the longest first."""
    unpad: Tensor
    """(N,) place of each cell among the padded outputs of prompts and completions."""
    scored_cells: Tensor
    """(R,) cells whose next token is scored; a prompt's last cell stands once for its group."""
    pair_row: Tensor
    """(T,) index into `scored_cells` for every completion token, completion after completion."""
    pair_token: Tensor
    """(T,) the token scored there."""


def pack_groups(groups: Sequence[Group], device: torch.device | str = "cpu") -> Pack:
    """The flat row of these groups, completions in the order given."""
    ids: list[int] = []
    positions: list[int] = []
    prompts: list[range] = []
    inputs: list[range] = []
    owner: list[int] = []
    scored: list[int] = []
    pair_row: list[int] = []
    pair_token: list[int] = []
    for group in groups:
        length = len(group.prompt)
        prompts.append(range(len(ids), len(ids) + length))
        ids += group.prompt
        positions += range(length)
        prompt_row = len(scored)
        scored.append(len(ids) - 1)
        for completion in group.completions:
            cells = range(len(ids), len(ids) + len(completion) - 1)
            pair_row += [prompt_row, *range(len(scored), len(scored) + len(cells))]
            pair_token += completion
            scored += cells
            ids += completion[:-1]
            positions += range(length, length + len(cells))
            if cells:
                inputs.append(cells)
                owner.append(len(prompts) - 1)

    prompt_cells, prompt_valid = _padded(prompts)
    unpad = torch.empty(len(ids), dtype=torch.long)
    unpad[prompt_cells[prompt_valid]] = prompt_valid.view(-1).nonzero()[:, 0]
    offset = prompt_cells.numel()
    completions = []
    for rows in _alike(inputs):
        cells, valid = _padded([inputs[row] for row in rows])
        unpad[cells[valid]] = offset + valid.view(-1).nonzero()[:, 0]
        offset += cells.numel()
        owners = torch.tensor([owner[row] for row in rows])
        mask = _completion_mask(prompt_valid[owners].to(device), cells.shape[1])
        completions.append(Alike(cells.to(device), owners.to(device), mask))
    fields = {
        "input_ids": torch.tensor(ids),
        "position_ids": torch.tensor(positions),
        "prompt_cells": prompt_cells,
        "prompt_mask": _causal(prompt_cells.shape[1], device),
        "unpad": unpad,
        "scored_cells": torch.tensor(scored),
        "pair_row": torch.tensor(pair_row),
        "pair_token": torch.tensor(pair_token),
    }
    on_device = {name: tensor.to(device) for name, tensor in fields.items()}
    return Pack(completions=tuple(completions), **on_device)


def _alike(spans: Sequence[range]) -> list[list[int]]:
    """Places of the spans, the longest first, in runs of about one length."""
    runs: list[list[int]] = []
    for index in sorted(range(len(spans)), key=lambda index: -len(spans[index])):
        if not runs or len(spans[index]) < ALIKE * len(spans[runs[-1][0]]):
            runs.append([])
        runs[-1].append(index)
    return runs


def _padded(spans: Sequence[range]) -> tuple[Tensor, Tensor]:
    """Cells (rows, longest), right-padded with cell 0, and which of them are real."""
    width = max((len(span) for span in spans), default=0)
    cells = torch.zeros(len(spans), width, dtype=torch.long)
    valid = torch.zeros(len(spans), width, dtype=torch.bool)
    for row, span in enumerate(spans):
        cells[row, : len(span)] = torch.arange(span.start, span.stop)
        valid[row, : len(span)] = True
    return cells, valid


def _completion_mask(own_prompt: Tensor, length: int) -> Tensor:
    """Which of a prompt's P tokens are real (B, P), as the mask of completions of this length."""
    shape = (len(own_prompt), 1, length, -1)
    own_past = _causal(length, own_prompt.device).expand(shape)
    return torch.cat([own_prompt[:, None, None, :].expand(shape), own_past], dim=-1)


def _causal(length: int, device: torch.device | str) -> Tensor:
    return torch.ones(1, 1, length, length, dtype=torch.bool, device=device).tril()


def shared_prompt_attention(
    query: Tensor, key: Tensor, value: Tensor, *, pack: Pack, masks: Sequence[Tensor]
) -> Tensor:
    """Attention of a flat row: (N, H, D), (N, KV, D), (N, KV, D) -> (N, H, D).

    `masks` are those of prompts and of every run of completions as `_folded` gives them.
    """
    (prompt_query, *queries), (prompt_key, *keys), (prompt_value, *values) = (
        Spread.apply(flat, pack) for flat in (query, key, value)
    )
    outputs = [_attend(prompt_query, prompt_key, prompt_value, masks[0])]
    for alike, mask, own_query, own_key, own_value in zip(
        pack.completions, masks[1:], queries, keys, values, strict=True
    ):
        seen_key = torch.cat([prompt_key[alike.owner], own_key], dim=1)
        seen_value = torch.cat([prompt_value[alike.owner], own_value], dim=1)
        outputs.append(_attend(own_query, seen_key, seen_value, mask))
    return torch.cat([output.flatten(0, 1) for output in outputs]).index_select(0, pack.unpad)


class Spread(Function):
    """A flat row (N, heads, D) as padded prompts (U, P, heads, D) and runs of completions.

    A run is (B, C, heads, D).

    Every cell has one place there and gets that place's gradient. Padding is masked as a key and
    dropped as a query, so no gradient comes from it.
    """

    @staticmethod
    def forward(ctx: Any, flat: Tensor, pack: Pack) -> tuple[Tensor, ...]:
        ctx.unpad = pack.unpad
        return flat[pack.prompt_cells], *(flat[alike.cells] for alike in pack.completions)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        padded = torch.cat([gradient.flatten(0, 1) for gradient in gradients])
        return padded.index_select(0, ctx.unpad), None


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Attention (rows, length, H, D) under a mask that is added to the scores.

    As many query heads that share a key-value head as the mask is made for are folded into the
    query length; for the others keys and values are copied.
    """
    rows, length, heads, width = query.shape
    groups = heads * length // mask.shape[2]
    copies = groups // key.shape[2]
    if copies > 1:
        key, value = (part.repeat_interleave(copies, dim=2) for part in (key, value))
    folded = query.view(rows, length, groups, -1, width).permute(0, 2, 3, 1, 4)
    output = attention(
        folded.reshape(rows, groups, -1, width), key.transpose(1, 2), value.transpose(1, 2), mask
    )
    return output.view(rows, heads, length, width).transpose(1, 2)


def _folded(mask: Tensor, folds: int, dtype: torch.dtype) -> Tensor:
    """A boolean mask as numbers to add, its query axis once for each of `folds` query heads."""
    numbers = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, float("-inf"))
    return numbers.repeat(1, 1, folds, 1)


def _masks(inner: PreTrainedModel, pack: Pack) -> list[Tensor]:
    """The masks of prompts and of every run of completions, as one dtype and folding asks for.

    Folding spares a CPU the copies of keys and values. On GPUs, where completions are long, the
    mask is what is large: for 16 rows of 4,096 tokens after 512 of the prompt, with 6 query heads a
    key-value head, 3.6 GB in bfloat16 instead of 0.6.
    """
    weight = embedding_of(inner).weight
    folds, dtype = 1, weight.dtype
    if is_by_hand(weight):
        folds = inner.config.num_attention_heads // inner.config.num_key_value_heads
    elif torch.is_autocast_enabled(weight.device.type):
        dtype = torch.get_autocast_dtype(weight.device.type)
    masks = [pack.prompt_mask, *(alike.mask for alike in pack.completions)]
    return [_folded(mask, folds, dtype) for mask in masks]


def not_covered(model: torch.nn.Module) -> str | None:
    """Why the packed pass cannot run this model, or None if it can."""
    inner = causal_model(model)
    config = inner.config
    if config.model_type not in COVERED:
        return f"model type {config.model_type} is not one of {', '.join(COVERED)}"
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
        return "some layers attend through a sliding window"
    if getattr(config, "attention_dropout", 0.0):
        return "attention dropout is on"
    if config.hidden_act != "silu":
        return f"the activation is {config.hidden_act}, not silu"
    if head_of(inner).bias is not None:
        return "the LM head has a bias"
    if inner.dtype != torch.float32:
        return f"weights are {inner.dtype}, not float32"
    return None


def hidden_states(model: torch.nn.Module, pack: Pack) -> Tensor:
    """Last hidden states (R, width) at the scored cells."""
    inner = causal_model(model)
    # The masks are made once for all layers.
    attend = partial(shared_prompt_attention, pack=pack, masks=_masks(inner, pack))
    hidden = last_hidden(inner, pack.input_ids, pack.position_ids, attend)
    return hidden.index_select(0, pack.scored_cells)
