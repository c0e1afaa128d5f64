"""What training stages logged: telemetry from the artifact, seconds from its run folder."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.core.artifacts import Artifact
from factory.core.errors import DataError
from factory.core.records import Record
from factory.report.build import Build, once
from factory.report.records import Step

WINDOW = 8
"""Steps of the moving mean: one step's accuracy has a standard error near 0.1."""


class Series(Record):
    """One named quantity over training steps; None where a value was not finite."""

    name: str
    steps: tuple[int, ...]
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class TrainingRun:
    """What one training stage logged."""

    stage: str
    kind: str
    artifact: Artifact
    series: tuple[Series, ...]
    seconds: tuple[Series, ...]
    """From the run folder: seconds by phase and rates; empty where it was copied without."""

    def named(self, name: str) -> Series | None:
        """The quantity of that name."""
        return next((series for series in self.series if series.name == name), None)


@once
def training_runs(build: Build) -> list[TrainingRun]:
    """One entry for every sealed stage that wrote `telemetry.jsonl`, in plan order."""
    return [
        _run(step, step.artifact)
        for step in build.steps
        if step.artifact is not None and "telemetry.jsonl" in step.artifact.manifest.files
    ]


def _run(step: Step, artifact: Artifact) -> TrainingRun:
    return TrainingRun(
        stage=step.name,
        kind=step.stage,
        artifact=artifact,
        series=to_series(_rows(artifact.file("telemetry.jsonl"))),
        seconds=to_series(_events(artifact.run_path / "metrics.jsonl")),
    )


def to_series(rows: Iterable[tuple[int, dict[str, Any]]]) -> tuple[Series, ...]:
    """Columns of (step, values) rows, by name; of a step given twice the later row counts.

    A resumed run repeats the steps since its last checkpoint, so the later row is the one whose
    update was kept.
    """
    table: dict[int, dict[str, Any]] = {}
    for step, values in rows:
        table[step] = values
    steps = sorted(table)
    names = sorted({name for values in table.values() for name in values})
    columns = []
    for name in names:
        points = [(step, table[step][name]) for step in steps if name in table[step]]
        if all(_is_number(value) for _, value in points):
            values = tuple(_finite(value) for _, value in points)
            columns.append(Series(name=name, steps=tuple(s for s, _ in points), values=values))
    return tuple(columns)


def _is_number(value: Any) -> bool:
    """Null stands for a number that was not finite."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _finite(value: float | None) -> float | None:
    try:
        return float(value) if value is not None and math.isfinite(value) else None
    except OverflowError:  # an integer that no float can hold
        return None


def moving_mean(series: Series, window: int = WINDOW) -> tuple[float | None, ...]:
    """Mean of the finite values among the `window` around each step, fewer at both ends.

    Centred, so that the line does not trail behind a curve that falls fast.
    """
    before = window // 2
    return tuple(
        mean(series.values[max(position - before, 0) : position - before + window])
        for position in range(len(series.values))
    )


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the finite values, None where there are none."""
    finite = [value for value in values if value is not None]
    return sum(finite) / len(finite) if finite else None


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, row in _json_lines(path):
        step = row.pop("step", None)
        if not isinstance(step, int):
            raise DataError(f"{path}:{number}: step: found {step!r}, a whole number is needed")
        yield step, row


def _events(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Values of the metrics events; none where the run folder was not kept."""
    if not path.exists():
        return
    for number, row in _json_lines(path):
        if row.get("event") != "metrics":
            continue
        if not isinstance(row.get("step"), int) or not isinstance(row.get("values"), dict):
            raise DataError(f"{path}:{number}: a metrics event needs a whole step and its values")
        yield row["step"], row["values"]


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a stream that a kill may have torn: an unfinished last line is left out."""
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: broken line: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: found {type(row).__name__}, an object is needed")
        yield number, row
