"""Equal texts among more than memory holds: by 16 bytes of a hash each."""

import hashlib
from collections.abc import Iterator

BYTES = 16
"""Two of 10**9 different texts share a hash with probability 1.5e-21."""


class Digests:
    """Hashes of texts by their place."""

    def __init__(self, digests: bytes = b"") -> None:
        self._bytes = bytearray(digests)

    @staticmethod
    def of(*parts: str) -> bytes:
        """The hash of a text of one or several parts."""
        # Lengths first, so that ("ab", "c") is not ("a", "bc").
        text = "".join(f"{len(part)}:{part}" for part in parts)
        data = text.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(data, digest_size=BYTES).digest()

    def add(self, *parts: str) -> None:
        """The next text."""
        self.append(self.of(*parts))

    def append(self, digest: bytes) -> None:
        """The next text, by its hash; or several, by theirs behind each other."""
        self._bytes += digest

    def __len__(self) -> int:
        return len(self._bytes) // BYTES

    def __getitem__(self, index: int) -> bytes:
        return bytes(self._bytes[index * BYTES : (index + 1) * BYTES])

    def groups(self) -> Iterator[list[int]]:
        """Places of equal texts, in order within a group; each place is in one group."""
        import numpy as np

        if not self._bytes:
            return
        halves = np.frombuffer(self._bytes, dtype=np.uint64).reshape(-1, 2)
        order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: places stay in order
        halves = halves[order]
        starts = np.flatnonzero((halves[1:] != halves[:-1]).any(axis=1)) + 1
        ends = [*starts.tolist(), len(order)]
        start = 0
        for end in ends:
            yield order[start:end].tolist()
            start = end

    def repeated(self) -> "set[int]":
        """Places of texts that stand earlier already."""
        return {index for places in self.groups() for index in places[1:]}
