"""What a device could do at best, and which share of it a step of RL reached.

Symbols as in Williams, Waterman, Patterson (2009), "Roofline": work can take no less than its
operations over the peak rate, nor than its bytes over the bandwidth. Operations are counted as in
Kaplan et al. (arXiv 2001.08361): 2 a parameter and token forward, 6 with the backward pass, and
attention over the mean context on top.
"""

import time
from dataclasses import dataclass
from typing import Any

ROWS, WIDTH = 1024, 1024
"""A product of ROWS x WIDTH by WIDTH x WIDTH: large enough for a core's best rate."""
STREAM_BYTES = 256 * 2**20
"""More than the caches of common processors hold."""
REPEATS = 5


@dataclass(frozen=True)
class Peaks:
    """Rates measured on this device."""

    flops_per_second: float
    bytes_per_second: float


@dataclass(frozen=True)
class Size:
    """What the formulas need to know of a model.

    `parameters` are those in matrix products, so an input embedding that is not the head does not
    count.
    """

    parameters: int
    layers: int
    width: int
    kv_width: int
    """Numbers of a key, and of a value, in a layer: key-value heads times their width."""
    bytes_per_number: int

    @property
    def kv_bytes(self) -> int:
        """Cache of one token: 2 L n_kv d_head bytes."""
        return 2 * self.layers * self.kv_width * self.bytes_per_number


def forward_flops(size: Size, tokens: float, context: float) -> float:
    """Operations of a causal forward pass: tokens * (2 N + 2 L h T), T the mean row length."""
    return tokens * (2 * size.parameters + 2 * size.layers * size.width * context)


def training_flops(size: Size, tokens: float, context: float) -> float:
    """Operations of forward and backward: tokens * (6 N + 6 L h T)."""
    return 3 * forward_flops(size, tokens, context)


def decode_step_seconds(size: Size, peaks: Peaks, rows: float, context: float) -> float:
    """Least seconds for one more token in each of `rows` rows with `context` tokens before it.

    max((W + B T kv) / BW, B (2 N + 4 L h T) / F)
    """
    weights = size.parameters * size.bytes_per_number
    moved = weights + rows * context * size.kv_bytes
    operations = rows * (2 * size.parameters + 4 * size.layers * size.width * context)
    return max(moved / peaks.bytes_per_second, operations / peaks.flops_per_second)


def generation_seconds(
    size: Size,
    peaks: Peaks,
    *,
    rows: float,
    prompt: float,
    completion: float,
    group: int,
    rows_at_once: float,
) -> float:
    """Least seconds to draw completions of mean length `completion` for `rows` rows.

    Every prompt is run once for its group; then rows decode at their mean context, at most
    `rows_at_once` together. Differs from a real engine: rows of unequal length leave the batch.
    """
    prefill = forward_flops(size, rows / group * prompt, prompt) / peaks.flops_per_second
    together = min(rows, rows_at_once)
    steps = completion * rows / together
    context = prompt + completion / 2
    return prefill + steps * decode_step_seconds(size, peaks, together, context)


def training_seconds(
    size: Size, peaks: Peaks, *, rows: float, prompt: float, completion: float, group: int
) -> float:
    """Least seconds of forward and backward over `rows` rows, each prompt run once a group."""
    tokens = rows / group * prompt + rows * completion
    return training_flops(size, tokens, prompt + completion) / peaks.flops_per_second


def size_of(model: Any) -> Size:
    """The size of a transformers causal model."""
    config = model.config
    head = model.get_output_embeddings().weight
    embedding = model.get_input_embeddings().weight
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if embedding.data_ptr() != head.data_ptr():
        parameters -= embedding.numel()
    head_width = getattr(config, "head_dim", None) or (
        config.hidden_size // config.num_attention_heads
    )
    return Size(
        parameters=parameters,
        layers=config.num_hidden_layers,
        width=config.num_attention_heads * head_width,
        kv_width=config.num_key_value_heads * head_width,
        bytes_per_number=head.element_size(),
    )


def measure_peaks(device: Any, dtype: Any) -> Peaks:
    """The best of a few large matrix products and of a few reads of memory; a fraction of a second.

    Takes the number of threads and the precision of products as they are set.
    """
    import torch

    left = torch.ones(ROWS, WIDTH, device=device, dtype=dtype)
    right = torch.ones(WIDTH, WIDTH, device=device, dtype=dtype)
    stream = torch.ones(STREAM_BYTES // left.element_size(), device=device, dtype=dtype)

    def best_seconds(work: Any) -> float:
        best = float("inf")
        for _ in range(REPEATS):
            _wait(device)
            start = time.perf_counter()
            work()
            _wait(device)
            best = min(best, time.perf_counter() - start)
        return best

    with torch.no_grad():
        product = best_seconds(lambda: torch.nn.functional.linear(left, right))
        read = best_seconds(lambda: stream.max())
    return Peaks(2 * ROWS * WIDTH * WIDTH / product, STREAM_BYTES / read)


def _wait(device: Any) -> None:
    import torch

    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
