"""Pairs and safety labels from local JSONL or a hub data set at a pinned revision."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError

from factory.core.data_file import DataFile
from factory.core.errors import DataError
from factory.core.jsonl import read_records
from factory.core.records import COMMIT, AddedLater, Labelled, Pair, Record
from factory.problems.hub import data_set_rows

R = TypeVar("R", bound=Record)


class PairLine(Record):
    """A line of a local file, or a row of a data set under these names."""

    prompt: str = Field(min_length=1)
    chosen: str = Field(min_length=1)
    rejected: str = Field(min_length=1)


class LabelLine(Record):
    """A line of a local file, or a row of a data set under these names."""

    prompt: str = Field(min_length=1)
    response: str = Field(min_length=1)
    is_safe: bool


class LocalFile(Record):
    """Lines of a JSONL file: `prompt`, `chosen`, `rejected`; or `prompt`, `response`, `is_safe`."""

    type: Literal["local"]
    path: DataFile
    """Relative to the recipe, or to the current folder."""
    licence: Annotated[str, AddedLater()] = ""
    """As the hub writes it; `factory publish` refuses without. Ours for files in recipes/data."""


class HubRows(Record):
    """Rows of a hub data set, read by column."""

    type: Literal["hub"]
    id: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """Owner and name of the data set."""
    revision: str | None = Field(default=None, pattern=COMMIT)
    """The commit's 40 hex digits. A recipe may leave it open; it must be filled in to be built."""
    config: str | None = None
    """The data set's configuration (subset), where it has several."""
    split: str = "train"
    """Of the data set."""
    columns: dict[str, str]
    """Name of each field's column, e.g. `{prompt: question, chosen: better, rejected: worse}`."""
    limit: int | None = Field(default=None, ge=1, le=10**9)
    """Use only the first N rows."""
    licence: Annotated[str, AddedLater()] = ""
    """As for a file."""


Stored = LocalFile | HubRows


def stored_pairs(source: Stored) -> list[Pair]:
    """Every pair of a file or data set, in order; DataError names what is wrong and where."""
    return [
        Pair(prompt=row.prompt, chosen=row.chosen, rejected=row.rejected, source=where)
        for where, row in _rows(source, PairLine)
    ]


def stored_labels(source: Stored) -> list[Labelled]:
    """Every labelled response of a file or data set; DataError names what is wrong and where."""
    return [
        Labelled(prompt=row.prompt, response=row.response, is_safe=row.is_safe, source=where)
        for where, row in _rows(source, LabelLine)
    ]


def external_files(source: Record) -> tuple[Path, ...]:
    """Files outside the store that a source reads."""
    return (Path(source.path),) if isinstance(source, LocalFile) else ()


def missing(source: Record) -> list[str]:
    """The commit, where the recipe leaves it open."""
    if isinstance(source, HubRows) and source.revision is None:
        return [f"source.revision: the commit of huggingface.co/datasets/{source.id} to read"]
    return []


def column_problems(source: Record, record: type[Record]) -> list[str]:
    """What is wrong with the columns that a data set is read by."""
    wanted = set(record.model_fields)
    if not isinstance(source, HubRows) or set(source.columns) == wanted:
        return []
    return [f"source.columns: found {sorted(source.columns)}, needed are {sorted(wanted)}"]


def _rows(source: Stored, record: type[R]) -> Iterator[tuple[str, R]]:
    if isinstance(source, LocalFile):
        path = Path(source.path)
        for number, row in enumerate(read_records(path, record), start=1):
            yield f"{path.name} {number}", row
        return
    for number, row in enumerate(_data_set(source), start=1):
        where = f"{source.id} {number}"
        try:
            fields = {field: row[column] for field, column in source.columns.items()}
            yield where, record.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise DataError(
                f"data set {source.id}: row {number}: {field}: {first['msg']}"
            ) from error


def _data_set(source: HubRows) -> Any:
    rows = data_set_rows(
        source.id,
        source.revision,
        config=source.config,
        split=source.split,
        columns=list(source.columns.values()),
    )
    return rows if source.limit is None else rows.select(range(min(source.limit, len(rows))))
