"""What one run of programs takes of the machine, read from /proc while it runs.

A run is all processes that came from one command. Nothing here raises: a process may end, or be
hidden, between any two reads, and then what it took since the last look is not seen.
"""

import os
import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from factory.grading.groups import Group

PAGE = resource.getpagesize()
TICKS = os.sysconf("SC_CLK_TCK")
INODE_BYTES = 1024
"""Of an inode, a name or 1 KiB of attributes of a file system in memory, as the kernel counts."""
LOCK_BYTES = 256
MOST_LOCKS = 1000
"""Locks of files beyond which the table is not read: such a run is over every limit."""
FEW = 2**28
"""Bytes of resident memory below which pages that processes share are not told apart."""


@dataclass(frozen=True)
class Usage:
    """What a run has taken until now."""

    seconds: float
    """Processor time of all its processes."""
    waited: float
    """Seconds that its threads were ready to run and had no processor, summed."""
    memory: int
    """Bytes: resident pages, and what the kernel keeps for it besides."""


class Meter:
    """Looks at the processes that descend from some, again and again."""

    def __init__(
        self, pids: Sequence[int], *, is_isolated: bool, group: Group | None = None
    ) -> None:
        """`is_isolated`: the youngest process has a network, a /tmp and a /proc of its own."""
        self._group = group
        self._pids = list(pids)
        self._is_isolated = is_isolated
        self._seconds: dict[tuple[int, bytes], float] = {}
        self._waits: dict[tuple[int, int], float] = {}
        self._ended = self._waited = self._most = 0.0

    def look(self) -> Usage:
        """What the run has taken; processor time never becomes less from look to look."""
        trees = [descendants(pid) for pid in self._pids]
        all_ids = [pid for tree in trees for pid in tree]
        memory = resident_bytes(all_ids)
        if self._is_isolated:
            memory += sum(kernel_bytes(tree[-1]) for tree in trees)
        return Usage(self._processor(all_ids), self._waiting(all_ids), memory)

    def _processor(self, tree: Sequence[int]) -> float:
        """The larger of two sums that both miss something, or what a control group has counted.

        The kernel adds the time of a child to its parent's when the parent waits for it, and drops
        it where the parent ignores its children; what was seen of those stays counted here.
        """
        own: dict[tuple[int, bytes], float] = {}
        summed = 0.0
        for pid in tree:
            words = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
            if len(words) > 19:
                user, system, waited_user, waited_system = map(int, words[11:15])
                own[pid, words[19]] = (user + system) / TICKS
                summed += (user + system + waited_user + waited_system) / TICKS
        self._ended += sum(time for key, time in self._seconds.items() if key not in own)
        self._seconds = own
        counted = 0.0 if self._group is None else self._group.seconds()
        self._most = max(self._most, summed, self._ended + sum(own.values()), counted)
        return self._most

    def _waiting(self, tree: Sequence[int]) -> float:
        waits: dict[tuple[int, int], float] = {}
        for pid in tree:
            for thread in _threads(pid):
                words = _read(f"/proc/{pid}/task/{thread}/schedstat").split()
                if len(words) == 3:
                    waits[pid, thread] = int(words[1]) / 1e9
        before = self._waits
        self._waited += sum(max(0.0, now - before.get(key, 0.0)) for key, now in waits.items())
        self._waits = waits
        return self._waited


def resident_bytes(pids: Sequence[int]) -> int:
    """Bytes of memory that processes hold; pages that they share count once.

    The limit of the address space is for each process alone: sixty-four of them are another matter.
    """
    resident = sum(_number(f"/proc/{pid}/statm", after=1) for pid in pids) * PAGE
    if resident < FEW:
        return resident
    shared_out = sum(_number(f"/proc/{pid}/smaps_rollup", after=b"Pss:") for pid in pids)
    return shared_out * 1024 or resident


def kernel_bytes(pid: int) -> int:
    """Bytes that the kernel may keep for the sandbox that a process is in, at most.

    Sockets count with all that may wait in them, files, attributes and locks with what each takes.
    0 for a process that has no network, /tmp and /proc of its own yet.
    """
    root = f"/proc/{pid}/root"
    try:
        if os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            return 0
        if os.stat(f"{root}/tmp").st_dev == os.stat("/tmp").st_dev:
            return 0
        held = sum(map(_bytes_of_files, (f"{root}/tmp", f"{root}/dev/shm")))
    except OSError:
        return 0
    held += _number(f"/proc/{pid}/net/sockstat", after=b"used") * socket_bytes()
    locks = _read(f"{root}/proc/locks", most=2**16).count(b"\n")
    return held + (locks * LOCK_BYTES if locks < MOST_LOCKS else 2**40)


def _bytes_of_files(folder: str) -> int:
    """What a file system in memory holds."""
    files = os.statvfs(folder)
    held = (files.f_files - files.f_ffree) * INODE_BYTES
    return held + (files.f_blocks - files.f_bfree) * files.f_frsize


@lru_cache(maxsize=1)
def socket_bytes() -> int:
    """What may wait in one socket whose limit cannot be raised."""
    return int(_read("/proc/sys/net/core/wmem_default") or 2**18)


def descendants(pid: int) -> list[int]:
    """A process and all that came from it, parents first."""
    tree = [pid]
    for parent in tree:
        for thread in _threads(parent):
            children = _read(f"/proc/{parent}/task/{thread}/children").split()
            tree += [int(child) for child in children]
    return tree


def _threads(pid: int) -> Iterator[int]:
    try:
        names = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    yield from (int(name) for name in names if name.isdecimal())


def _number(path: str, *, after: bytes | int) -> int:
    """The word that follows a word, or stands at a position, in a file; 0 where there is none."""
    words = _read(path).split()
    try:
        return int(words[words.index(after) + 1 if isinstance(after, bytes) else after])
    except (ValueError, IndexError):
        return 0


def _read(path: str, *, most: int = 2**20) -> bytes:
    """The beginning of a file of /proc; empty where it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    parts: list[bytes] = []
    try:
        while most > 0 and (part := os.read(descriptor, min(most, 2**16))):
            parts.append(part)
            most -= len(part)
    except OSError:
        parts.clear()
    finally:
        os.close(descriptor)
    return b"".join(parts)
