"""Drawing tokens by inverse transform: one uniform number a row, one pass over the vocabulary.

The usual way on GPUs, exponential noise on every entry, costs a CPU more than the model itself
at small sizes: 49,152 random numbers a token. Sorting a whole vocabulary for top-p costs as much
again, though the nucleus nearly always lies among the first few hundred.
"""

import torch
from torch import Tensor

HEAD = 512
"""Most likely tokens searched for the nucleus before the whole vocabulary is sorted."""

PART = 128
"""Columns of a part of the vocabulary, a divisor of common vocabularies."""


def draw(logprobs: Tensor, top_p: float | Tensor, uniforms: Tensor) -> Tensor:
    """Tokens (rows,) drawn from log-probs (rows, vocabulary), one uniform in [0, 1) a row.

    Draws from the smallest set of most likely tokens whose mass reaches `top_p` (a number, or one
    a row), renormalised.
    """
    share = torch.as_tensor(top_p, dtype=logprobs.dtype, device=logprobs.device)
    share = share.reshape(-1, 1).expand(len(logprobs), 1)
    if bool((share >= 1.0).all()):
        return inverse(logprobs.exp(), uniforms)
    width = logprobs.shape[-1]
    ordered, index = logprobs.topk(min(HEAD, width), dim=-1)
    if bool((ordered.exp().sum(dim=-1, keepdim=True) < share).any()):
        ordered, index = logprobs.sort(dim=-1, descending=True)
    mass = ordered.exp()
    before = mass.cumsum(dim=-1) - mass
    position = inverse(mass.masked_fill(before >= share, 0.0), uniforms)
    return index.gather(1, position[:, None])[:, 0]


def inverse(mass: Tensor, uniforms: Tensor) -> Tensor:
    """First column whose cumulative mass exceeds the row's uniform share of the total.

    Of a whole vocabulary the sums of parts of PART columns are looked at first: running sums of
    every column take a CPU five times as long as plain sums.
    Shapes: mass (rows, columns), uniforms (rows,) in [0, 1) -> (rows,).
    """
    columns = mass.shape[-1]
    is_whole = columns > HEAD and columns % PART == 0
    parts = mass.unflatten(1, (-1, PART)) if is_whole else mass[:, None]
    sums = parts.sum(dim=-1)
    cumulative = sums.cumsum(dim=-1)
    target = uniforms.to(mass.dtype)[:, None] * cumulative[:, -1:]
    part = torch.searchsorted(cumulative, target, right=True).clamp_(max=parts.shape[1] - 1)
    # Rounding can put the target just before its part, where the first columns may have no mass.
    rest = (target - (cumulative - sums).gather(1, part)).clamp_(min=0)
    inside = parts[torch.arange(len(mass), device=mass.device), part[:, 0]].cumsum(dim=-1)
    index = torch.searchsorted(inside, rest, right=True)
    tokens = (part * parts.shape[2] + index)[:, 0]
    # Or at the very total, past every column with mass.
    past = (index >= parts.shape[2])[:, 0]
    if not bool(past.any()):
        return tokens
    last = columns - 1 - (mass > 0).int().flip(-1).argmax(dim=-1)
    return torch.where(past, last, tokens)
