"""What a running stage may know besides its config and inputs, and how it tells its progress."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, TextIO

from factory.core.files import naming
from factory.core.machine import Machine

Metrics = dict[str, float]
STOP = "stop"
"""File in a stage's scratch folder by which the builder asks what trains for a checkpoint and an
end: a signal would not pass the launcher of ranks."""
DRAWING_SECONDS = 1.0
"""Between two rows that say how far a call of an engine is."""


@dataclass(frozen=True)
class Context:
    """Given to every stage by its worker process.

    `scratch` outlives a kill and is thrown away once the stage is sealed: checkpoints and sample
    segments go there. `events` is a JSONL stream beside the artifact: what changes from run to
    run (seconds, tokens per second) belongs there, never into the artifact's own files, which
    must be the same bytes each time.
    """

    seed: int
    machine: Machine
    scratch: Path
    events: TextIO | None = None
    started: float = field(default_factory=time.monotonic)
    figures: Metrics = field(default_factory=dict)
    """What engines count of themselves: it joins the stage's metrics in the manifest."""
    _last: dict[str, Any] = field(default_factory=dict[str, Any])
    """What `progress` told last."""

    def progress(
        self, done: float, total: float | None, *, unit: str = "steps", **figures: float
    ) -> None:
        """Tell the live display how far this stage is, with the figures that matter now; `total` is
        None where nobody knows it."""
        self._last.update(done=done, total=total, unit=unit, figures=figures)
        self._emit("progress", **self._last)

    def drawing(self, worth: float = 1.0) -> Callable[[], None]:
        """What an engine calls whenever a completion of one call ends, each worth so many units.

        The display moves on by them (`under_way`) until `progress` tells what of them is kept.
        """
        lock, ended, last = Lock(), 0, time.monotonic()

        def end() -> None:
            nonlocal ended, last
            with lock:
                ended, now = ended + 1, time.monotonic()
                if not self._last or now - last < DRAWING_SECONDS:
                    return
                last, row = now, dict(self._last)
                if row["unit"] == "steps":
                    row["figures"] = {**row["figures"], "drawn": ended}
                row["under_way"] = round(min(row["total"] - row["done"], worth * ended), 3)
                self._emit("progress", **row)

        return end

    def metrics(self, step: int, **values: float) -> None:
        """Record one step's telemetry; a resumed run may repeat a step, the later line counts."""
        self._emit("metrics", step=step, values=values)

    def note(self, text: str) -> None:
        """Say something once to the user: a fallback taken, a limit hit."""
        self._emit("note", text=text)

    def finished(self) -> None:
        """Tell that the stage's work is done: its clock gives the stage's seconds."""
        self._emit("finished")

    def error(self, kind: str, message: str) -> None:
        """Tell the pipeline why the stage failed."""
        self._emit("error", kind=kind, message=message)

    def _emit(self, event: str, **fields: Any) -> None:
        if self.events is None:
            return
        row = {"event": event, "at": round(time.monotonic() - self.started, 3), **fields}
        with naming(Path(getattr(self.events, "name", "events"))):
            self.events.write(json.dumps(row, allow_nan=True) + "\n")
            self.events.flush()


def stderr_context(seed: int, scratch: Path, machine: Machine | None = None) -> Context:
    """A context for tests and scripts that reports to standard error."""
    return Context(seed, machine or Machine(), scratch, sys.stderr)
