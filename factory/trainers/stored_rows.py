"""Rows of tokens in an Arrow file that is mapped into memory: all ranks of a node share its pages.

A rank holds 12 bytes a row and RESIDENT bytes of the file, which has 4 bytes a token. R1's 800,000
traces of 6,000 tokens take 19 GB of disk, and as Python's integers would take 540 to 750 GB of
memory on every rank.
"""

import math
import mmap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from factory.core.errors import ArtifactError
from factory.core.files import fsync, naming, note
from factory.trainers.rows import IGNORED, Row
from factory.trainers.unchanged import remember, require_unchanged, sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLUMNS = ("prompt_ids", "completion_ids")
SCHEMA = pa.schema([(name, pa.list_(pa.int32())) for name in COLUMNS])
BATCH_TOKENS = 2**20
"""Tokens after which a batch of rows is written."""
RESIDENT = 2**26
"""Bytes of the file that a process may have mapped when it has read; then it gives them back."""
LOOK_SECONDS = 0.2
QUANTILES = (0.5, 0.9, 0.99, 1.0)


class _Pages:
    """A file mapped into memory, the pages of which a process gives back after a while: they stay
    in the kernel's cache."""

    def __init__(self, path: Path) -> None:
        with naming(path), path.open("rb") as file:
            self.mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._path, self._before = path, _mapped_bytes()

    def __reduce__(self) -> tuple[type["_Pages"], tuple[Path]]:
        return _Pages, (self._path,)

    def have_been_read(self) -> None:
        """Give pages back if they are many. They are counted, since with a byte the kernel maps as
        much of the file as it keeps in one piece, up to 2 MiB."""
        if _mapped_bytes() - self._before >= RESIDENT:
            self.release()

    def release(self) -> None:
        self.mapped.madvise(mmap.MADV_DONTNEED)
        self._before = _mapped_bytes()


def _mapped_bytes() -> int:
    """Resident pages of all files of this process (`man proc_pid_statm`)."""
    return int(Path("/proc/self/statm").read_bytes().split()[2]) * mmap.PAGESIZE


class StoredRows(Sequence[Row]):
    """Some rows of a table of tokens, by their place."""

    def __init__(
        self, dataset: Dataset, pages: _Pages | None = None, places: "NDArray[Any] | None" = None
    ) -> None:
        self._dataset, self._pages = dataset, pages
        columns = [dataset.data.column(name) for name in COLUMNS]
        lengths = [_lengths(column) for column in columns]
        self._places = np.arange(len(dataset)) if places is None else places
        self.completion_tokens: NDArray[Any] = lengths[1][self._places]
        """Tokens of each row's completion."""
        self.tokens: NDArray[Any] = lengths[0][self._places] + self.completion_tokens
        """Tokens of each row."""
        if pages is not None:
            pages.release()

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "StoredRows":
        """Rows that are held in memory."""
        return cls(Dataset(pa.Table.from_batches(_batches(rows), SCHEMA)))

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        row = self._dataset[int(self._places[index])]
        if self._pages is not None:
            self._pages.have_been_read()
        return Row(*(tuple(row[name]) for name in COLUMNS))

    def within(self, limit: int) -> "StoredRows":
        """The rows of at most `limit` tokens."""
        return StoredRows(self._dataset, self._pages, self._places[self.tokens <= limit])

    def in_order(self, order: Sequence[int]) -> Dataset:
        """TRL's columns `input_ids` and `labels`, made as they are read."""
        return self._dataset.select(self._places[order]).with_transform(_Trained(self._pages))

    def shortest(self, count: int) -> list[Row]:
        """Rows of the shortest completions, of so many different prompts if there are as many."""
        chosen: dict[tuple[int, ...], Row] = {}
        by_length = self.completion_tokens.argsort(kind="stable")
        ends = np.flatnonzero(np.diff(self.completion_tokens[by_length])) + 1
        for places in np.split(by_length, ends):
            first: dict[tuple[int, ...], Row] = {}
            for index in places.tolist():
                row = self[index]
                if row.prompt_ids not in chosen:
                    first.setdefault(row.prompt_ids, row)
                if len(first) > 16 * count:
                    first = dict(sorted(first.items())[:count])
            chosen.update(sorted(first.items()))
            if len(chosen) >= count:
                break
        return list(chosen.values())[:count]


