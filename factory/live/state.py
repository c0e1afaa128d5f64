"""How far a build is, from the files of its store alone: running, finished, failed or killed."""

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from factory.building.builds import KeptBuild, PlannedStep, is_alarm, is_running, kept_builds
from factory.core.artifacts import MANIFEST, PRUNED
from factory.live.follow import Stream, last_bytes, last_rows

SILENT_SECONDS = 90.0
"""Without an event of the stage at work, after which that is said."""
NOTES = 12
ROLLOUTS = 8
LOG_BYTES = 6_000
Phase = Literal["running", "finished", "failed", "stopped", "killed"]
StageState = Literal["made", "at work", "waiting", "failed", "not needed"]


@dataclass(frozen=True)
class Stage:
    """One step of a build's plan, as far as it is."""

    name: str
    kind: str
    produces: str
    state: StageState
    done: float = 0.0
    total: float = 0.0
    unit: str = ""
    seconds: float | None = None
    """Taken, or so far."""
    expected: float | None = None
    left: float | None = None
    """Seconds; None where nothing can be said."""


@dataclass(frozen=True)
class State:
    """Everything that a page shows of a build."""

    name: str
    build: KeptBuild
    phase: Phase
    stages: tuple[Stage, ...]
    seconds: float
    """Since it was started, up to its end."""
    left: float | None
    figures: dict[str, float] = field(default_factory=dict)
    """Last rates of the stage at work."""
    notes: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()

    @property
    def at_work(self) -> Stage | None:
        """The stage that is made now, or was when the build ended."""
        busy = [stage for stage in self.stages if stage.state in ("at work", "failed")]
        return busy[0] if busy else None


class Watcher:
    """Follows the builds of one store; what it has read of a file it does not read again."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self._streams: dict[Path, Stream] = {}
        self._manifests: dict[Path, dict[str, Any]] = {}
        self._reports: dict[tuple[Path, float], KeptBuild | None] = {}

    def builds(self) -> dict[str, KeptBuild]:
        """The builds that the store knows of, the newest first; then those that only a report of
        theirs speaks of."""
        builds = kept_builds(self.store)
        recipes = {build.recipe for build in builds.values()}
        for path in sorted(self.store.glob("reports/*/report.json")):
            if path.parent.name not in recipes:
                build = self._reported(path)
                if build is not None:
                    builds[f"report {path.parent.name}"] = build
        return builds

    def _reported(self, path: Path) -> KeptBuild | None:
        key = (path, _changed(path))
        if key not in self._reports:
            content = _json(path) or {}
            try:
                self._reports[key] = _build_of(content)
            except (KeyError, TypeError, ValueError):
                self._reports[key] = None
        return self._reports[key]

    def rows(self, path: Path) -> list[dict[str, Any]]:
        """A JSONL file so far."""
        return self._streams.setdefault(path, Stream(path)).read()

    def manifest(self, folder: str) -> dict[str, Any] | None:
        """What a sealed artifact says of itself; None while it is not sealed."""
        path = self.store / folder / MANIFEST
        if path not in self._manifests:
            content = _json(path) or _json(self.store / f"{folder}{PRUNED}" / MANIFEST)
            if content is None:
                return None
            self._manifests[path] = content
        return self._manifests[path]

    def state(self, name: str, build: KeptBuild) -> State:
        """How far a build is now."""
        phase: Phase = build.outcome or ("running" if is_running(self.store, name) else "killed")
        stages = tuple(self._stage(step, phase) for step in build.steps)
        end = _seconds_of(build.ended) if build.ended else self._last_sign(build, phase)
        seconds = max(0.0, end - _seconds_of(build.started))
        busy = next((stage for stage in stages if stage.state == "at work"), None)
        events = self.rows(self._run(build, busy) / "metrics.jsonl") if busy else []
        notes, alarms = self._said(build)
        if busy is not None and phase == "running":
            alarms += _silence(self._run(build, busy) / "metrics.jsonl", busy)
        return State(
            name=name,
            build=build,
            phase=phase,
            stages=stages,
            seconds=seconds,
            left=_left(stages) if phase == "running" else None,
            figures=_figures(events),
            notes=tuple(notes[-NOTES:]),
            alarms=tuple(alarms),
        )

    def _run(self, build: KeptBuild, stage: Stage) -> Path:
        step = next(step for step in build.steps if step.name == stage.name)
        return self.store / f"{step.folder}.run"

    def _last_sign(self, build: KeptBuild, phase: Phase) -> float:
        if phase == "running":
            return time.time()
        signs = [self.store / f"{step.folder}.run" / "metrics.jsonl" for step in build.steps]
        return max((_changed(path) for path in signs), default=0.0)

    def _stage(self, step: PlannedStep, phase: Phase) -> Stage:
        run = self.store / f"{step.folder}.run"
        expected = _number((_json(run / "estimate.json") or {}).get("seconds")) or None
        stage = partial(Stage, step.name, step.kind, step.produces, expected=expected)
        manifest = self.manifest(step.folder)
        if manifest is not None:
            seconds = _number(manifest.get("seconds"))
            return stage(state="made", seconds=seconds, left=0.0)
        if not (self.store / f"{step.folder}.partial").exists():
            if phase == "finished":  # of what is left out since nothing that is asked for needs it
                return stage(state="not needed", left=0.0)
            return stage(state="waiting", left=expected)
        rows = self.rows(run / "metrics.jsonl")
        progress = [row for row in rows if row.get("event") == "progress"][-1:]
        has_failed = any(row.get("event") == "error" for row in rows[-3:]) and phase != "running"
        state: StageState = "failed" if has_failed else "at work"
        if not progress:
            return stage(state=state, left=expected)
        row = progress[0]
        done, total, at = (_number(row.get(key)) for key in ("done", "total", "at"))
        done += _number(row.get("under_way"))
        left = at * (total - done) / done if done > 0 else expected
        unit = str(row.get("unit", ""))[:40]
        return stage(state=state, done=done, total=total, unit=unit, seconds=at, left=left)

    def _said(self, build: KeptBuild) -> tuple[list[str], list[str]]:
        """What stages noted, and what is an alarm: failures and runs that were ended."""
        notes: list[str] = []
        alarms: list[str] = []
        if build.message:
            alarms.append(build.message)
        for step in build.steps:
            for row in self.rows(self.store / f"{step.folder}.run" / "metrics.jsonl"):
                text = str(row.get("text", row.get("message", "")))[:2000]
                if row.get("event") == "error" and text not in build.message:
                    alarms.append(f"{step.name}: {text}")
                elif row.get("event") == "note":
                    (alarms if is_alarm(text) else notes).append(f"{step.name}: {text}")
        return notes, alarms

    def rollouts(self, build: KeptBuild, stage: Stage) -> tuple[list[dict[str, Any]], bool]:
        """The last completions that a stage kept; and whether some were too long to look at."""
        step = next(step for step in build.steps if step.name == stage.name)
        scratch = self.store / f"{step.folder}.run" / "scratch"
        sealed = self.store / step.folder
        names = ("rollouts.jsonl", "traces.jsonl", "samples.jsonl")
        paths = [folder / name for folder in (scratch, sealed) for name in names]
        paths += sorted(scratch.glob("samples-*.jsonl"), key=_changed, reverse=True)[:1]
        for path in paths:
            if path.is_file():
                rows, has_longer = last_rows(path, ROLLOUTS)
                if rows or has_longer:
                    return rows, has_longer
        return [], False

    def telemetry(self, step: PlannedStep) -> dict[str, list[dict[str, Any]]]:
        """What a training stage logged so far: by file."""
        run, sealed = self.store / f"{step.folder}.run", self.store / step.folder
        folder = sealed if self.manifest(step.folder) is not None else run / "scratch"
        return {
            "telemetry": self.rows(folder / "telemetry.jsonl"),
            "watch": self.rows(folder / "watch.jsonl"),
            "events": self.rows(run / "metrics.jsonl"),
        }

    def scores(self, step: PlannedStep) -> list[dict[str, Any]]:
        """The scores of an evaluation, once it is sealed."""
        return self.rows(self.store / step.folder / "scores.jsonl")

    def log(self, build: KeptBuild, stage: Stage) -> str:
        """The end of a stage's log."""
        data, is_cut = last_bytes(self._run(build, stage) / "log.txt", LOG_BYTES)
        text = data.decode("utf-8", errors="replace")
        return text.partition("\n")[2] if is_cut else text


