"""Balanced lengths: a reward model must not learn that longer is better."""

from bisect import bisect_left
from collections.abc import Sequence

from factory.core.records import Pair


def length_gap(pairs: Sequence[Pair]) -> float:
    """(mean length of the chosen - mean length of the rejected) / mean length of all, in [-2, 2].

    Lengths in characters; 0 for no pairs.
    """
    difference = sum(_difference(pair) for pair in pairs)
    total = sum(len(pair.chosen) + len(pair.rejected) for pair in pairs)
    return 2 * difference / total if total else 0.0


def unbalanced(pairs: Sequence[Pair], limit: float) -> set[int]:
    """Places of the pairs to drop, so that the others' `length_gap` is within `limit`.

    R1 (arXiv 2501.12948 v2, 3.1) keeps chosen and rejected responses comparable in length over
    the whole data set, and does not say how. Here, of the pairs that lean to the longer side always
    the one goes whose own difference is nearest to what is too much in all: few have to go.
    """
    ordered = sorted((_difference(pair), index) for index, pair in enumerate(pairs))
    difference = sum(size for size, _ in ordered)
    total = sum(len(pair.chosen) + len(pair.rejected) for pair in pairs)
    dropped: set[int] = set()
    while ordered and abs(2 * difference) > limit * total:
        at = bisect_left(ordered, (difference, -1))
        near = [
            candidate
            for candidate in ordered[max(0, at - 1) : at + 1]
            if candidate[0] * difference > 0
        ]
        size, index = min(
            near, key=lambda candidate: (abs(difference - candidate[0]), candidate[1])
        )
        ordered.remove((size, index))
        dropped.add(index)
        difference -= size
        total -= len(pairs[index].chosen) + len(pairs[index].rejected)
    return dropped


def _difference(pair: Pair) -> int:
    return len(pair.chosen) - len(pair.rejected)
