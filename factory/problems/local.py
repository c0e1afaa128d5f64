"""Problems from a local JSONL file."""

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from factory.core.data_file import DataFile
from factory.core.errors import DataError
from factory.core.jsonl import parse_record
from factory.core.records import GRADERS, AddedLater, Problem, ProblemKind, Record
from factory.core.seeds import derive
from factory.grading.grader import deciding
from factory.problems.references import final_answer, reference_verdict
from factory.problems.sizes import first_rows, lines, mean, text_length
from factory.problems.source import (
    SOURCES,
    Fields,
    ProblemSource,
    Source,
    SourceSize,
    nothing_missing,
    of_splits,
)
from factory.problems.splits import Supply, problem_id
from factory.reading.candidates import Candidate, candidates
from factory.reading.columns import Columns, as_line, field_of, guessed_problem, text_of
from factory.reading.files import data_files, read_rows
from factory.reading.programs import program_tests
from factory.reading.survey import ReadingSettings, TableOfRows, survey
from factory.reading.thoughts import without_requests

FIRST_ROWS = 100
"""By which a file's columns are told."""
SHOWN = 5
"""Rows that an error names."""


class LocalSource(ProblemSource):
    """Questions of a file, with the fields of `LocalRow` or by column; see docs/traces.md."""

    type: Literal["local"]
    path: DataFile
    """Relative to the recipe, or to the current folder."""
    train: int | None = Field(default=None, ge=0, le=10**8)
    """How many; None takes all that remain."""
    held_out: int | None = Field(default=0, ge=0, le=10**8)
    """How many, drawn at random; None takes all (then `train` must be 0)."""
    columns: Annotated[Columns | None, AddedLater()] = None
    """The column of question, reference, kind, tests and licence, where they are called otherwise;
    of traces that of messages, whose answers are the references. None: those of `LocalRow`, else by
    their names (`problem`, `answer`, ...)."""
    kind: Annotated[ProblemKind | None, AddedLater()] = None
    """Of all its problems, where they are read by column; None: the row's, or `math`."""
    max_refused_share: Annotated[float, AddedLater()] = Field(default=0.0, ge=0, le=1)
    """Share of rows that may be left out, since they cannot be read or their own grader refuses
    their reference; by default none."""

    @model_validator(mode="after")
    def _one_split_takes_the_rest(self) -> "LocalSource":
        if self.held_out is None and self.train != 0:
            raise ValueError("held_out: null takes every problem, so train must be 0")
        return self

    def outlook(self) -> list[str]:
        """How its columns are read, where they are guessed; DataError of rows at its beginning that
        cannot be read."""
        faults: list[str] = []
        for where, fields in islice(_rows(self), FIRST_ROWS):
            try:
                _record(fields, where)
            except DataError as error:
                faults.append(str(error))
        if faults and not self.max_refused_share:
            raise DataError("\n".join(faults[:SHOWN]))
        for file in () if self.columns else data_files(self.path):
            if not _is_plain(self, first := _first(file)):
                return [f"{file.name}: {as_line(_columns(self, first, file.name))}"]
        return []


class LocalRow(Record):
    """One line of a local file."""

    prompt: str = Field(min_length=1)
    reference: str
    id: str = ""
    """Made from the question where it is empty."""
    kind: ProblemKind = "math"
    data: dict[str, Any] = Field(default_factory=dict)
    licence: str = ""


def plugin_kinds(path: Path) -> set[str]:
    """The graders of plug-ins that rows of a JSONL file name by their `kind`.

    What cannot be read as such rows is left to whoever reads the file for its content.
    """
    own = {row.name for row in GRADERS.rows() if row.origin.kind == "factory"}
    others = set(GRADERS) - own
    if not others:
        return set()
    with path.open(encoding="utf-8", errors="replace") as file:
        return {kind for line in file if (kind := _kind(line)) in others}


def _kind(line: str) -> str | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(kind := row.get("kind"), str):
        return None
    data = row.get("data")
    return deciding(kind, data if isinstance(data, dict) else {})


def supply(source: LocalSource, seed: int) -> Supply:
    """The file's problems, shuffled if they are split.

    DataError names the file and line of broken rows, and references that their graders refuse,
    where they are more than `max_refused_share`.
    """
    path = Path(source.path)
    problems, faults, count = [], [], 0
    for count, (where, fields) in enumerate(_rows(source), start=1):  # noqa: B007
        try:
            problems.append(_problem(_record(fields, where), path))
        except DataError as error:
            faults.append(str(error))
    if len(faults) > source.max_refused_share * count:
        more = f"\nand {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise DataError("\n".join(faults[:SHOWN]) + more)
    if source.held_out and source.train != 0:
        random.Random(derive(seed, path.name)).shuffle(problems)
    return Supply(path.stem, iter(problems), source.held_out, source.train, is_exact=True)


