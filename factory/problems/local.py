"""Problems from a local JSONL file."""

import json
import random
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from factory.data_file import DataFile
from factory.errors import DataError
from factory.grading.grader import deciding
from factory.jsonl import read_records
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
from factory.records import GRADERS, Problem, ProblemKind, Record
from factory.seeds import derive


class LocalSource(ProblemSource):
    """Questions of a JSONL file with the fields of `LocalRow`."""

    type: Literal["local"]
    path: DataFile
    """Relative to the recipe, or to the current folder."""
    train: int | None = Field(default=None, ge=0, le=10**8)
    """How many; None takes all that remain."""
    held_out: int | None = Field(default=0, ge=0, le=10**8)
    """How many, drawn at random; None takes all (then `train` must be 0)."""

    @model_validator(mode="after")
    def _one_split_takes_the_rest(self) -> "LocalSource":
        if self.held_out is None and self.train != 0:
            raise ValueError("held_out: null takes every problem, so train must be 0")
        return self


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

    DataError names the file and line of a broken row, and a reference that its grader refuses.
    """
    path = Path(source.path)
    problems = [_problem(row, path) for row in read_records(path, LocalRow)]
    if source.held_out and source.train != 0:
        random.Random(derive(seed, path.name)).shuffle(problems)
    return Supply(path.stem, iter(problems), source.held_out, source.train)


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
    length = mean(text_length(row, "prompt") for row in first_rows(path))
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
        files=lambda source: (Path(source.path),),
        graders=lambda source: plugin_kinds(Path(source.path)),
        missing=nothing_missing,
        licence="",
    ),
    version=1,
)
