"""One flat row for many prompt groups: each prompt is run once and shared by its completions.

    [prompt 1, c 1.1, ..., c 1.G, prompt 2, c 2.1, ...]     (N cells, no padding)

Linear layers see the flat row. Position ids restart after the prompt for every completion, so a
token sits at the position it has in a row of its own. Attention is two small padded batches:
prompts on themselves, and completions on (own prompt + own past). The last token of a completion
is scored but is never an input. It is the same computation as one padded row a sample, gradient
into the prompt included; only the order of additions differs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

ATTENTION = "shared_prompt"
"""Name under which transformers finds the attention below; no mask is built for that name."""

COVERED = ("llama", "qwen2", "qwen3")
"""Model types whose layers were checked against the plain pass."""


@dataclass(frozen=True)
class Group:
    """A prompt and its completions as token ids; no list is empty."""

    prompt: Sequence[int]
    completions: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Pack:
    """Where every token of some groups sits in the flat row, and what is scored there.

    N cells; U prompts, the longest of P tokens; B completions with at least two tokens (so with
    at least one input), the longest of C inputs; R scored cells; T tokens of all completions.
    """

    input_ids: Tensor
    """(N,)"""
    position_ids: Tensor
    """(N,)"""
    prompt_cells: Tensor
    """(U, P) cell of every prompt token, right-padded with cell 0."""
    completion_cells: Tensor
    """(B, C) cell of every completion input, right-padded with cell 0."""
    owner: Tensor
    """(B,) prompt of each completion."""
    prompt_mask: Tensor
    """(1, 1, P, P) causal."""
    completion_mask: Tensor
    """(B, 1, C, P + C) own prompt's tokens, then causal."""
    unpad: Tensor
    """(N,) place of each cell among the U*P + B*C padded outputs."""
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
    completion_cells, completion_valid = _padded(inputs)
    unpad = torch.empty(len(ids), dtype=torch.long)
    offset = prompt_cells.numel()
    unpad[prompt_cells[prompt_valid]] = prompt_valid.view(-1).nonzero()[:, 0]
    unpad[completion_cells[completion_valid]] = offset + completion_valid.view(-1).nonzero()[:, 0]
    owners = torch.tensor(owner, dtype=torch.long)
    own_prompt = prompt_valid[owners][:, None, None, :].expand(-1, 1, completion_cells.shape[1], -1)
    own_past = _causal(completion_cells.shape[1]).expand(len(owner), -1, -1, -1)
    fields = {
        "input_ids": torch.tensor(ids),
        "position_ids": torch.tensor(positions),
        "prompt_cells": prompt_cells,
        "completion_cells": completion_cells,
        "owner": owners,
        "prompt_mask": _causal(prompt_cells.shape[1]),
        "completion_mask": torch.cat([own_prompt, own_past], dim=-1),
        "unpad": unpad,
        "scored_cells": torch.tensor(scored),
        "pair_row": torch.tensor(pair_row),
        "pair_token": torch.tensor(pair_token),
    }
    return Pack(**{name: tensor.to(device) for name, tensor in fields.items()})


def _padded(spans: Sequence[range]) -> tuple[Tensor, Tensor]:
    """Cells (rows, longest), right-padded with cell 0, and which of them are real."""
    width = max((len(span) for span in spans), default=0)
    cells = torch.zeros(len(spans), width, dtype=torch.long)
    valid = torch.zeros(len(spans), width, dtype=torch.bool)
    for row, span in enumerate(spans):
        cells[row, : len(span)] = torch.arange(span.start, span.stop)
        valid[row, : len(span)] = True
    return cells, valid


def _causal(length: int) -> Tensor:
    return torch.ones(1, 1, length, length, dtype=torch.bool).tril()


def shared_prompt_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    pack: Pack,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of a flat row; called by transformers' layers with what the model was given.

    Shapes: query (1, H, N, D), key and value (1, KV, N, D) -> (1, N, H, D).
    """
    prompt_query, prompt_key, prompt_value = (
        _gather(tensor, pack.prompt_cells) for tensor in (query, key, value)
    )
    outputs = [_attend(prompt_query, prompt_key, prompt_value, pack.prompt_mask, scaling)]
    if len(pack.owner):
        own_query, own_key, own_value = (
            _gather(tensor, pack.completion_cells) for tensor in (query, key, value)
        )
        keys = torch.cat([prompt_key[pack.owner], own_key], dim=2)
        values = torch.cat([prompt_value[pack.owner], own_value], dim=2)
        outputs.append(_attend(own_query, keys, values, pack.completion_mask, scaling))
    flat = torch.cat([output.transpose(1, 2).flatten(0, 1) for output in outputs])
    return flat.index_select(0, pack.unpad)[None], None


def _gather(heads: Tensor, cells: Tensor) -> Tensor:
    """(1, heads, N, D) at cells (rows, length) -> (rows, heads, length, D)."""
    picked = heads[0].index_select(1, cells.view(-1))
    return picked.unflatten(1, cells.shape).transpose(0, 1)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """Attention (rows, H, length, D) under a boolean mask.

    Query heads that share a key-value head are folded into the query length, so keys and values
    are not copied once a head.
    """
    heads, length = query.shape[1:3]
    folds = heads // key.shape[1]
    folded = query.reshape(len(query), key.shape[1], folds * length, -1)
    output = scaled_dot_product_attention(
        folded, key, value, attn_mask=mask.repeat(1, 1, folds, 1), scale=scaling
    )
    return output.reshape(len(query), heads, length, -1)


AttentionInterface.register(ATTENTION, shared_prompt_attention)


def causal_model(model: torch.nn.Module) -> PreTrainedModel:
    """The causal language model itself, inside a PEFT wrapper or not."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


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
    if inner.get_output_embeddings().bias is not None:
        return "the LM head has a bias"
    if inner.dtype != torch.float32:
        return f"weights are {inner.dtype}, not float32"
    return None


def hidden_states(model: torch.nn.Module, pack: Pack) -> Tensor:
    """Last hidden states (R, width) at the scored cells."""
    inner = causal_model(model)
    embedding = inner.get_input_embeddings()
    with _attention_of(inner):
        output = inner.base_model(
            inputs_embeds=Lookup.apply(pack.input_ids, embedding.weight, embedding.padding_idx)[
                None
            ],
            position_ids=pack.position_ids[None],
            use_cache=False,
            pack=pack,
        )
    return output.last_hidden_state[0].index_select(0, pack.scored_cells)


class Lookup(torch.autograd.Function):
    """Rows of an embedding; the gradient is added to `weight.grad` itself.

    torch's own makes a gradient of the whole vocabulary for every pack, most of it zeros. As
    there, the padding token's row gets none.
    """

    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, padding: int | None) -> Tensor:
        ctx.save_for_backward(ids, weight)
        ctx.padding = padding
        return weight[ids]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        ids, weight = ctx.saved_tensors
        if ctx.padding is not None:
            gradient = gradient.masked_fill((ids == ctx.padding)[:, None], 0.0)
        gradient_of(weight).index_add_(0, ids, gradient)
        return None, None, None


def gradient_of(weight: Tensor) -> Tensor:
    """The weight's `grad`, to be added to in place; zeros where there is none yet."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad


@contextmanager
def _attention_of(model: PreTrainedModel) -> Iterator[None]:
    # Set for this call only: `generate` and the plain pass use the same module.
    before = model.config._attn_implementation
    model.config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        model.config._attn_implementation = before
