"""Files that somebody else is writing, read by and by: new whole lines only, in bounded memory."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOST_ROWS = 4_000
"""Rows kept of a stream; of a longer one every second, every fourth, ..."""
PIECE = 8 * 2**20
"""Bytes read of a file at a time."""
LONGEST_ROW = 2**20
"""Bytes of a row that is followed; a longer one is left out."""
LAST_BYTES = 2 * 2**20
"""Of a file whose last rows are looked at: a longer row is told of, not shown."""


class Stream:
    """A JSONL file, followed as it grows; a shorter or another file starts anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start_over((0, 0))

    def _start_over(self, identity: tuple[int, int]) -> None:
        self._identity = identity
        self._position = 0
        self._rest = b""
        self._is_too_long = False
        self._stride = 1
        self._number = 0
        self.rows: list[dict[str, Any]] = []
        self.last: dict[str, Any] | None = None

    def read(self) -> list[dict[str, Any]]:
        """The rows so far, thinned; a line that is not whole, or no JSON object, is left out."""
        for row in self._new():
            self.last = row
            if self._number % self._stride == 0:
                self.rows.append(row)
            self._number += 1
            if len(self.rows) > MOST_ROWS:
                self.rows = self.rows[::2]
                self._stride *= 2
        if self.last is None or (self.rows and self.rows[-1] is self.last):
            return self.rows
        return [*self.rows, self.last]

    def _new(self) -> Iterator[dict[str, Any]]:
        try:
            with self.path.open("rb") as file:
                state = os.fstat(file.fileno())
                identity = (state.st_dev, state.st_ino)
                if identity != self._identity or state.st_size < self._position:
                    self._start_over(identity)
                file.seek(self._position)
                while piece := file.read(PIECE):
                    self._position += len(piece)
                    *lines, self._rest = (self._rest + piece).split(b"\n")
                    for line in lines:
                        row = None if self._is_too_long else row_of(line)
                        self._is_too_long = False
                        if row is not None:
                            yield row
                    if len(self._rest) > LONGEST_ROW:
                        self._rest, self._is_too_long = b"", True
        except OSError:
            return


def row_of(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a line, if it is one."""
    if len(line) > LAST_BYTES:
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def last_rows(path: Path, number: int) -> tuple[list[dict[str, Any]], bool]:
    """The last whole rows of a file; and whether one was too long to be looked at."""
    data, is_cut = last_bytes(path, LAST_BYTES)
    lines = data.split(b"\n")[1 if is_cut else 0 : -1]
    rows = [row for row in map(row_of, lines[-number:]) if row is not None]
    return rows, is_cut and len(rows) < number


def last_bytes(path: Path, most: int) -> tuple[bytes, bool]:
    """The end of a file, and whether there is more before it; nothing where it cannot be read."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - most))
            return file.read(most), size > most
    except OSError:
        return b"", False
