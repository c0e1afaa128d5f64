"""Texts that are nearly equal, found without comparing all pairs: MinHash and banding.

Broder 1997 (resemblance by minima of random permutations); bands as in Leskovec, Rajaraman and
Ullman, Mining of Massive Datasets, 3.4. Candidates are compared exactly, so no text is dropped for
a likeness that is only estimated; with 32 bands of 4 a pair of Jaccard similarity 0.7 is missed
with probability (1 - 0.7^4)^32, about 2e-4, one of 0.5 with 0.13.

Libraries such as datasketch keep the bands of all texts in tables in memory, over 2 GB for a
million texts. Here they lie in a file and are sorted, a band at a time.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sized
from functools import cache, lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from factory.core.parallel import in_order
from factory.problems.overlap import words

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHINGLE = 5
"""Words a shingle."""
BANDS, ROWS = 32, 4
PRIME = 2**31 - 1
"""Of the random maps: products of two residues stay below 64 bits."""
SLACK = 0.3
"""How far minima may be below the threshold for a pair to be compared still: nearly seven standard
errors of their share (0.044 at most), so that one pair in 10**11 is missed."""
CHUNK = 512
"""Texts whose minima are taken and written at once."""
AT_ONCE = 120
"""Shingles that are mapped at once: more would lie outside of what memory is taken from quickly."""
COMPARED = 256
"""Texts whose shingles are kept in memory for the next comparison."""
MIX = 0x9E3779B97F4A7C15
"""2**64 by the golden ratio, odd: spreads the bits of a band's minima (Knuth, TAOCP 3, 6.4)."""
NONE = 2**32 - 1


class Texts(Sized, Protocol):
    """Texts by their place: a list, or what reads them from a file."""

    def __getitem__(self, index: int, /) -> str: ...


def shingles(text: str) -> frozenset[int]:
    """Hashes of all runs of 5 words; of the whole text where it is shorter."""
    return frozenset(_hashes(text).tolist())


def near_duplicates(
    texts: Texts, threshold: float, *, folder: Path | None = None, processes: int = 1
) -> dict[int, int]:
    """Place of every text that is like an earlier kept one, and the place of that one.

    Alike: Jaccard similarity of their shingles is at least `threshold`. A text is compared with
    kept texts only, so chains of small changes do not swallow each other. Meanwhile `folder` holds
    a file of 384 bytes a text, and memory up to as many where every text has candidates.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        if not len(texts):
            return {}
        minima = _write_minima(texts, file, processes)
        bands = _Bands(file, len(texts))
        twins: dict[int, int] = {}

        @lru_cache(maxsize=COMPARED)
        def hashes(index: int) -> "NDArray[Any]":
            return _hashes(texts[index])

        for index in bands.shared_places():
            candidates = bands.earlier(index)
            equal = (minima[candidates] == minima[index]).mean(axis=1)
            near = candidates[equal >= threshold - SLACK].tolist()
            like = next((c for c in near if _jaccard(hashes(index), hashes(c)) >= threshold), None)
            if like is None:
                bands.keep(index)
            else:
                twins[index] = like
        return twins


def _write_minima(texts: Texts, file: IO[bytes], processes: int) -> "NDArray[Any]":
    """Write each band's hashes of all texts, a band after the other, and behind them the last
    byte of each of a text's minima; the latter are returned, as they lie in the file."""
    import numpy as np

    count = len(texts)
    file.truncate(count * (BANDS * 8 + BANDS * ROWS))
    shape = (count, BANDS * ROWS)
    minima = np.memmap(file, dtype=np.uint8, mode="r+", offset=count * BANDS * 8, shape=shape)

    def signatures(places: range) -> "NDArray[Any]":
        return np.stack([_signature(_hashes(texts[index])) for index in places])

    chunks = [range(at, min(at + CHUNK, count)) for at in range(0, count, CHUNK)]
    for places, rows in zip(chunks, in_order(signatures, chunks, processes), strict=True):
        minima[places.start : places.stop] = rows & 0xFF
        for band, column in enumerate(_band_hashes(rows)):
            os.pwrite(file.fileno(), column.tobytes(), (band * count + places.start) * 8)
    return minima


def _band_hashes(rows: "NDArray[Any]") -> "NDArray[Any]":
    """(BANDS, texts) of 64 bits each: equal where a band's minima are, else nearly never."""
    import numpy as np

    bands = rows.astype(np.uint64).reshape(len(rows), BANDS, ROWS)
    mixed = bands[:, :, 0]
    for row in range(1, ROWS):
        mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(MIX) + bands[:, :, row]
    return np.ascontiguousarray(mixed.T)


