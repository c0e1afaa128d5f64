"""Drawing tokens by inverse transform: one uniform number a row, one pass over the vocabulary.

The usual way on GPUs, exponential noise on every entry, costs a CPU more than the model itself
at small sizes: 49,152 random numbers a token. Sorting a whole vocabulary for top-p costs as much
again, though the nucleus nearly always lies among the first few hundred.
"""

import torch
from torch import Tensor

HEAD = 512
"""Most likely tokens searched for the nucleus before the whole vocabulary is sorted."""


def draw(logprobs: Tensor, top_p: float | Tensor, uniforms: Tensor) -> Tensor:
    """Tokens (rows,) drawn from log-probs (rows, vocabulary), one uniform in [0, 1) a row.

    Draws from the smallest set of most likely tokens whose mass reaches `top_p` (a number, or one
    a row), renormalised.
    """
    share = torch.as_tensor(top_p, dtype=logprobs.dtype, device=logprobs.device)
    share = share.reshape(-1, 1).expand(len(logprobs), 1)
    if bool((share >= 1.0).all()):
        return _inverse(logprobs.exp(), uniforms)
    width = logprobs.shape[-1]
    ordered, index = logprobs.topk(min(HEAD, width), dim=-1)
    if bool((ordered.exp().sum(dim=-1, keepdim=True) < share).any()):
        ordered, index = logprobs.sort(dim=-1, descending=True)
    mass = ordered.exp()
    before = mass.cumsum(dim=-1) - mass
    place = _inverse(mass.masked_fill(before >= share, 0.0), uniforms)
    return index.gather(1, place[:, None])[:, 0]


def _inverse(mass: Tensor, uniforms: Tensor) -> Tensor:
    """First column whose cumulative mass exceeds the row's uniform share of the total."""
    cumulative = mass.cumsum(dim=-1)
    target = uniforms.to(mass.dtype)[:, None] * cumulative[:, -1:]
    place = torch.searchsorted(cumulative, target, right=True)[:, 0]
    # Rounding can put the target at the very total, past every column with mass.
    past = place >= mass.shape[-1]
    return torch.where(past, mass.argmax(dim=-1), place) if bool(past.any()) else place
