"""Log-probs of completions through the packed pass, the LM head met only where it is needed."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from trl.kernels import ChunkedLogProbFunction

from factory.cpu.layers import gradient_of, is_by_hand
from factory.cpu.packed import Group, Pack, hidden_states, pack_groups
from factory.models.parts import causal_model, head_of

KEPT_BYTES = 256 * 2**20
"""Probabilities of a pack that are kept for its backward pass: a group of 8 samples of 64 tokens
has 100 MB with 50,000 tokens."""

HEAD_BYTES = 32 * 2**20 - 2**16
"""Logits that exist at one time: 170 positions in float32 with 50,000 tokens. Blocks of 32 MiB and
more glibc maps anew each time, page by page; smaller ones it keeps for the next chunk."""

TILE = 32_768
"""Tokens of the vocabulary that TRL's kernel meets at a time: its own default in 1.16."""


def packed_logprobs(
    model: torch.nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    completion_length: int,
    temperature: float,
    rows_per_pack: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies of completion tokens under softmax(logits / temperature).

    Takes TRL's padded batch: input_ids and attention_mask (rows, prompt + completion), prompts
    padded on the left, completions on the right. `rows_per_pack` bounds how many rows share a
    pack (whole groups, at least one), None takes all. Entropies carry no gradient. Padding is 0.
    Shapes: -> (rows, completion_length), twice.
    """
    device = input_ids.device
    # A pack is laid out from lists: on a GPU each of them would wait for it anew.
    input_ids, mask = input_ids.cpu(), attention_mask.bool().cpu()
    split = input_ids.shape[1] - completion_length
    lengths = mask[:, split:].sum(dim=1).tolist()
    groups = rows_by_prompt(input_ids[:, :split], mask[:, :split])
    groups = [[row for row in group if lengths[row]] for group in groups]
    groups = [group for group in groups if group]
    logprobs = torch.zeros(len(input_ids), completion_length, device=device)
    entropies = torch.zeros_like(logprobs)
    for part in split_groups(groups, rows_per_pack):
        pack = pack_groups(
            [
                Group(
                    prompt=input_ids[group[0], :split][mask[group[0], :split]].tolist(),
                    completions=[
                        input_ids[row, split : split + lengths[row]].tolist() for row in group
                    ],
                )
                for group in part
            ],
            device,
        )
        chosen, entropy = _score(model, pack, temperature)
        order = [row for group in part for row in group]
        indices = (
            torch.cat([torch.full((lengths[row],), row) for row in order]).to(device),
            torch.cat([torch.arange(lengths[row]) for row in order]).to(device),
        )
        logprobs = logprobs.index_put(indices, chosen)
        entropies = entropies.index_put(indices, entropy)
    return logprobs, entropies


def padded_batch(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], device: torch.device
) -> tuple[Tensor, Tensor, int]:
    """TRL's padded batch of prompts and completions: input_ids, attention_mask, completion_length.

    Both are (rows, prompt + completion), prompts padded on the left, completions on the right.
    """
    width = max(len(prompt) for prompt, _ in pairs)
    length = max(len(completion) for _, completion in pairs)
    ids = torch.zeros(len(pairs), width + length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (prompt, completion) in enumerate(pairs):
        span = slice(width - len(prompt), width + len(completion))
        ids[row, span] = torch.tensor([*prompt, *completion])
        mask[row, span] = 1
    return ids.to(device), mask.to(device), length


def rows_by_prompt(prompt_ids: Tensor, prompt_mask: Tensor) -> list[list[int]]:
    """Rows grouped by equal prompts, in the order in which prompts and rows first appear.

    TRL shuffles a rollout's rows, so a group's rows do not lie together.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    pairs = zip(prompt_ids.cpu(), prompt_mask.bool().cpu(), strict=True)
    for row, (ids, valid) in enumerate(pairs):
        groups.setdefault(tuple(ids[valid].tolist()), []).append(row)
    return list(groups.values())


def split_groups(groups: Sequence[list[int]], rows: int | None) -> Iterator[list[list[int]]]:
    """Consecutive groups whose rows together are at most `rows`; longer groups are cut, so that
    their prompt stands in several parts."""
    part: list[list[int]] = []
    most = rows or max(map(len, groups), default=1)
    cut = (group[at : at + most] for group in groups for at in range(0, len(group), most))
    for group in cut:
        if part and rows is not None and sum(map(len, part)) + len(group) > rows:
            yield part
            part = []
        part.append(group)
    if part:
        yield part


def _score(model: torch.nn.Module, pack: Pack, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies (T,) of a pack's completion tokens."""
    weight = head_of(causal_model(model)).weight
    hidden = hidden_states(model, pack)
    if is_by_hand(hidden):
        row, token = pack.pair_row, pack.pair_token
        logprobs, entropy = HeadLogprobs.apply(hidden, weight, row, token, temperature)
        return logprobs, entropy[row]
    # TRL's own head, a Triton kernel on GPUs, which rounds as autocast says and sums in float32.
    scored, no_bias, no_cap, scale = hidden[pack.pair_row], None, None, 1.0
    logprobs, entropy, *_ = ChunkedLogProbFunction.apply(
        scored, weight, no_bias, pack.pair_token, temperature, TILE, no_cap, scale, ("entropy",)
    )
    return logprobs, entropy.detach()


class HeadLogprobs(torch.autograd.Function):
    """log softmax(hidden @ weight.T / temperature) of chosen (row, token) pairs, in chunks.

    With p = softmax(z / T) and w_j the gradient of pair j's log-prob,

        d/dz_row = (sum_j w_j onehot(token_j) - p sum_j w_j) / T

    Backward needs p again: the first KEPT_BYTES of it are kept, the rest is computed anew, so no
    tensor of many positions times the vocabulary ever exists. The weight's gradient is added to
    `weight.grad` itself.

    Shapes: hidden (R, width), weight (vocabulary, width), pairs (T,) -> (T,), entropies (R,).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, row: Tensor, token: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        logprobs = hidden.new_empty(len(row))
        entropy = hidden.new_empty(len(hidden))
        room = KEPT_BYTES if any(ctx.needs_input_grad) else 0
        ctx.kept = []
        for start, stop, pairs in _chunks(row, len(hidden), len(weight)):
            scores, mass, total = _masses(hidden[start:stop], weight, temperature)
            local = row[pairs] - start
            logprobs[pairs] = scores[local, token[pairs]] - total[local, 0].log()
            mean = torch.linalg.vecdot(mass, scores) / total[:, 0]
            entropy[start:stop] = total[:, 0].log() - mean
            room -= mass.nbytes
            if room >= 0:
                ctx.kept.append((mass, total))
        ctx.save_for_backward(hidden, weight, row, token)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, row, token = ctx.saved_tensors
        hidden_gradient = torch.empty_like(hidden)
        weight_gradient = gradient_of(weight) if ctx.needs_input_grad[1] else None
        kept = iter(ctx.kept)
        for start, stop, pairs in _chunks(row, len(hidden), len(weight)):
            mass, total = (
                next(kept, None) or _masses(hidden[start:stop], weight, ctx.temperature)[1:]
            )
            local, wanted = row[pairs] - start, gradient[pairs] / ctx.temperature
            wanted_of_row = torch.zeros_like(total).index_add_(0, local, wanted[:, None])
            # In place: `backward` runs once.
            slope = mass.mul_(wanted_of_row / -total)
            slope.index_put_((local, token[pairs]), wanted, accumulate=True)
            torch.mm(slope, weight, out=hidden_gradient[start:stop])
            if weight_gradient is not None:
                weight_gradient.addmm_(slope.T, hidden[start:stop])
        return hidden_gradient, None, None, None, None


def _masses(hidden: Tensor, weight: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Scores less their row's largest, exp of them, and its sum (rows, 1)."""
    scores = hidden @ weight.T
    if temperature != 1:
        scores.div_(temperature)
    scores.sub_(scores.amax(dim=-1, keepdim=True))
    mass = scores.exp()
    return scores, mass, mass.sum(dim=-1, keepdim=True)


def _chunks(row: Tensor, rows: int, vocabulary: int) -> Iterator[tuple[int, int, Tensor]]:
    """Row ranges of at most HEAD_BYTES of logits, with the indices of the pairs in each."""
    size = max(1, HEAD_BYTES // (4 * vocabulary))
    order = row.argsort(stable=True)
    starts = list(range(0, rows, size))
    bounds = torch.searchsorted(row[order], torch.tensor([*starts, rows], device=row.device))
    for i, start in enumerate(starts):
        yield start, min(start + size, rows), order[bounds[i] : bounds[i + 1]]
