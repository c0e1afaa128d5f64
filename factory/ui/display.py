"""What a build looks like while it runs: a live bar in a terminal, plain lines in a log."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from factory.artifacts import Artifact
from factory.plan import Step

PLAIN_SECONDS = 15.0
SHOWN = ("reward", "accuracy", "correct_share", "loss", "pass@1", "kept", "greedy")
"""Figures worth a glance, in this order; the rest is in metrics.jsonl and the report."""


class PlainDisplay:
    """One line an occasion, for logs and CI."""

    def __init__(self, total: int, console: Console) -> None:
        self._console = console
        self._total = total
        self._number = 0
        self._last = 0.0

    def reused(self, step: Step, artifact: Artifact) -> None:
        self._number += 1
        self._line(step, f"reused {artifact.path}")

    def started(self, step: Step, folder: Path) -> None:
        self._number += 1
        self._last = time.monotonic()
        self._line(step, f"{step.kind} started; log {folder / 'log.txt'}")

    def event(self, step: Step, event: Mapping[str, Any]) -> None:
        if event["event"] == "note":
            self._line(step, f"note: {event['text']}")
        elif event["event"] == "progress":
            self.progress(step, event)

    def progress(self, step: Step, event: Mapping[str, Any]) -> None:
        now = time.monotonic()
        finished = event["done"] >= event["total"]
        if now - self._last < PLAIN_SECONDS and not finished:
            return
        self._last = now
        done = f"{event['done']:g} of {event['total']:g} {event['unit']}"
        figures = figures_text(event["figures"])
        self._line(step, f"{done}{', ' + figures if figures else ''}")

    def made(self, step: Step, artifact: Artifact) -> None:
        self._line(step, made_text(artifact))

    def waiting(self, step: Step, holder: str) -> None:
        self._line(step, f"waiting: {holder} is making it")

    def close(self) -> None:
        pass

    def _line(self, step: Step, text: str) -> None:
        place = f"{self._number:>{len(str(self._total))}}/{self._total}"
        # No markup: model text and paths may hold square brackets.
        line = f"[{place}] {step.name}: {text}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class LiveDisplay(PlainDisplay):
    """The same lines for what is finished, and a bar for the stage at work."""

    def __init__(self, total: int, console: Console) -> None:
        super().__init__(total, console)
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TextColumn("{task.fields[rate]}"),
            TextColumn("[cyan]{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._bar.start()

    def started(self, step: Step, folder: Path) -> None:
        self._number += 1
        description = f"[{self._number}/{self._total}] {step.name} ({step.kind})".replace(
            "[", r"\["
        )
        self._task = self._bar.add_task(
            description, total=None, unit="starting", rate="", figures=""
        )

    def progress(self, step: Step, event: Mapping[str, Any]) -> None:
        if self._task is None:
            return
        at = event["at"] or 1.0
        self._bar.update(
            self._task,
            completed=event["done"],
            total=event["total"],
            unit=event["unit"],
            rate=f"{event['done'] / at:.2g}/s",
            figures=figures_text(event["figures"]),
        )

    def made(self, step: Step, artifact: Artifact) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
        super().made(step, artifact)

    def close(self) -> None:
        self._bar.stop()


def made_text(artifact: Artifact) -> str:
    """One line on a sealed artifact: seconds, memory and the figures that matter."""
    manifest = artifact.manifest
    figures = figures_text(manifest.metrics)
    cost = f"{manifest.seconds:.0f} s, {manifest.peak_memory_gib:.1f} GiB"
    return f"made in {cost}{'; ' + figures if figures else ''} -> {artifact.path}"


def figures_text(figures: Mapping[str, float]) -> str:
    """The figures worth a glance: `reward 0.71, loss 0.52`, at most four."""
    chosen = [key for key in SHOWN if key in figures]
    chosen += [key for key in figures if key.split(".")[-1] in SHOWN and key not in chosen]
    return ", ".join(f"{key} {figures[key]:.3g}" for key in chosen[:4])
