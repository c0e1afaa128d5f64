"""The main loop: reuse a step's artifact or make it in a worker, once its inputs are there."""

import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence, Set
from datetime import UTC, datetime
from multiprocessing import connection
from pathlib import Path
from typing import Any, Protocol, TextIO

from factory.building.launch.endings import failure, memory_kills, stopped_process
from factory.building.launch.local import Launcher
from factory.building.launch.measure import resolve_matmul
from factory.building.plan import Step, check_prompts, missing, stage_versions, used_plugins
from factory.building.pruning import unneeded
from factory.building.worker import Job, Result
from factory.core.artifacts import (
    PRUNED,
    Artifact,
    InputEntry,
    PluginEntry,
    find,
    folder_name,
    seal,
    set_aside,
    verify,
)
from factory.core.context import STOP
from factory.core.data_file import WITH_PATHS
from factory.core.errors import ArtifactError, EngineError, RecipeError
from factory.core.files import naming, read_file, write_file
from factory.core.jsonl import recover_lines
from factory.core.machine import Machine, free_gib
from factory.core.plugin_files import keep_texts, loaded_plugins
from factory.core.provenance import code_state

POLL_SECONDS = 0.2
STOP_SECONDS = 20.0
"""That what trains has for its checkpoint when the build is told to end; in a Slurm job the machine
file says it."""
LEAST_FREE_GIB = 0.5
"""A build does not start with less room than this."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, as batch systems and service managers send it some time before they kill."""


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
    """Make or reuse every step's artifact, inputs first; returns them by stage name, but for what
    was pruned and nothing needs. Up to `machine.parallel` stages are at work side by side.
    RecipeError lists what the recipe leaves open, before anything is made. After Terminated what
    trains has a checkpoint of its last step.
    """
    if gaps := missing(plan):
        raise RecipeError("\n".join(f"to be filled in: {gap}" for gap in gaps))
    check_store(store)
    skipped = unneeded(plan, store)
    absent = [step for step in plan if find(store, step.fingerprint) is None]
    check_prompts(plan, [step for step in absent if step.name not in skipped])
    keep_texts(store / "plugins")
    artifacts: dict[str, Artifact] = {}
    running: list[_Making] = []
    waiting = [step for step in plan if step.name not in skipped]
    launcher: Launcher | None = None
    lock: _Lock | None = None
    try:
        while waiting or running:
            before = len(waiting) + len(running)
            for step in _ready(waiting, artifacts.keys() | skipped):
                if len(running) == machine.parallel:
                    break
                lock = _Lock(store, step)
                if not lock.acquire(observer):
                    continue
                artifact = find(store, step.fingerprint)
                if artifact:
                    verify(artifact, was_checked=True)
                    observer.reused(step, artifact)
                    lock.release()
                    artifacts[step.name] = artifact
                    waiting.remove(step)
                    break  # it may have made a step ready that comes earlier in the plan
                if launcher is None:
                    stages = [later.stage for later in waiting]
                    launcher = Launcher(
                        resolve_matmul(machine, store), stages, log=store / ".imports.log"
                    )
                running.append(_Making(step, artifacts, store, launcher, observer, lock))
                waiting.remove(step)
            for making in list(running):
                artifact = making.advance()
                if artifact:
                    artifacts[making.step.name] = artifact
                    running.remove(making)
            if len(waiting) + len(running) == before:
                _wait(running)
    except Terminated:
        _checkpoint(running, machine)
        raise
    finally:
        for making in running:
            making.stop()
        if lock is not None:
            lock.release()  # of a step that was broken, or could not be started
    return artifacts


def _ready(waiting: Sequence[Step], settled: Set[str]) -> list[Step]:
    """Steps whose inputs are all there or needed by nothing, in the plan's order."""
    return [step for step in waiting if settled >= set(step.inputs.values())]


def _wait(running: "Sequence[_Making]") -> None:
    """Until one of the workers ends; less long, since events and the locks of other builds are
    looked at in between."""
    sentinels = [making.sentinel for making in running if making.sentinel is not None]
    connection.wait(sentinels, POLL_SECONDS)


