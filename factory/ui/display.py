"""What a build looks like while it runs: a live bar in a terminal, plain lines in a log."""

import json
import math
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn

from factory.building.plan import Step
from factory.core.artifacts import Artifact
from factory.core.readable import duration
from factory.text.visible import visible_json
from factory.ui.console import Console, Text
from factory.ui.outlook import TimeLeft

PLAIN_SECONDS = 15.0
BAR_WIDTH, FULL_WIDTH = 76, 140
"""Columns of a terminal from which on there is room for a bar, and for figures beside it."""
SHOWN = ("reward", "accuracy", "correct_share", "loss", "pass@1", "kept", "greedy", "drawn")
"""Figures worth a glance, in this order; the rest is in metrics.jsonl and the report."""


class PlainDisplay:
    """One line an occasion, for logs and CI."""

    def __init__(
        self, total: int, console: Console, price: float | None = None,
        left: TimeLeft | None = None,
    ) -> None:  # fmt: skip
        """`price` is that of an hour of the machine; `left` knows what the stages are to take."""
        self._left = left or TimeLeft({}, 0.0)
        self._ended = 0
        self._console = console
        self._total = total
        self._price = price
        self._began = time.monotonic()
        self._rates: dict[str, float] = {}
        self._numbers: dict[str, int] = {}
        self._last: dict[str, float] = {}
        self._waits: set[str] = set()

    def reused(self, step: Step, artifact: Artifact) -> None:
        self._ended += 1
        self._line(step, f"reused {artifact.path}")

    def started(self, step: Step, folder: Path) -> None:
        # Of a stage that goes on it is told at once where, however soon that is known.
        goes_on = any((folder / "scratch").glob("*"))
        self._last[step.name] = -math.inf if goes_on else time.monotonic()
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

    def _heard(self, step: Step, event: Mapping[str, Any]) -> float:
        """How far a stage is, with what an engine has drawn of the call under way."""
        done = event["done"] + event.get("under_way", 0.0)
        if event["total"]:
            self._left.progress(step.name, done / event["total"])
        return done

    def progress(self, step: Step, event: Mapping[str, Any]) -> None:
        reached = int(self._heard(step, event))
        now, last, total = time.monotonic(), self._last[step.name], event["total"]
        finished = total is not None and event["done"] >= total
        is_early = now - last < PLAIN_SECONDS or (not reached and last == -math.inf)
        if is_early and not finished:
            return
        self._last[step.name] = now
        done = f"{_of(reached, total)} {event['unit']}"
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
        self._ended += 1
        self._left.progress(step.name, 1.0)
        left = self._left.left
        is_told = left is not None and self._ended < self._total
        time_left = f"; about {duration(left)} left of all" if left is not None and is_told else ""
        self._line(step, f"{made_text(artifact)}{time_left}")

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


class JsonDisplay(PlainDisplay):
    """Each event of a build as a line of JSON, for programs."""

    def reused(self, step: Step, artifact: Artifact) -> None:
        self._tell(step, "reused", artifact=str(artifact.path))

    def started(self, step: Step, folder: Path) -> None:
        self._tell(step, "started", folder=str(folder))

    def event(self, step: Step, event: Mapping[str, Any]) -> None:
        self._tell(step, **event)

    def made(self, step: Step, artifact: Artifact) -> None:
        sealed = artifact.manifest.model_dump(mode="json", include={"seconds", "metrics"})
        self._tell(step, "made", artifact=str(artifact.path), **sealed)

    def waiting(self, step: Step, holder: str) -> None:
        self._tell(step, "waiting", holder=holder)

    def _tell(self, step: Step, event: str, **fields: Any) -> None:
        row = {"schema": 1, "event": event, "stage": step.name, "kind": step.kind, **fields}
        text = visible_json(json.dumps(row, ensure_ascii=False, default=str))
        self._console.print(text, highlight=False, soft_wrap=True)


class LiveDisplay(PlainDisplay):
    """The same lines for what is finished, a bar for each stage at work, and one for all."""

    def __init__(
        self, total: int, console: Console, price: float | None = None,
        left: TimeLeft | None = None,
    ) -> None:  # fmt: skip
        super().__init__(total, console, price, left)
        width = console.width
        fields: list[ProgressColumn] = [
            TextColumn("{task.description}", style="bold", markup=False)
        ]
        if width >= BAR_WIDTH:
            fields.append(BarColumn(bar_width=min(28, width // 10)))
        fields += [TextColumn("{task.fields[count]}", markup=False), Times()]
        if width >= FULL_WIDTH:
            fields.append(TextColumn("{task.fields[figures]}", style="cyan", markup=False))
        self._bar = Progress(*fields, console=console, transient=True)
        self._tasks: dict[str, TaskID] = {}
        self._all = self._bar.add_task(
            "all", total=self._left.total or None, count=f"0/{total}", figures="", left=self._left
        )
        self._bar.start()

    def started(self, step: Step, folder: Path) -> None:
        title = f"[{self._place(step)}] {step.name}"
        room = self._console.width // 4
        description = title if len(title) <= room else title[: room - 1] + "\u2026"
        self._tasks[step.name] = self._bar.add_task(
            description, total=None, count=f"{step.kind} starts", figures=""
        )

    def progress(self, step: Step, event: Mapping[str, Any]) -> None:
        done = self._heard(step, event)
        unit = f" {event['unit']}" if self._console.width >= BAR_WIDTH else ""
        self._bar.update(
            self._tasks[step.name],
            completed=done,
            total=event["total"],
            count=f"{_of(done, event['total'], '/')}{unit}",
            figures=self.figures(step, event),
        )
        self._show_all()

    def reused(self, step: Step, artifact: Artifact) -> None:
        super().reused(step, artifact)
        self._show_all()

    def made(self, step: Step, artifact: Artifact) -> None:
        self._bar.remove_task(self._tasks.pop(step.name))
        super().made(step, artifact)
        self._show_all()

    def _show_all(self) -> None:
        count = f"{self._ended}/{self._total}"
        self._bar.update(self._all, completed=self._left.done, count=count)

    def close(self) -> None:
        self._bar.stop()


def _of(done: float, total: float | None, between: str = " of ") -> str:
    """`3 of 8`; `3` where nobody knows of how many."""
    return f"{int(done):,}" if total is None else f"{int(done):,}{between}{total:,.0f}"


class Times(ProgressColumn):
    """`0:02:05 so far, 0:04:10 left`; what is left is said once it can be known."""

    def render(self, task: Task) -> Text:
        left = task.fields.get("left")
        remaining = task.time_remaining if left is None else left.left
        words = f"{_clock(task.elapsed or 0.0)} so far"
        return Text(words if remaining is None else f"{words}, {_clock(remaining)} left")


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


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
