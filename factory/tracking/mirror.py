"""The build's side of trackers: events become lines for processes that it never waits for."""

import json
import math
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any

from factory.building.pipeline import Observer
from factory.building.plan import Step
from factory.core.artifacts import Artifact
from factory.core.errors import RecipeError
from factory.core.files import note
from factory.core.interpreter import die_with_parent, module_command
from factory.core.machine import Machine

FOLDER = ".trackers"
WAITING = 10_000
"""Lines that may wait for a tracker; what comes beyond them is left out and counted."""
PROGRESS_SECONDS = 5.0
"""Between two marks of how far a stage is."""
END_SECONDS = 20.0
"""That a tracker has for what waits when the build is over."""
_SECRET = re.compile(r"key|token|secret|passw|credential|auth|FACTORY_ALERT", re.IGNORECASE)
_OWN = {"wandb": "WANDB_", "mlflow": "MLFLOW_", "trackio": "TRACKIO_", "tensorboard": "-"}
"""Environment variables that a tracker's own account needs."""


def missing_library(name: str) -> str | None:
    """What to install for a tracker, or None where it is there."""
    if find_spec(name) is not None:
        return None
    return f"machine file: trackers: {name} is not installed; pip install 'distill-factory[{name}]'"


class Tracker:
    """One tracker's process, a queue of lines before it, and a thread between them."""

    def __init__(self, name: str, folder: Path, *, seconds: float = END_SECONDS) -> None:
        self.name = name
        self._seconds = seconds
        self._lines: Queue[bytes | None] = Queue(WAITING)
        self._left_out = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / f"{name}.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                module_command("factory.tracking.child", name, str(folder / name)),
                stdin=subprocess.PIPE, stdout=log, stderr=log, env=_environment(name),
                # Ctrl-C is for the build, which closes this one when it has ended.
                start_new_session=True, preexec_fn=die_with_parent,
            )  # fmt: skip
        self._thread = threading.Thread(target=self._feed, daemon=True)
        self._thread.start()

    def send(self, row: Mapping[str, Any]) -> None:
        """Put a line into the queue; it never waits."""
        try:
            self._lines.put_nowait(json.dumps(row).encode() + b"\n")
        except Full:
            self._left_out += 1

    def _feed(self) -> None:
        stdin = self._process.stdin
        with suppress(OSError, ValueError):
            while stdin is not None and (line := self._lines.get()) is not None:
                stdin.write(line)
                stdin.flush()
        with suppress(OSError):
            if stdin is not None:
                stdin.close()

    def close(self) -> None:
        """Let it write what waits, for so long; then it is ended, and what was lost is said."""
        until = time.monotonic() + self._seconds
        with suppress(Full):
            self._lines.put(None, timeout=self._seconds)
        self._thread.join(max(0.0, until - time.monotonic()))
        try:
            status = self._process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            status = None
        with suppress(Empty):
            while self._lines.get_nowait() is not None:
                self._left_out += 1
        if status is None:
            note(f"tracker {self.name}: did not come to its end in {self._seconds:g} s")
        elif status != 0:
            note(f"tracker {self.name}: failed, and the build did not: see {self._log}")
        elif self._left_out:
            note(f"tracker {self.name}: {self._left_out} figures were left out, it was too slow")


class Mirror:
    """A display whose events trackers get too."""

    def __init__(
        self, display: Observer, recipe: str, trackers: Sequence[Tracker],
        *, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._display = display
        self._recipe = recipe
        self._trackers = trackers
        self._clock = clock
        self._last: dict[str, float] = {}

    def reused(self, step: Step, artifact: Artifact) -> None:
        self._display.reused(step, artifact)

    def started(self, step: Step, folder: Path) -> None:
        self._display.started(step, folder)
        self._send(step, 0, {})

    def event(self, step: Step, event: Mapping[str, Any]) -> None:
        self._display.event(step, event)
        if event["event"] == "metrics":
            self._send(step, event["step"], event["values"])
        elif event["event"] == "progress":
            now = self._clock()
            is_over = event["total"] is not None and event["done"] >= event["total"]
            if is_over or now - self._last.get(step.name, -math.inf) >= PROGRESS_SECONDS:
                self._last[step.name] = now
                done = {f"done_{event['unit'].replace(' ', '_')}": event["done"]}
                self._send(step, int(event["done"]), {**done, **event["figures"]})

    def made(self, step: Step, artifact: Artifact) -> None:
        self._display.made(step, artifact)
        manifest = artifact.manifest
        end = {f"made.{key}": value for key, value in manifest.metrics.items()}
        end |= {"made.seconds": manifest.seconds, "made.peak_memory_gib": manifest.peak_memory_gib}
        self._send(step, 0, end, is_over=True)

    def waiting(self, step: Step, holder: str) -> None:
        self._display.waiting(step, holder)

    def _send(
        self, step: Step, number: int, values: Mapping[str, Any], *, is_over: bool = False
    ) -> None:
        about = {"recipe": self._recipe, "stage": step.name, "kind": step.kind}
        row = {
            "project": _plain(self._recipe),
            "run": f"{_plain(step.name)}-{step.fingerprint[:12]}",
            "about": {**about, "fingerprint": step.fingerprint},
            "step": number,
            "values": {key: float(value) for key, value in values.items() if _is_number(value)},
            "is_over": is_over,
        }
        for tracker in self._trackers:
            tracker.send(row)


@contextmanager
def tracking(display: Observer, recipe: str, store: Path, machine: Machine) -> Iterator[Observer]:
    """The display itself, or one that mirrors to the trackers of the machine file too.

    RecipeError, before anything is made, where a tracker's library is not installed.
    """
    if lacking := [line for name in machine.trackers if (line := missing_library(name))]:
        raise RecipeError("\n".join(lacking))
    trackers: list[Tracker] = []
    try:
        trackers += (Tracker(name, store / FOLDER) for name in dict.fromkeys(machine.trackers))
        yield Mirror(display, recipe, trackers) if trackers else display
    finally:
        for tracker in trackers:
            tracker.close()


def _environment(name: str) -> dict[str, str]:
    """This process's, without what may be a secret of somebody else."""
    own = _OWN[name]
    return {
        key: value
        for key, value in os.environ.items()
        if key.startswith(own) or not _SECRET.search(key) or (name, key) == ("trackio", "HF_TOKEN")
    } | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:60] or "recipe"