def _checkpoint(running: "Sequence[_Making]", machine: Machine) -> None:
    """Let what trains end with a checkpoint, as long as there is time for it."""
    seconds = (
        STOP_SECONDS if machine.slurm is None else machine.slurm.stop_seconds - STOP_SECONDS / 2
    )
    end = time.monotonic() + seconds
    training = [making for making in running if making.step.stage.trains]
    for making in training:
        making.ask_to_stop()
    while time.monotonic() < end and any(making.is_running for making in training):
        time.sleep(POLL_SECONDS)


class _Making:
    """One stage at work: its folder, its worker, and how far its events were passed on."""

    def __init__(
        self,
        step: Step,
        artifacts: Mapping[str, Artifact],
        store: Path,
        launcher: Launcher,
        observer: Observer,
        lock: "_Lock",
    ) -> None:
        self.step = step
        if gone := set(step.inputs.values()) - artifacts.keys():
            raise ArtifactError(f"stage {step.name}: {min(gone)} was pruned meanwhile: start again")
        self._inputs = {path: artifacts[name] for path, name in step.inputs.items()}
        self._machine = launcher.machine
        self._started_as = launcher.machine.for_worker(in_ranks=step.stage.in_ranks)
        self._observer = observer
        self._lock = lock
        self._final = store / folder_name(step.name, step.fingerprint)
        self._partial = self._final.with_name(self._final.name + ".partial")
        self._run = self._final.with_name(self._final.name + ".run")
        self._prepare()
        observer.started(step, self._run)
        self._events = self._run / "metrics.jsonl"
        recover_lines(self._events)  # a killed worker may have left half a line
        self._position = self._events.stat().st_size if self._events.exists() else 0
        self._failure: Mapping[str, Any] | None = None
        self._is_said = False
        self._killed_before = memory_kills()
        self._worker = launcher.start(
            self._run / "job.json",
            self._run / "log.txt",
            machine=self._started_as,
            trains=step.stage.trains,
        )

    def _prepare(self) -> None:
        if self._final.exists():
            set_aside(self._final, "no valid manifest: it was not made by a finished stage")
        if self._partial.exists():
            shutil.rmtree(self._partial)
        self._partial.mkdir()
        (self._run / "scratch").mkdir(parents=True, exist_ok=True)
        (self._run / "scratch" / STOP).unlink(missing_ok=True)
        job = Job(
            stage=self.step.kind,
            config=self.step.config.model_dump(mode="json", context=WITH_PATHS),
            inputs={path: str(artifact.path) for path, artifact in self._inputs.items()},
            out=str(self._partial),
            run=str(self._run),
            seed=self.step.seed,
            machine=self._started_as,
            plugins=loaded_plugins(),
            builder=os.getpid(),
        )
        text = job.model_dump_json(indent=2) + "\n"
        write_file(self._run / "job.json", text)

    @property
    def is_running(self) -> bool:
        return self._worker.poll() is None

    @property
    def sentinel(self) -> int | None:
        """Becomes readable when the worker ends."""
        return self._worker.sentinel

    def advance(self) -> Artifact | None:
        """Pass new events on; the sealed artifact once the worker has ended well.

        A worker's failure is raised as the FactoryError that it told of, else as an EngineError.
        """
        status = self._worker.poll()
        rows, self._position = _new_rows(self._events, self._position)
        for row in rows:
            if row["event"] == "error":
                self._failure = self._failure or row  # of several ranks that of the first to fail
            self._observer.event(self.step, row)
        if status is None:
            self._say_if_stopped()
            return None
        if status != 0:
            raise failure(
                self.step.name,
                self.step.kind,
                self._run,
                status,
                message=self._failure,
                machine=self._machine,
                before=self._killed_before,
                server=self._worker.end_of_server(),
            )
        result_path = self._run / "result.json"
        result = read_file(
            result_path, Result.model_validate_json, instead="its stage is made again"
        )
        if result is None:
            raise EngineError(f"stage {self.step.name}: {result_path}: not readable: start again")
        fields = _manifest_fields(
            self.step, self._inputs, self._machine, result, _seconds(self._run)
        )
        artifact = seal(self._partial, self._final, fields)
        shutil.rmtree(self._run / "scratch")
        shutil.rmtree(self._final.with_name(self._final.name + PRUNED), ignore_errors=True)
        self._lock.release()
        self._observer.made(self.step, artifact)
        return artifact

    def _say_if_stopped(self) -> None:
        """Say once that a process of the worker is stopped, as by Ctrl-Z or SIGSTOP: it would be
        waited for without a word and without end."""
        if self._worker.pid is None or self._is_said:
            return
        if (pid := stopped_process(self._worker.pid)) is None:
            return
        self._is_said = True
        text = f"its worker is stopped and is waited for; `kill -CONT {pid}` lets it go on"
        self._observer.event(self.step, {"event": "note", "text": text})

    def ask_to_stop(self) -> None:
        """Ask a trainer for a checkpoint and its end; one that was stopped goes on for it."""
        self._worker.signal(signal.SIGCONT)
        (self._run / "scratch" / STOP).touch()

    def stop(self) -> None:
        """End the worker; what it finished is on disk. The lock goes, for a next build in this
        process."""
        self._worker.stop()
        self._lock.release()


