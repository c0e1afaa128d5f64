"""Graded traces on disk, block by block: what a trace run has so far, and what outlives a kill.

The file is read from its beginning as the same blocks are asked for again, never as a whole, so a
run needs the same memory whether it has drawn a thousand traces or a million.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from factory.core.errors import DataError
from factory.core.files import naming, note
from factory.core.guarded import guarded, unguarded
from factory.core.jsonl import parse_record
from factory.core.records import Trace

Key = tuple[str, int, int]
"""Problem, sample and length limit: a trace that was cut may be drawn again under a higher one."""


def key_of(trace: Trace) -> Key:
    return trace.problem_id, trace.sample, trace.sampling.max_new_tokens


class Segment:
    """An append-only file of traces; a block is replayed whole or drawn whole.

    Blocks are asked for in an order that depends on the traces before them alone. So what is on
    disk is the beginning of that order, until a kill tore its last block, or the machine file's
    `block` was changed between: from there on it is cut off and drawn anew.
    """

    def __init__(self, path: Path) -> None:
        path.touch()
        self._path = path
        self._file = path.open("r+b")
        self._lines = 0
        self._end = 0
        self._is_replaying = True
        self.cut_off = 0
        """Bytes of whole traces that were cut off because they belong to other blocks."""

    @property
    def size(self) -> int:
        """Bytes of an earlier attempt, and of this one."""
        return self._path.stat().st_size

    def replay(self, keys: Sequence[Key]) -> list[tuple[int, Trace]] | None:
        """A block's traces, each with its place in the file; None if it has to be drawn."""
        if not self._is_replaying:
            return None
        entries = []
        for key in keys:
            offset = self._file.tell()
            line = self._file.readline()
            if not line.endswith(b"\n"):
                break
            trace = self._trace(line, self._lines + len(entries) + 1)
            if trace is None:
                break
            if key_of(trace) != key:
                self.cut_off = self._file.seek(0, os.SEEK_END) - self._end
                break
            entries.append((offset, trace))
        if len(entries) == len(keys):
            self._lines += len(entries)
            self._end = self._file.tell()
            return entries
        self._is_replaying = False
        self._file.truncate(self._end)
        return None

    def recover(self) -> Iterator[tuple[int, Trace]]:
        """Every trace of an earlier attempt with its place in the file; a torn end is cut off."""
        while (line := self._file.readline()).endswith(b"\n"):
            self._lines += 1
            if (trace := self._trace(line, self._lines)) is None:
                break
            yield self._end, trace
            self._end = self._file.seek(self._end + len(line))
        self._is_replaying = False
        self._file.truncate(self._end)

    def _trace(self, line: bytes, number: int) -> Trace | None:
        """A line's trace; None, with a note, where the disk has changed it."""
        if (text := unguarded(line)) is None:
            note(f"{self._path}:{number}: not what was written; drawn again from here on")
            return None
        return parse_record(text, Trace, f"{self._path}:{number}")

    def append(self, traces: Sequence[Trace]) -> list[int]:
        """Write a block and force it to disk; the place of each trace in the file."""
        places = []
        with naming(self._path):
            self._file.seek(self._end)
            for trace in traces:
                places.append(self._file.tell())
                self._file.write(guarded(trace.model_dump_json().encode()))
            self._file.flush()
            os.fsync(self._file.fileno())
        self._end = self._file.tell()
        return places

    def lines(self, places: Iterable[int]) -> Iterator[bytes]:
        """The traces at some places as lines of JSON; DataError for one that the disk changed."""
        for offset in places:
            self._file.seek(offset)
            text = unguarded(self._file.readline())
            if text is None:
                raise DataError(f"{self._path}: changed at byte {offset}: start again (it resumes)")
            yield text + b"\n"

    def close(self) -> None:
        self._file.close()
