"""Texts that are nearly equal, found without comparing all pairs: MinHash and banding.

Broder 1997 (resemblance by minima of random permutations); bands as in Leskovec, Rajaraman and
Ullman, Mining of Massive Datasets, 3.4. Candidates are compared exactly, so no text is dropped for
a likeness that is only estimated; with 32 bands of 4 a pair of Jaccard similarity 0.7 is missed
with probability (1 - 0.7^4)^32, about 2e-4, one of 0.5 with 0.13.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from factory.problems.overlap import runs, words

SHINGLE = 5
"""Words a shingle."""
BANDS, ROWS = 32, 4
PRIME = 2**31 - 1
"""Of the random maps: products of two residues stay below 64 bits."""


def shingles(text: str) -> frozenset[int]:
    """Hashes of all runs of 5 words; of the whole text where it is shorter."""
    text_words = words(text)
    pieces = list(runs(text_words, SHINGLE)) or [text_words]
    return frozenset(_hash(" ".join(piece)) for piece in pieces)


def near_duplicates(texts: Sequence[str], threshold: float) -> dict[int, int]:
    """Place of every text that is like an earlier kept one, and the place of that one.

    Alike: Jaccard similarity of their shingles is at least `threshold`. A text is compared with
    kept texts only, so chains of small changes do not swallow each other.
    """
    sets = [shingles(text) for text in texts]
    buckets: dict[tuple[int, tuple[int, ...]], list[int]] = defaultdict(list)
    twins: dict[int, int] = {}
    for index, own in enumerate(sets):
        signature = _signature(own)
        bands = [(n, signature[n * ROWS : (n + 1) * ROWS]) for n in range(BANDS)]
        candidates = sorted({other for band in bands for other in buckets[band]})
        like = next((c for c in candidates if _jaccard(own, sets[c]) >= threshold), None)
        if like is not None:
            twins[index] = like
            continue
        for band in bands:
            buckets[band].append(index)
    return twins


def _jaccard(own: frozenset[int], other: frozenset[int]) -> float:
    return len(own & other) / len(own | other)


def _signature(values: frozenset[int]) -> tuple[int, ...]:
    """Minima of the values under BANDS * ROWS random linear maps modulo a prime."""
    import numpy as np

    slopes, offsets = (
        np.array(column, dtype=np.uint64)[:, None] for column in zip(*_MAPS, strict=True)
    )
    residues = np.array([value % PRIME for value in values], dtype=np.uint64)[None, :]
    mapped = (slopes * residues + offsets) % np.uint64(PRIME)
    return tuple(mapped.min(axis=1).tolist())


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


_MAPS = [
    (1 + _hash(f"slope {n}") % (PRIME - 1), _hash(f"offset {n}") % PRIME)
    for n in range(BANDS * ROWS)
]
