"""Files of records that are larger than memory: each record is read when it is asked for."""

import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel

from factory.core.files import naming
from factory.core.jsonl import parse_record, read_records
from factory.core.parallel import in_order

R = TypeVar("R", bound=BaseModel)
T = TypeVar("T")
BLOCK, BLOCK_BYTES = 256, 2**20
"""Records, and bytes of them, that a process works on at once."""


class StoredRecords(Generic[R]):
    """The records of a JSONL file by their place, each read when it is asked for: 8 bytes a record
    are held, so that a file may be larger than memory.

    DataError as `read_records`, which is how one iterates over them.
    """

    def __init__(self, path: Path, record: type[R]) -> None:
        self._path, self._record = path, record
        self._ends = array("Q", [0])
        self._has_blanks = False
        end = 0
        with naming(path), path.open("rb") as file:
            for raw in file:
                end += len(raw)
                if raw.strip():
                    self._ends.append(end)
                else:
                    self._has_blanks = True
        # By position, without a cursor: forks of this process read it too.
        self._file = path.open("rb", buffering=0)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[R]:
        return read_records(self._path, self._record)

    def __getitem__(self, index: int) -> R:
        """The record at a place from 0; IndexError past the last."""
        start, end = self._ends[index], self._ends[index + 1]
        line = os.pread(self._file.fileno(), end - start, start)
        where = f": record {index + 1}" if self._has_blanks else f":{index + 1}"
        return parse_record(line, self._record, f"{self._path}{where}")

    @property
    def at_once(self) -> int:
        """How many records a process works on at once."""
        return min(BLOCK, max(1, BLOCK_BYTES * len(self) // max(1, self._ends[-1])))


def write_made(
    path: Path, items: Sequence[T], make: Callable[[T], BaseModel], at_once: int, processes: int
) -> None:
    """Write the record that `make` makes of each item, one a line, in order; so many items at once
    in each process."""

    def lines(block: Sequence[T]) -> bytes:
        return "".join([make(item).model_dump_json() + "\n" for item in block]).encode()

    with naming(path), path.open("wb") as file:
        file.writelines(in_order(lines, in_blocks(items, at_once), processes))


def in_blocks(items: Sequence[T], at_once: int) -> Iterator[Sequence[T]]:
    """The items, so many at once."""
    return (items[at : at + at_once] for at in range(0, len(items), at_once))
