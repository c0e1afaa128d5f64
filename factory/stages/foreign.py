"""A plug-in's stage at work: what it does wrong is said with its place in the user's file."""

import math
import traceback
from pathlib import Path
from typing import Any

from factory.core.artifacts import Inputs
from factory.core.context import Context, Metrics
from factory.core.errors import DataError, EngineError, FactoryError, is_out_of_memory
from factory.core.jsonl import read_records
from factory.core.records import ArtifactKind, Labelled, Pair, Problem, Record, Score, Trace
from factory.core.registry import Row
from factory.stages.stage import Stage

FILES: dict[ArtifactKind, dict[str, type[Record]]] = {
    "problems": {"train.jsonl": Problem, "held_out.jsonl": Problem},
    "traces": {"traces.jsonl": Trace},
    "pairs": {"pairs.jsonl": Pair},
    "labels": {"labels.jsonl": Labelled},
    "scores": {"scores.jsonl": Score},
    "model": {}, "reward_model": {},
}  # fmt: skip
"""Files that an artifact must have, with what a line of each is: all that reads it relies on it."""


def run_foreign(
    row: Row[Stage], config: Any, inputs: Inputs, out: Path, context: Context
) -> Metrics:
    """Run a plug-in's stage and check what it made.

    EngineError, with stage, file and line, where it raises or returns no finite metrics; DataError
    where a file of its kind of artifact is missing or malformed.
    """
    where = f"stage {row.name} of {row.origin}"
    try:
        metrics = row.value.run(config, inputs, out, context)
    except (FactoryError, OSError):
        raise
    # A user's function may raise anything, and none of it is a bug of ours.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == row.origin.name
        ]
        index = f"run, line {lines[-1]}" if lines else "run"
        raise EngineError(f"{where}: {index}: {type(error).__name__}: {error}") from error
    _check_metrics(metrics, where)
    for name, record in FILES[row.value.produces].items():
        if not (out / name).is_file():
            raise DataError(f"{where}: run wrote no {name}, which {row.value.produces} have")
        for _ in read_records(out / name, record):
            pass
    return {name: float(value) for name, value in metrics.items()}


def _check_metrics(metrics: Any, where: str) -> None:
    if not isinstance(metrics, dict):
        raise EngineError(f"{where}: run gave {metrics!r}, a dict of numbers by name is wanted")
    for name, value in metrics.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not isinstance(name, str) or not is_number or not math.isfinite(value):
            raise EngineError(f"{where}: metric {name!r} is {value!r}, a finite number is wanted")
