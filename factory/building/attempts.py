"""What lies in a store and is not sealed: stages at work, stages that failed or were stopped."""

import fcntl
import json
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from factory.core.artifacts import MANIFEST, PRUNED, SHORT

State = Literal["running", "failed", "stopped"]
TAIL_BYTES = 2**16
"""Of a run's events, what is read to know how far it came."""


@dataclass(frozen=True)
class Attempt:
    """A stage that was begun and is not sealed."""

    name: str
    """That of the artifact to be: `student-1f3c9a0b2d4e`."""
    kind: str
    """The stage's kind; empty where its job cannot be read."""
    state: State
    detail: str
    """Who is at it, why it failed, or how far it came."""
    folders: tuple[Path, ...]
    """Its `.run` and `.partial`, as far as they are there."""
    size: int
    """Bytes of both."""
    touched: float
    """When it last told something, in seconds since 1970."""


def attempts(store: Path) -> list[Attempt]:
    """All of a store, the one that was touched last at the end."""
    rows = [_attempt(store, name) for name in sorted(_begun(store))]
    return sorted(rows, key=lambda row: row.touched)


def is_begun(fingerprint: str, store: Path) -> bool:
    """Whether anything of a step lies there: sealed, pruned or begun."""
    return any(store.glob(f"*-{fingerprint[:SHORT]}*"))


def _begun(store: Path) -> Iterator[str]:
    """Names of stages that have a job or a partial folder and no artifact."""
    drafts = {path.name.removesuffix(".partial") for path in store.glob("*.partial")}
    runs = {path.parent.name.removesuffix(".run") for path in store.glob("*.run/job.json")}
    for name in drafts | runs:
        is_done = (store / name / MANIFEST).exists()
        is_pruned = (store / f"{name}{PRUNED}").exists() and name not in drafts
        if not is_done and not is_pruned:
            yield name


def _attempt(store: Path, name: str) -> Attempt:
    run = store / f"{name}.run"
    folders = tuple(path for path in (run, store / f"{name}.partial") if path.is_dir())
    rows = _last_events(run / "metrics.jsonl")
    job = _job(run / "job.json")
    holder = lock_holder(store, name)
    error = next((row for row in reversed(rows) if row.get("event") == "error"), None)
    state: State = "running" if holder else "failed" if error and error is rows[-1] else "stopped"
    detail = holder or (_first_line(error) if state == "failed" else _how_far(rows))
    if not holder and not any((folder / "scratch").is_dir() for folder in folders):
        state, detail = "stopped", "its artifact is gone, this is its log"
    times = [path.stat().st_mtime for path in (*folders, run / "metrics.jsonl") if path.exists()]
    return Attempt(
        name, str(job.get("stage", "")), state, detail, folders,
        sum(map(folder_size, folders)), max(times, default=0.0),
    )  # fmt: skip


def lock_holder(store: Path, name: str) -> str:
    """Who is at work on the stage of a folder's name, as its lock says; empty where nobody is."""
    with holding(store, name) as holder:
        return holder


@contextmanager
def holding(store: Path, name: str) -> Generator[str]:
    """Hold the locks of the stages of a folder's name; yields who else has one, empty if nobody.

    Nothing is made of it by others while it is held.
    """
    files = [
        path.open("r", encoding="utf-8")
        for path in (store / ".locks").glob(f"{name.rpartition('-')[2][:SHORT]}*")
    ]
    holder = ""
    try:
        for file in files:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = file.read().strip() or "another build"
        yield holder
    finally:
        for file in files:
            file.close()


def folder_size(folder: Path) -> int:
    """Bytes of the files below a folder; what has just gone counts as nothing."""
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                size += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                continue
    return size


def _last_events(path: Path) -> list[dict[str, Any]]:
    """The last whole rows of a run's events that can be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return []
    rows: list[dict[str, Any]] = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue  # the first may be cut, the last torn by a kill
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _job(path: Path) -> dict[str, Any]:
    try:
        job = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return job if isinstance(job, dict) else {}


def _first_line(error: dict[str, Any] | None) -> str:
    return str((error or {}).get("message", "")).partition("\n")[0]


def _how_far(rows: list[dict[str, Any]]) -> str:
    """`at 22 of 400 steps`, by the last event that says so."""
    for row in reversed(rows):
        if row.get("event") == "progress":
            total = row.get("total")
            of = "" if total is None else f" of {total:,.0f}"
            return f"at {row.get('done', 0):,.0f}{of} {row.get('unit', '')}"
    return "before its first step"