class _Bands:
    """Which texts share a band, and which of them were kept."""

    def __init__(self, file: IO[bytes], count: int) -> None:
        import numpy as np

        pairs = []
        groups = 0
        for band in range(BANDS):
            hashes = np.frombuffer(os.pread(file.fileno(), count * 8, band * count * 8), np.uint64)
            order = hashes.argsort(kind="stable").astype(np.int64)
            hashes = hashes[order]
            is_next = np.concatenate([[False], hashes[1:] == hashes[:-1]])
            is_shared = is_next | np.concatenate([is_next[1:], [False]])
            numbers = groups + np.cumsum(~is_next[is_shared]) - 1
            groups = int(numbers[-1]) + 1 if len(numbers) else groups
            pairs.append((order[is_shared].astype(np.uint32), numbers.astype(np.uint32)))
        sizes = np.zeros(count, dtype=np.int64)
        for places, _ in pairs:
            sizes[places] += 1
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._groups = np.empty(self._starts[-1], dtype=np.uint32)
        """Groups of each text, one text after the other."""
        filled = self._starts[:-1].copy()
        while pairs:
            places, numbers = pairs.pop(0)
            self._groups[filled[places]] = numbers
            filled[places] += 1
        self._newest = np.full(groups, NONE, dtype=np.uint32)
        """The last text of each group that was kept; and in `_before`, beside a text's group, the
        one that was kept before it."""
        self._before = np.full(len(self._groups), NONE, dtype=np.uint32)

    def shared_places(self) -> Iterator[int]:
        """Texts that share a band with another one, in order."""
        import numpy as np

        yield from np.flatnonzero(np.diff(self._starts)).tolist()

    def earlier(self, index: int) -> "NDArray[Any]":
        """Kept texts that share a band with this one, in order."""
        import numpy as np

        kept: set[int] = set()
        for group in self._of(index).tolist():
            text = int(self._newest[group])
            while text != NONE:
                kept.add(text)
                at = self._starts[text] + int(np.flatnonzero(self._of(text) == group)[0])
                text = int(self._before[at])
        return np.array(sorted(kept), dtype=np.int64)

    def keep(self, index: int) -> None:
        groups = self._of(index)
        self._before[self._starts[index] : self._starts[index + 1]] = self._newest[groups]
        self._newest[groups] = index

    def _of(self, index: int) -> "NDArray[Any]":
        return self._groups[self._starts[index] : self._starts[index + 1]]


def _jaccard(own: "NDArray[Any]", other: "NDArray[Any]") -> float:
    import numpy as np

    shared = len(np.intersect1d(own, other, assume_unique=True))
    return shared / (len(own) + len(other) - shared)


def _hashes(text: str) -> "NDArray[Any]":
    """The shingles of a text, each once, in order of size."""
    import numpy as np

    data = " ".join(words(text)).encode()
    spaces = np.flatnonzero(np.frombuffer(data, np.uint8) == ord(" "))
    ends = [*spaces[SHINGLE - 1 :].tolist(), len(data)]
    starts = [0, *(spaces[: len(ends) - 1] + 1).tolist()]
    new, digests = _EMPTY.copy, []
    for start, end in zip(starts, ends, strict=True):
        digest = new()  # takes half as long as a new one
        digest.update(data[start:end])
        digests.append(digest.digest())
    return np.unique(np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64))


def _signature(values: "NDArray[Any]") -> "NDArray[Any]":
    """Minima of the values under BANDS * ROWS random linear maps modulo a prime."""
    import numpy as np

    slopes, offsets = _maps()
    prime = np.uint64(PRIME)
    residues = (values % prime)[:, None]
    minima = []
    for at in range(0, len(residues), AT_ONCE):
        mapped = residues[at : at + AT_ONCE] * slopes
        mapped += offsets
        # The remainder by a Mersenne prime: its upper bits count as its lower ones. Twice as fast.
        upper = mapped >> np.uint64(PRIME.bit_length())
        mapped &= prime
        mapped += upper
        minima.append(np.minimum(mapped, mapped - prime).min(axis=0))
    return np.min(minima, axis=0).astype(np.uint32)


@cache
def _maps() -> "tuple[NDArray[Any], NDArray[Any]]":
    """Slopes and offsets, each a row."""
    import numpy as np

    slopes = [1 + _hash(f"slope {n}") % (PRIME - 1) for n in range(BANDS * ROWS)]
    offsets = [_hash(f"offset {n}") % PRIME for n in range(BANDS * ROWS)]
    return np.array(slopes, np.uint64), np.array(offsets, np.uint64)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


_EMPTY = hashlib.blake2b(digest_size=8)
