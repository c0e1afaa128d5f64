"""The roofline's formulas against numbers worked out by hand."""

import pytest
import torch

from factory.cost.roofline import (
    Peaks,
    Size,
    decode_step_seconds,
    generation_seconds,
    measure_peaks,
    size_of,
    training_flops,
    training_seconds,
)
from factory.models.tiny import tiny_model

SIZE = Size(parameters=1000, layers=2, width=10, kv_width=5, bytes_per_number=4)
# kv bytes = 2 * 2 * 5 * 4 = 80; a token's forward = 2000 + 2 * 2 * 10 * T = 2000 + 40 T.
COMPUTE_IS_FREE = Peaks(flops_per_second=1e30, bytes_per_second=1000.0)
MEMORY_IS_FREE = Peaks(flops_per_second=1000.0, bytes_per_second=1e30)


def test_training_counts_three_forward_passes() -> None:
    # 7 tokens * 3 * (2000 + 40 * 5) = 46,200
    assert training_flops(SIZE, 7, 5) == 46_200


def test_a_decode_step_is_bound_by_memory_or_by_compute() -> None:
    # bytes: 4000 + 3 rows * 5 tokens * 80 = 5200, at 1000 a second
    assert decode_step_seconds(SIZE, COMPUTE_IS_FREE, 3, 5) == pytest.approx(5.2)
    # operations: 3 * (2000 + 4 * 2 * 10 * 5) = 7200, at 1000 a second
    assert decode_step_seconds(SIZE, MEMORY_IS_FREE, 3, 5) == pytest.approx(7.2)


def test_generation_runs_a_prompt_once_a_group_and_decodes_in_batches() -> None:
    # prefill: 4 / 2 prompts * 3 tokens * (2000 + 40 * 3) = 12,720 operations = 12.72 s
    # decode: 4 tokens * 4 rows / 2 at once = 8 steps of 2 * (2000 + 80 * 5) = 4.8 s -> 38.4 s
    result = generation_seconds(
        SIZE, MEMORY_IS_FREE, rows=4, prompt=3, completion=4, group=2, rows_at_once=2
    )
    assert result == pytest.approx(12.72 + 38.4)


def test_training_runs_a_prompt_once_a_group() -> None:
    # tokens: 4 / 2 * 3 + 4 * 4 = 22; each 3 * (2000 + 40 * 7) = 6840 -> 150,480 operations
    result = training_seconds(SIZE, MEMORY_IS_FREE, rows=4, prompt=3, completion=4, group=2)
    assert result == pytest.approx(150.48)


def test_the_embedding_counts_once_where_it_is_the_head_and_not_at_all_where_it_is_not() -> None:
    tied, untied = tiny_model("llama", hidden=64), tiny_model("qwen2", hidden=64)
    every = sum(parameter.numel() for parameter in tied.parameters())
    assert size_of(tied).parameters == every
    every = sum(parameter.numel() for parameter in untied.parameters())
    assert size_of(untied).parameters == every - 259 * 64
    # Two heads of width 32 share one key-value head; float32.
    assert size_of(tied).kv_bytes == 2 * 2 * 32 * 4


def test_measured_peaks_are_those_of_a_computer() -> None:
    peaks = measure_peaks("cpu", torch.float32)
    assert 1e8 < peaks.flops_per_second < 1e16
    assert 1e7 < peaks.bytes_per_second < 1e14
