"""How well completions of uneven lengths fill the rows of engines, by simulation.

A row takes a step for each token, and all rows step together. Closed blocks end with their longest
completion; a stream gives a row to the next request as soon as it is free.
"""

import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

MOST = 5_000
"""Requests of a simulation; of more, as many rows fewer are simulated."""


@dataclass(frozen=True)
class Filling:
    """What a run of engines comes to."""

    steps: float
    """Until the last completion has ended."""
    busy: float
    """Share of all row-steps that drew a token."""
    tail: float
    """Share of the steps after the last request was given a row."""


def long_tail(
    count: int, *, mean: float, limit: float, sigma: float = 0.9, seed: int = 0
) -> list[int]:
    """Log-normal lengths, cut at a limit, with about this mean before the cut, at least 1.

    Sigma 0.9 is that of R1's traces, of which the median has 6,000 tokens.
    """
    chance, middle = random.Random(seed), math.log(max(1.0, mean)) - sigma**2 / 2
    lengths = (math.exp(middle + sigma * chance.gauss(0, 1)) for _ in range(count))
    return [max(1, min(round(limit), round(length))) for length in lengths]


def fill(
    lengths: Sequence[int], *, rows: int, engines: int = 1, block: int | None = None
) -> Filling:
    """Steps of engines with as many rows each, which take blocks, or single requests (None)."""
    if block is None:
        steps, last = _run(lengths, rows * engines)
    else:
        parts = [lengths[start : start + block] for start in range(0, len(lengths), block)]
        free = [0.0] * engines
        last = steps = 0.0
        for part in parts:
            begin = heapq.heappop(free)
            taken, started = _run(part, rows)
            last, end = max(last, begin + started), begin + taken
            steps = max(steps, end)
            heapq.heappush(free, end)
    return Filling(steps, sum(lengths) / (steps * rows * engines), 1 - last / steps)


def expected_filling(
    count: float, *, mean: float, limit: float, rows: float, engines: int, block: float | None
) -> Filling:
    """Of so many completions of a long tail; counts may be any, lengths are in tokens."""
    if block is None:
        simulated = max(1, min(MOST, round(count)))
        share = min(1.0, simulated / max(1.0, count))
        lengths = long_tail(simulated, mean=mean, limit=limit)
        return fill(lengths, rows=max(1, round(rows * engines * share)))
    blocks, size = math.ceil(max(1.0, count) / block), max(1, round(block))
    lengths = long_tail(size * min(blocks, 1 + MOST // size), mean=mean, limit=limit)
    alone = fill(lengths, rows=max(1, round(rows)), block=size)
    rounds = math.ceil(blocks / engines)
    return Filling(alone.steps, alone.busy * blocks / (rounds * engines), alone.tail)


def _run(lengths: Sequence[int], rows: int) -> tuple[float, float]:
    """(steps until all have ended, step at which the last one began) of rows filled at once."""
    ends: list[int] = list(lengths[:rows])
    heapq.heapify(ends)
    begin = 0
    for length in lengths[rows:]:
        begin = ends[0]
        heapq.heapreplace(ends, begin + length)
    return float(max(ends)), float(begin)