def _new_rows(path: Path, position: int) -> tuple[list[dict[str, Any]], int]:
    """Whole lines appended since `position`, and the position after them."""
    if not path.exists():
        return [], position
    with path.open("rb") as file:
        file.seek(position)
        raw = file.read()
    lines = raw[: raw.rfind(b"\n") + 1]
    return [json.loads(line) for line in lines.splitlines()], position + len(lines)


def _manifest_fields(
    step: Step,
    inputs: Mapping[str, Artifact],
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
            path: InputEntry(name=name, fingerprint=inputs[path].fingerprint)
            for path, name in step.inputs.items()
        },
        "seed": step.seed,
        "metrics": result.metrics,
        "versions": stage_versions(step.stage),
        "plugins": {
            name: PluginEntry(
                origin=row.origin.label, version=row.version, sha256=row.origin.sha256
            )
            for name, row in used_plugins(step.config, step.stage).items()
        },
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
    for line in recover_lines(run / "metrics.jsonl"):
        try:
            row = json.loads(line)
            at = float(row["at"])
        except (ValueError, TypeError, KeyError, RecursionError):
            continue  # what a disk has made of a line must not stop a stage that is made
        if "rank" in row:
            continue  # told by another rank than the first, with a clock of its own
        if at < last:
            total += last
        last = at
    return round(total + last, 3)


def check_store(store: Path) -> None:
    """ArtifactError unless artifacts can be written there and there is room for a build."""
    try:
        store.mkdir(parents=True, exist_ok=True)
        probe = store / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ArtifactError(f"{store}: cannot be written: {error.strerror}") from error
    if free_gib(store) < LEAST_FREE_GIB:
        raise ArtifactError(f"{store}: only {free_gib(store):.1f} GiB free; make room first")


class _Lock:
    """The lock of one fingerprint, held by whoever makes or reuses it.

    The kernel drops the lock with its process, so a killed build leaves none behind.
    """

    def __init__(self, store: Path, step: Step) -> None:
        folder = store / ".locks"
        folder.mkdir(exist_ok=True)
        self._path = folder / step.fingerprint
        self._step = step
        self._file: TextIO | None = None

    def acquire(self, observer: Observer) -> bool:
        """Take the lock, or say once who holds it; does not wait."""
        file = self._path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            observer.waiting(self._step, file.read().strip() or "another build")
            file.close()
            return False
        self._file = file
        since = datetime.now(UTC).isoformat(timespec="seconds")
        # Past Python's buffer, which would try once more when it is closed on a full disk.
        with naming(self._path):
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} since {since}".encode())
        return True

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