def _rows(source: LocalSource) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """(where, fields of a LocalRow, or why there are none) of every row of a file."""
    files = data_files(source.path)
    for file in files:
        if source.columns is not None and source.columns.messages:
            yield from _of_traces(source.columns, file)
            continue
        first = _first(file)
        columns = None if _is_plain(source, first) else _columns(source, first, file.name)
        for row in read_rows(file):
            where = f"{file}:{row.number}"
            if row.fields is None:
                yield where, row.fault
            elif columns is None:
                yield where, row.fields
            else:
                yield where, _named(row.fields, columns, source.kind)


def _of_traces(columns: Columns, file: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Questions of traces in messages; the answer that one states is its reference."""
    table = TableOfRows(file.name, lambda names: read_rows(file, columns=names))
    reading = survey(table, ReadingSettings(columns=columns)).reading
    for row in read_rows(file):
        part = next(candidates(row, reading), None)
        where = f"{file}:{row.number}"
        if isinstance(part, Candidate):
            yield where, {"prompt": part.question, "reference": part.answer, "kind": part.kind}
        else:
            yield where, "no text" if part is None else f"{part.reason}: {part.detail}"


def _first(file: Path) -> list[dict[str, Any]]:
    rows = islice(read_rows(file), FIRST_ROWS)
    return [row.fields for row in rows if row.fields is not None]


def _is_plain(source: LocalSource, first: list[dict[str, Any]]) -> bool:
    return source.columns is None and (not first or any("prompt" in row for row in first))


def _columns(source: LocalSource, first: list[dict[str, Any]], name: str) -> Columns:
    columns = source.columns or guessed_problem(first)
    present = {column for row in first for column in row}
    wanted = {"question": columns.question, "reference": columns.reference or columns.tests}
    missing = [role for role, column in wanted.items() if not column]
    if missing:
        raise DataError(
            f"{name}: no column for {' and '.join(missing)}; it has {', '.join(sorted(present))}: "
            "say which as columns: {question: ..., reference: ...}"
        )
    return columns


def _named(fields: dict[str, Any], columns: Columns, kind: str | None) -> dict[str, Any]:
    """A row by the names of LocalRow."""
    texts = [text_of(field_of(fields, name)) for name in columns.question]
    question = "\n".join(text for text in texts if text)
    row: dict[str, Any] = {"prompt": without_requests(question) if question else ""}
    details = fields.get("metadata")
    tests = program_tests(field_of(fields, columns.tests), details) if columns.tests else None
    reference = text_of(field_of(fields, columns.reference)) if columns.reference else None
    row["reference"] = reference or ("" if tests is None else "tests")
    stated = text_of(field_of(fields, columns.kind)) if columns.kind else None
    row["kind"] = kind or (stated if stated in GRADERS else "math" if tests is None else "code")
    if tests is not None:
        row["data"] = tests
    if columns.licence:
        row["licence"] = text_of(field_of(fields, columns.licence)) or ""
    return row


def _record(fields: dict[str, Any] | str, where: str) -> LocalRow:
    """The row; DataError says where it stands and what is wrong with it."""
    if isinstance(fields, str):
        raise DataError(f"{where}: {fields}")
    numbers = {
        k: str(v) for k, v in fields.items() if k == "reference" and isinstance(v, int | float)
    }
    extra = {name for name in fields if name not in LocalRow.model_fields}
    kept = {name: value for name, value in fields.items() if name not in extra}
    text = json.dumps({**kept, **numbers}, ensure_ascii=False, default=str)
    return parse_record(text, LocalRow, where)


def _problem(row: LocalRow, path: Path) -> Problem:
    problem = Problem(
        id=row.id or problem_id(path.stem, row.prompt),
        prompt=row.prompt,
        reference=final_answer(row.reference) if row.kind == "math" else row.reference,
        kind=row.kind,
        source=path.name,
        licence=row.licence,
        data=row.data,
    )
    if row.kind in ("code", "open"):
        return problem
    verdict = reference_verdict(problem)
    if not verdict.is_correct:
        raise DataError(
            f"{path}: problem {problem.id}: its reference {row.reference!r} does not grade as "
            f"correct ({verdict.outcome}: {verdict.explanation}); mend it or its kind ({row.kind})"
        )
    return problem


def size(source: LocalSource, seed: int) -> SourceSize:
    path = Path(source.path)
    names = ("prompt", "problem", "question", *(source.columns.question if source.columns else ()))
    length = mean(text_length(row, *dict.fromkeys(names)) for row in first_rows(path))
    return of_splits(source, path.stem, length, count=lambda: lines(path))


def small(fields: Fields) -> Fields | None:
    return fields if Path(fields["path"]).is_file() else None


SOURCES.register(
    "local",
    Source(
        config=LocalSource,
        function=None,
        supply=lambda source, seed, processes: supply(source, seed),
        size=size,
        small=small,
        files=lambda source: tuple(data_files(source.path)),
        graders=lambda source: plugin_kinds(Path(source.path)),
        missing=nothing_missing,
        licence="",
    ),
    version=2,
)
