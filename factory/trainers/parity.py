"""Whether an engine and a trainer agree about the log-probs of what the engine samples."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from factory.core.errors import EngineError
from factory.core.records import SamplingConfig
from factory.cpu.packed_logprobs import padded_batch
from factory.sampling.sampler import Request, Sampler

PARITY_ROWS = 4
"""Completions whose log-probs are compared between engine and trainer."""

PARITY_BOUNDS = {"float32": (1e-3, 1e-2), "bfloat16": (5e-2, 2.0)}
"""Largest mean and single absolute gap of a token's log-prob, nats.

float32: both compute the same sums in another order; measured 1e-6 on tiny models, a stale or
wrongly loaded weight shows as 1e-2 and more. bfloat16: rounding alone gives 0.04 mean and 1.05 at
most on a 135M model with an engine in bfloat16 beside a float32 trainer.
"""


def engine_parity(
    sampler: Sampler,
    requests: Sequence[Request],
    sampling: SamplingConfig,
    *,
    logprobs: Callable[[Tensor, Tensor, int], Tensor],
    device: Any,
    dtype: str,
    step: int,
) -> dict[str, float]:
    """Mean and largest gap; EngineError if engine and trainer disagree about sampled tokens.

    An engine that did not take the new weights, or computes in another way, would train on
    wrong samples silently. A few requests are drawn once more and scored by both with exact
    float32 products: where a machine rounds operands to bfloat16 for speed, rounding alone
    would hide a stale weight. To be run on rollouts 1, 2, 4, 8, ...: what a small learning rate has
    changed after one update may be below the bound, and only later above it.

    `logprobs(ids, mask, length)` are the trainer's, of the last `length` tokens of each row;
    `dtype` is the one that both share; `step` is the update that the samples are for.
    """
    rows = sorted({i * len(requests) // PARITY_ROWS for i in range(PARITY_ROWS)})
    chosen = [requests[row] for row in rows]
    with exact_products():
        completions = sampler.sample(chosen, sampling)
        ids, mask, length = padded_batch(
            [(a.prompt_ids, c.token_ids) for a, c in zip(chosen, completions, strict=True)], device
        )
        own = logprobs(ids, mask, length).float().cpu()
    gaps = torch.cat(
        [
            own[row, : len(completion.logprobs)] - torch.tensor(completion.logprobs)
            for row, completion in enumerate(completions)
        ]
    ).abs()
    mean, largest = gaps.mean().item(), gaps.max().item()
    mean_bound, largest_bound = PARITY_BOUNDS[dtype]
    if not (mean <= mean_bound and largest <= largest_bound):
        raise EngineError(
            f"step {step}: log-probs of {sampler.name} and of "
            f"the trainer differ by {mean:.2g} on average and {largest:.2g} at most over "
            f"{len(gaps)} tokens; allowed are {mean_bound} and {largest_bound} in "
            f"{dtype}: the engine does not hold the trainer's weights; "
            "set engine: transformers in the machine file"
        )
    return {"parity/mean": mean, "parity/max": largest}


@contextmanager
def exact_products() -> Iterator[None]:
    """Float32 products without rounded operands, in the trainer and in an engine in this process.

    Where `matmul: bfloat16` holds, a processor with AMX rounds the operands to bfloat16.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
