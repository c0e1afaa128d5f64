"""Files of records that are larger than memory: each record is read when it is asked for."""

import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel

from factory.files import naming
from factory.jsonl import parse_record, read_records

R = TypeVar("R", bound=BaseModel)


class StoredRecords(Generic[R]):
    """The records of a JSONL file by their place, each read when it is asked for: 8 bytes a record
    are held, so that a file may be larger than memory.

    DataError as `read_records`, which is how one iterates over them.
    """

    def __init__(self, path: Path, record: type[R]) -> None:
        self._path, self._record = path, record
        self._ends = array("Q", [0])
        end = 0
        with naming(path), path.open("rb") as file:
            for raw in file:
                end += len(raw)
                if raw.strip():
                    self._ends.append(end)
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
        return parse_record(line, self._record, f"{self._path}: record {index + 1}")
