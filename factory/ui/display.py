"""What a build looks like while it runs: a live bar in a terminal, plain lines in a log."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
from factory.ui.console import Console

PLAIN_SECONDS = 15.0
SHOWN = ("reward", "accuracy", "correct_share", "loss", "pass@1", "kept", "greedy")
"""Figures worth a glance, in this order; the rest is in metrics.jsonl and the report."""


class PlainDisplay:
    """One line an occasion, for logs and CI."""

    def __init__(self, total: int, console: Console, price: float | None = None) -> None:
        """`price` is that of an hour of the machine."""
        self._console = console
        self._total = total
        self._price = price
        self._began = time.monotonic()
        self._rates: dict[str, float] = {}
        self._numbers: dict[str, int] = {}
        self._last: dict[str, float] = {}
        self._waits: set[str] = set()

    def reused(self, step: Step, artifact: Artifact) -> None:
        self._line(step, f"reused {artifact.path}")

    def started(self, step: Step, folder: Path) -> None:
        self._last[step.name] = time.monotonic()
        self._line(step, f"{step.kind} started; log {folder / 'log.txt'}")

    def event(self, step: Step, event: Mapping[str, Any]) -> None:
        if event["event"] == "note":
            self._line(step, f"note: {event['text']}")
        elif event["event"] == "metrics":
            values = event["values"]
            rate = values.get("generated_per_second", values.get("tokens_per_second"))
            if rate is not None:
                self._rates[step.name] = rate
        elif event["event"] == "progress":
            self.progress(step, event)

    def progress(self, step: Step, event: Mapping[str, Any]) -> None:
        now = time.monotonic()
        finished = event["done"] >= event["total"]
        if now - self._last[step.name] < PLAIN_SECONDS and not finished:
            return
        self._last[step.name] = now
        done = f"{event['done']:g} of {event['total']:g} {event['unit']}"
        figures = self.figures(step, event)
        self._line(step, f"{done}{', ' + figures if figures else ''}")

    def figures(self, step: Step, event: Mapping[str, Any]) -> str:
        """Figures worth a glance, then rates, and what the build cost so far."""
        spent = None
        if self._price is not None:
            spent = self._price * (time.monotonic() - self._began) / 3600
        parts = [figures_text(event["figures"]), *rates(event, self._rates.get(step.name), spent)]
        return ", ".join(part for part in parts if part)

    def made(self, step: Step, artifact: Artifact) -> None:
        self._line(step, made_text(artifact))

    def waiting(self, step: Step, holder: str) -> None:
        if step.name not in self._waits:
            self._waits.add(step.name)
            self._line(step, f"waiting: {holder} is making it")

    def close(self) -> None:
        pass

    def _place(self, step: Step) -> str:
        """`3/25`: stages count in the order in which they are first spoken of."""
        number = self._numbers.setdefault(step.name, len(self._numbers) + 1)
        return f"{number:>{len(str(self._total))}}/{self._total}"

    def _line(self, step: Step, text: str) -> None:
        # No markup: model text and paths may hold square brackets.
        line = f"[{self._place(step)}] {step.name}: {text}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class LiveDisplay(PlainDisplay):
    """The same lines for what is finished, and a bar for each stage at work."""

    def __init__(self, total: int, console: Console, price: float | None = None) -> None:
        super().__init__(total, console, price)
        self._bar = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}", markup=False),
            TextColumn("{task.fields[rate]}", markup=False),
            TextColumn("{task.fields[figures]}", style="cyan", markup=False),
            TimeElapsedColumn(),
            TextColumn("left", markup=False),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._bar.start()

    def started(self, step: Step, folder: Path) -> None:
        description = f"[{self._place(step)}] {step.name} ({step.kind})"
        self._tasks[step.name] = self._bar.add_task(
            description, total=None, unit="starting", rate="", figures=""
        )

    def progress(self, step: Step, event: Mapping[str, Any]) -> None:
        at = event["at"] or 1.0
        self._bar.update(
            self._tasks[step.name],
            completed=event["done"],
            total=event["total"],
            unit=event["unit"],
            rate=f"{event['done'] / at:.2g}/s",
            figures=self.figures(step, event),
        )

    def made(self, step: Step, artifact: Artifact) -> None:
        self._bar.remove_task(self._tasks.pop(step.name))
        super().made(step, artifact)

    def close(self) -> None:
        self._bar.stop()


def made_text(artifact: Artifact) -> str:
    """One line on a sealed artifact: seconds, memory and the figures that matter."""
    manifest = artifact.manifest
    figures = figures_text(manifest.metrics)
    cost = f"{manifest.seconds:.0f} s, {manifest.peak_memory_gib:.1f} GiB"
    return f"made in {cost}{'; ' + figures if figures else ''} -> {artifact.path}"


def rates(
    event: Mapping[str, Any], tokens_per_second: float | None, spent: float | None
) -> list[str]:
    """Tokens a second, verified traces an hour where samples are graded, and money spent."""
    figures, seconds = event["figures"], event["at"]
    parts = []
    if "tokens" in figures and seconds:
        tokens_per_second = figures["tokens"] / seconds
    if tokens_per_second is not None:
        parts.append(f"{tokens_per_second:.0f} tokens/s")
    if "verified" in figures and seconds:
        parts.append(f"{3600 * figures['verified'] / seconds:,.0f} verified/h")
    return parts if spent is None else [*parts, f"cost {spent:,.2f}"]


def figures_text(figures: Mapping[str, float], most: int = 4) -> str:
    """The figures worth a glance: `reward 0.71, loss 0.52`, so many at most."""
    chosen = [key for key in SHOWN if key in figures]
    chosen += [key for key in figures if key.split(".")[-1] in SHOWN and key not in chosen]
    return ", ".join(f"{key} {figures[key]:.3g}" for key in chosen[:most])
