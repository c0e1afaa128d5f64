"""The main loop: for each step of a plan reuse its artifact or make it in a worker, then seal."""

import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from factory import errors
from factory.artifacts import Artifact, InputEntry, find, folder_name, seal, set_aside, verify
from factory.errors import ArtifactError, EngineError, RecipeError
from factory.jsonl import recover_rows
from factory.launch.local import Launcher
from factory.launch.measure import resolve_matmul
from factory.machine import Machine, free_gib
from factory.plan import Step, missing, stage_versions
from factory.provenance import code_state
from factory.worker import Job, Result, out_of_memory

POLL_SECONDS = 0.2
LEAST_FREE_GIB = 0.5
"""A build does not start with less room than this."""
FULL_GIB = 0.02
"""A worker that failed without a word while the disk has less room than this: it was full."""


class Observer(Protocol):
    """What a display hears during a build."""

    def reused(self, step: Step, artifact: Artifact) -> None: ...
    def started(self, step: Step, folder: Path) -> None: ...
    def event(self, step: Step, event: Mapping[str, Any]) -> None: ...
    def made(self, step: Step, artifact: Artifact) -> None: ...
    def waiting(self, step: Step, holder: str) -> None: ...


def build(
    plan: Sequence[Step], store: Path, machine: Machine, observer: Observer
) -> dict[str, Artifact]:
    """Make or reuse every step's artifact, in order; returns them by stage name.

    RecipeError lists what the recipe leaves open, before anything is made.
    """
    gaps = missing(plan)
    if gaps:
        raise RecipeError("\n".join(f"to be filled in: {gap}" for gap in gaps))
    _check_store(store)
    artifacts: dict[str, Artifact] = {}
    launcher: Launcher | None = None
    for number, step in enumerate(plan):
        with _locked(store, step, observer):
            artifact = find(store, step.fingerprint)
            if artifact:
                verify(artifact, known=True)
                observer.reused(step, artifact)
            else:
                if launcher is None:
                    stages = [later.stage for later in plan[number:]]
                    launcher = Launcher(
                        resolve_matmul(machine, store), stages, log=store / ".imports.log"
                    )
                artifact = _make(step, artifacts, store, launcher, observer)
                observer.made(step, artifact)
        artifacts[step.name] = artifact
    return artifacts


def _make(
    step: Step,
    artifacts: Mapping[str, Artifact],
    store: Path,
    launcher: Launcher,
    observer: Observer,
) -> Artifact:
    final = store / folder_name(step.name, step.fingerprint)
    partial, run = final.with_name(final.name + ".partial"), final.with_name(final.name + ".run")
    if final.exists():
        set_aside(final, "no valid manifest: it was not made by a finished stage")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir()
    (run / "scratch").mkdir(parents=True, exist_ok=True)
    job = Job(
        stage=step.kind,
        config=step.config.model_dump(mode="json"),
        inputs={path: str(artifacts[name].path) for path, name in step.inputs.items()},
        out=str(partial),
        run=str(run),
        seed=step.seed,
        machine=launcher.machine,
        builder=os.getpid(),
    )
    (run / "job.json").write_text(job.model_dump_json(indent=2) + "\n", encoding="utf-8")
    observer.started(step, run)
    _work(step, run, launcher, observer)
    result = Result.model_validate_json((run / "result.json").read_text(encoding="utf-8"))
    fields = _manifest_fields(step, artifacts, launcher.machine, result, _seconds(run))
    artifact = seal(partial, final, fields)
    shutil.rmtree(run / "scratch")
    return artifact


def _work(step: Step, run: Path, launcher: Launcher, observer: Observer) -> None:
    """Run the worker to its end, passing its events on; its failure becomes an EngineError."""
    events = run / "metrics.jsonl"
    recover_rows(events)  # a killed worker may have left half a line
    position = events.stat().st_size if events.exists() else 0
    worker = launcher.start(run / "job.json", run / "log.txt", trains=step.stage.trains)
    failure: Mapping[str, Any] | None = None
    try:
        while True:
            status = worker.poll()
            rows, position = _new_rows(events, position)
            for row in rows:
                failure = row if row["event"] == "error" else failure
                observer.event(step, row)
            if status is not None and not rows:
                break
            if status is None:
                time.sleep(POLL_SECONDS)
    except BaseException:
        worker.stop()
        raise
    if status != 0:
        raise _failure(step, run, status, failure)


def _new_rows(path: Path, position: int) -> tuple[list[dict[str, Any]], int]:
    """Whole lines appended since `position`, and the position after them."""
    if not path.exists():
        return [], position
    with path.open("rb") as file:
        file.seek(position)
        raw = file.read()
    whole = raw[: raw.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines()], position + len(whole)


def _failure(
    step: Step, run: Path, status: int, told: Mapping[str, Any] | None
) -> errors.FactoryError:
    log = run / "log.txt"
    if told:
        kind = getattr(errors, told["kind"], EngineError)
        return kind(f"stage {step.name}: {told['message']}")
    if status == -signal.SIGKILL:
        return EngineError(
            f"stage {step.name}: killed from outside, most likely {out_of_memory(step.kind)}"
        )
    if free_gib(run) < FULL_GIB:
        return EngineError(f"stage {step.name}: the disk of {run} is full: make room, start again")
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:])
    return EngineError(
        f"stage {step.name}: its worker ended with status {status}; the log is {log}; "
        f"its last lines:\n{tail}"
    )


def _manifest_fields(
    step: Step,
    artifacts: Mapping[str, Artifact],
    machine: Machine,
    result: Result,
    seconds: float,
) -> dict[str, Any]:
    commit, dirty = code_state()
    return {
        "kind": step.stage.produces,
        "name": step.name,
        "stage": step.kind,
        "stage_version": step.stage.version,
        "fingerprint": step.fingerprint,
        "config": step.config.model_dump(mode="json"),
        "inputs": {
            path: InputEntry(name=name, fingerprint=artifacts[name].fingerprint)
            for path, name in step.inputs.items()
        },
        "seed": step.seed,
        "metrics": result.metrics,
        "versions": stage_versions(step.stage),
        "machine": machine.model_dump(mode="json"),
        "commit": commit,
        "dirty": dirty,
        "seconds": seconds,
        "peak_memory_gib": result.peak_memory_gib,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _seconds(run: Path) -> float:
    """Working time over all attempts: each attempt's clock starts at zero."""
    total = last = 0.0
    for row in recover_rows(run / "metrics.jsonl"):
        if row["at"] < last:
            total += last
        last = row["at"]
    return round(total + last, 3)


def _check_store(store: Path) -> None:
    try:
        store.mkdir(parents=True, exist_ok=True)
        probe = store / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ArtifactError(f"{store}: cannot be written: {error.strerror}") from error
    if free_gib(store) < LEAST_FREE_GIB:
        raise ArtifactError(f"{store}: only {free_gib(store):.1f} GiB free; make room first")


@contextmanager
def _locked(store: Path, step: Step, observer: Observer) -> Iterator[None]:
    """Hold the lock of one fingerprint; say who holds it and wait if it is taken.

    The kernel drops the lock with its process, so a killed build leaves none behind.
    """
    folder = store / ".locks"
    folder.mkdir(exist_ok=True)
    with (folder / step.fingerprint).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            observer.waiting(step, file.read().strip() or "another build")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} since {datetime.now(UTC).isoformat(timespec='seconds')}")
        file.flush()
        yield
