"""One stage in a process of its own: `python -m factory.building.worker JOB.json`.

Its memory is given back when it ends, and a crash or an out-of-memory kill is one stage's
failure. Exit status: 0 made, 2 a FactoryError (told as an `error` event), 1 a bug.
"""

import json
import multiprocessing
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from factory.core.artifacts import Inputs, open_artifact, verify
from factory.core.context import Context, Metrics
from factory.core.errors import EngineError, FactoryError, is_out_of_memory, is_out_of_room
from factory.core.files import write_file
from factory.core.interpreter import die_with_parent
from factory.core.jsonl import append_rows
from factory.core.machine import Machine, apply_matmul
from factory.core.noting import passing_notes
from factory.core.plugin_files import PluginFile, load_same
from factory.core.ranks import enter, failure_of_rank, is_launched, join, this_rank
from factory.core.records import Record
from factory.stages import STAGES
from factory.stages.foreign import run_foreign


class Job(Record):
    """Everything a worker needs, as the pipeline writes it."""

    stage: str
    config: dict[str, Any]
    inputs: dict[str, str]
    """Folder of each input artifact by field path."""
    out: str
    run: str
    """The `.run` folder: log.txt, metrics.jsonl, scratch/, result.json."""
    seed: int
    machine: Machine
    plugins: tuple[PluginFile, ...] = ()
    builder: int
    """Process that started this worker; the worker does not outlive it."""


class Result(Record):
    metrics: Metrics
    peak_memory_gib: float


def main(path: Path) -> int:
    """Run the job; the exit status as above."""
    job = Job.model_validate_json(path.read_text(encoding="utf-8"))
    die_with_parent()
    if not _parent_lives(job):
        return 1  # the build was killed before this process could ask to die with it
    folder = Path(job.run)
    # A rank that is not the first keeps quiet: one stream of events a stage.
    is_main_rank = not is_launched(job.machine) or this_rank().is_first
    target = folder / "metrics.jsonl" if is_main_rank else Path(os.devnull)
    with target.open("a", encoding="utf-8") as events:
        context = Context(job.seed, job.machine, folder / "scratch", events)
        try:
            enter(job.machine)
            with passing_notes(context):
                metrics = _run(job, context)
            context.finished()
        except FactoryError as error:
            traceback.print_exc()
            context.error(type(error).__name__, str(error))
            if not is_main_rank:
                _tell_error(folder, type(error).__name__, str(error))
            return 2
        except Exception as error:
            if is_launched(job.machine):
                _tell_error(folder, "EngineError", failure_of_rank(error))
            raise
    if is_main_rank:
        figures = {**context.figures, **_gpu_peak(), **metrics}
        result = Result(metrics=figures, peak_memory_gib=_peak_memory_gib())
        write_file(folder / "result.json", result.model_dump_json() + "\n")
    return 0


def _tell_error(folder: Path, kind: str, message: str) -> None:
    """Why a rank stopped: the others end with it and know no reason, nor does their launcher."""
    row = {"event": "error", "at": 0.0, "rank": this_rank().index}
    append_rows(folder / "metrics.jsonl", [{**row, "kind": kind, "message": message}])


def _run(job: Job, context: Context) -> Metrics:
    """The stage's metrics; running out of memory becomes an EngineError that says what to lower."""
    load_same(job.plugins)
    row = STAGES.row(job.stage)
    stage = row.value
    inputs = Inputs({key: open_artifact(Path(folder)) for key, folder in job.inputs.items()})
    for artifact in {a.fingerprint: a for a in inputs.values()}.values():
        verify(artifact)
    config = stage.config.model_validate_json(json.dumps(job.config))
    if stage.preload:
        apply_matmul(job.machine)
    join(job.machine)
    try:
        if row.origin.kind != "factory":
            return run_foreign(row, config, inputs, Path(job.out), context)
        return stage.run(config, inputs, Path(job.out), context)
    except FactoryError:
        raise
    except Exception as error:
        # What is the user's to repair is told in words; all else is a bug.
        if is_out_of_memory(error):
            raise EngineError(out_of_memory(job.stage, job.machine)) from error
        if is_out_of_room(error) or (isinstance(error, OSError) and error.filename is not None):
            where, what = _said_by_system(error, instead=job.out)
            raise EngineError(f"{where}: {what}") from error
        raise


def _said_by_system(error: Exception, *, instead: str) -> tuple[str, str]:
    """(path, what the system says of it); a library may name no path."""
    if isinstance(error, OSError) and error.errno is not None:
        return str(error.filename or instead), error.strerror or str(error)
    return instead, (str(error).splitlines() or [""])[-1][:300]


def out_of_memory(stage: str, machine: Machine | None = None) -> str:
    """What to tell a user whose stage of this kind ran out of memory; None: on some machine."""
    return f"out of memory: {STAGES[stage].memory_advice(machine)}"


def _parent_lives(job: Job) -> bool:
    """Whether the build that this job belongs to is still there."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        return parent.is_alive()
    # What accelerate starts is its child, and it watches over it.
    return is_launched(job.machine) or os.getppid() == job.builder


def _gpu_peak() -> Metrics:
    """The most that torch held of this process's GPU, GiB; nothing where it used none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    return {"gpu_peak_gib": torch.cuda.max_memory_allocated() / 2**30}


def _peak_memory_gib() -> float:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