def _build_of(report: Mapping[str, Any]) -> KeptBuild:
    """A build of an earlier version, as its report has it."""
    rows = report["stages"]
    made = [row["made"]["created"] for row in rows if row["made"]]
    steps = [
        PlannedStep(
            name=row["name"], kind=row["kind"], produces=row["produces"], inputs=row["inputs"],
            folder=Path(row["made"]["folder"]).name if row["made"] else f"{row['name']}-",
        )
        for row in rows
    ]  # fmt: skip
    recipe = str(report["recipe"])
    first, last = min(made, default=""), max(made, default="")
    return KeptBuild(
        recipe=recipe, command=f"factory report {recipe}", process=0, started=first, ended=last,
        outcome="finished", steps=tuple(steps),
    )  # fmt: skip


def _left(stages: Sequence[Stage]) -> float | None:
    """Seconds that the stages not made may take; None where one of them has no estimate."""
    rest = [stage.left for stage in stages if stage.state != "made"]
    return None if not rest or None in rest else sum(left or 0.0 for left in rest)


def _figures(events: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Last value of each figure of the events of a stage."""
    figures: dict[str, float] = {}
    for row in list(events)[-200:]:
        values = row.get("values") if row.get("event") == "metrics" else row.get("figures")
        if isinstance(values, dict):
            figures |= {str(key)[:80]: _number(value) for key, value in values.items()}
        if row.get("event") == "progress" and "tokens" in figures and _number(row.get("at")):
            figures["tokens_per_second"] = figures["tokens"] / _number(row["at"])
    return figures


def _silence(path: Path, stage: Stage) -> list[str]:
    changed = _changed(path)
    quiet = time.time() - changed
    if not changed or quiet < SILENT_SECONDS:
        return []
    return [f"{stage.name}: no event for {quiet:.0f} s"]


def _number(value: Any) -> float:
    """A finite number, else 0: a run's figures may be anything."""
    try:
        number = float(value) if isinstance(value, int | float) else 0.0
    except OverflowError:  # an integer that no float can hold
        return 0.0
    return number if math.isfinite(number) else 0.0


def _changed(path: Path) -> float:
    """When a file was last written to, in seconds; 0 where it is not there."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _seconds_of(moment: str) -> float:
    try:
        return datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


def _json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