def length_report(rows: StoredRows, limit: int) -> dict[str, Any]:
    """What the limit drops, and how long all rows are: the content of `lengths.json`.

    A row is trained whole or not at all: a trace cut in its thoughts would teach the student not
    to answer.
    """
    kept = rows.within(limit)
    lengths = sorted(rows.tokens.tolist())
    return {
        "limit": limit,
        "rows": len(kept),
        "tokens": int(kept.tokens.sum()),
        "completion_tokens": int(kept.completion_tokens.sum()),
        "dropped_rows": len(rows) - len(kept),
        "dropped_tokens": int(rows.tokens.sum() - kept.tokens.sum()),
        "dropped_share": (len(rows) - len(kept)) / len(rows),
        "quantiles": {str(share): _quantile(lengths, share) for share in QUANTILES},
    }


def _quantile(ordered: Sequence[int], share: float) -> int:
    """The smallest value that at least `share` of the values do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def stored_rows(
    path: Path, rows: Iterator[Row], *, is_first: bool, notify: Callable[[str], None] = note
) -> StoredRows:
    """The rows in the file `path`, which the first rank writes where it is not there yet as it was
    written, whole or not at all; the other ranks wait for it, and end with the first where that
    fails. `notify` is told of a file that the disk has changed."""
    if not is_first:
        while not _is_as_written(path):
            time.sleep(LOOK_SECONDS)
    elif not _is_as_written(path):
        if path.exists() and sums(path).exists():
            notify(f"{path}: not what was written: made again")
        path.unlink(missing_ok=True)
        draft = path.with_suffix(".draft")
        with (
            naming(path),
            pa.OSFile(str(draft), "wb") as sink,
            pa.ipc.new_stream(sink, SCHEMA) as writer,
        ):
            for batch in _batches(rows):
                writer.write_batch(batch)
        fsync(draft)
        draft.rename(path)
        remember(path)
    pages = _Pages(path)
    with pa.ipc.open_stream(pa.py_buffer(pages.mapped)) as reader:
        return StoredRows(Dataset(reader.read_all(), fingerprint=path.stem), pages)


def _is_as_written(path: Path) -> bool:
    """Whether the file is there with the hash that was taken of it."""
    try:
        require_unchanged(path)
    except (ArtifactError, OSError):
        return False
    return sums(path).exists()


def _batches(rows: Iterable[Row]) -> Iterator[pa.RecordBatch]:
    waiting: list[Row] = []
    tokens = 0
    for row in rows:
        waiting.append(row)
        tokens += row.tokens
        if tokens >= BATCH_TOKENS:
            yield _batch(waiting)
            waiting, tokens = [], 0
    if waiting:
        yield _batch(waiting)


def _batch(rows: Sequence[Row]) -> pa.RecordBatch:
    columns = [[getattr(row, name) for row in rows] for name in COLUMNS]
    return pa.RecordBatch.from_arrays(
        [pa.array(column, type=field.type) for column, field in zip(columns, SCHEMA, strict=True)],
        schema=SCHEMA,
    )


def _lengths(column: pa.ChunkedArray) -> "NDArray[Any]":
    """How many tokens each row of the column has."""
    counts = [np.diff(chunk.offsets.to_numpy()) for chunk in column.chunks]
    return np.concatenate(counts) if counts else np.empty(0, np.int32)


@dataclass(frozen=True)
class _Trained:
    """`input_ids`, and `labels` in which the prompt is ignored: see `Row.labels`."""

    pages: _Pages | None

    def __call__(self, rows: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        pairs = list(zip(*(rows[name] for name in COLUMNS), strict=True))
        made = [before + after for before, after in pairs]
        if self.pages is not None:
            self.pages.have_been_read()
        labels = [[IGNORED] * len(before) + after for before, after in pairs]
        return {"input_ids": made, "labels": labels}
