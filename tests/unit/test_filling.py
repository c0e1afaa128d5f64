"""How full engines stay with completions of uneven lengths."""

import random

import pytest

from factory.cost.filling import expected_filling, fill, long_tail


def test_rows_are_counted_by_hand() -> None:
    # Two rows: 4 and 1 begin, 2 takes the place of 1 at step 1, 3 that of 2 at step 3: ends at 6.
    stream = fill([4, 1, 2, 3], rows=2)
    assert (stream.steps, stream.busy, stream.tail) == (6, 10 / 12, 1 - 3 / 6)
    # Blocks of two take 4 and 3 steps.
    blocks = fill([4, 1, 2, 3], rows=2, block=2)
    assert (blocks.steps, blocks.busy) == (7, 10 / 14)
    # Two engines draw a block each at the same time.
    assert fill([4, 1, 2, 3], rows=2, engines=2, block=2).steps == 4
    # Blocks of four on two rows are streams of their own.
    assert fill([4, 1, 2, 3], rows=2, block=4).steps == 6


def test_lengths_like_r1s_fill_rows_as_was_computed_by_another_program() -> None:
    """26, 58 and 96 of 100, for a median of 6,000 tokens, sigma 0.9, a limit of 32,768."""
    chance = random.Random(1)
    lengths = [min(32_768, round(6000 * chance.lognormvariate(0, 0.9))) for _ in range(20_480)]
    assert fill(lengths, rows=1024, block=1024).busy == pytest.approx(0.26, abs=0.005)
    assert fill(lengths, rows=256, block=1024).busy == pytest.approx(0.58, abs=0.01)
    assert fill(lengths, rows=256).busy > 0.96


def test_equal_lengths_leave_no_row_idle() -> None:
    assert fill([7] * 64, rows=8).busy == fill([7] * 64, rows=8, block=16).busy == 1.0


def test_a_simulation_of_fewer_requests_comes_to_nearly_the_same() -> None:
    def busy(count: float, engines: int) -> float:
        return expected_filling(
            count, mean=9000, limit=32_768, rows=64, engines=engines, block=None
        ).busy

    at_once = fill(long_tail(64 * 400, mean=9000, limit=32_768), rows=64).busy
    assert abs(busy(64 * 400, 1) - at_once) < 0.05
    # As many requests a row: more engines, nearly the same share.
    assert abs(busy(512 * 64 * 20, 512) - busy(8 * 64 * 20, 8)) < 0.05


def test_blocks_that_do_not_divide_among_engines_leave_engines_idle() -> None:
    settings = {"mean": 10.0, "limit": 1.0, "rows": 4.0, "block": 4.0}
    even = expected_filling(32, engines=4, **settings)
    uneven = expected_filling(20, engines=4, **settings)
    assert (even.busy, uneven.busy) == (1.0, 5 / 8)
