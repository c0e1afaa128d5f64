"""What a store knows of its builds: a small file each, with a lock beside it while it runs.

    <store>/.builds/<UTC>-<pid>.json    what is built, by which command, and how it ended
    <store>/.builds/<UTC>-<pid>.lock    held by the build; the kernel drops it with its process

Nothing that is built reads them: they are for whoever looks on.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from factory.building.plan import Step
from factory.core.artifacts import folder_name
from factory.core.files import naming, write_file
from factory.core.records import ArtifactKind, Record

FOLDER = ".builds"
LONGEST_MESSAGE = 4000
"""Characters kept of what a build that failed had to say."""
Outcome = Literal["finished", "failed", "stopped"]


class PlannedStep(Record):
    """A step of a build's plan."""

    name: str
    kind: str
    produces: ArtifactKind
    inputs: dict[str, str]
    folder: str = Field(pattern=r"^\w[\w.-]*$", max_length=255)
    """Its artifact's, in the store: a name, and no path that leads out of it."""


class KeptBuild(Record):
    """One build as it was started, and how it ended."""

    recipe: str
    command: str
    """That goes on with it."""
    process: int
    started: str
    """UTC, ISO 8601."""
    price_per_hour: float | None = None
    steps: tuple[PlannedStep, ...]
    ended: str | None = None
    outcome: Outcome | None = None
    """None while it runs, and where it was killed."""
    message: str = Field(default="", max_length=LONGEST_MESSAGE + 1)


@contextmanager
def kept_build(
    store: Path, plan: Sequence[Step], recipe: str, *, command: str, price: float | None
) -> Iterator[None]:
    """Keep a build for whoever looks on while the block runs, and how it ended; `price` is that of
    an hour."""
    folder = store / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    build = KeptBuild(
        recipe=recipe,
        command=command,
        process=os.getpid(),
        started=_now(),
        price_per_hour=price,
        steps=tuple(
            PlannedStep(
                name=step.name,
                kind=step.kind,
                produces=step.stage.produces,
                inputs=dict(step.inputs),
                folder=folder_name(step.name, step.fingerprint),
            )
            for step in plan
        ),
    )
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    path = folder / f"{stamp}-{os.getpid()}.json"
    lock = path.with_suffix(".lock")
    outcome: Outcome = "failed"
    message = ""
    with naming(lock), lock.open("a+", encoding="utf-8") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        write_file(path, build.model_dump_json(indent=1) + "\n")
        try:
            yield
            outcome = "finished"
        except KeyboardInterrupt:
            outcome = "stopped"
            raise
        except Exception as error:
            message = str(error)[:LONGEST_MESSAGE]
            raise
        finally:
            end = {"ended": _now(), "outcome": outcome, "message": message}
            with suppress(OSError):  # a full disk must not hide why the build ended
                text = build.model_copy(update=end).model_dump_json(indent=1)
                write_file(path, text + "\n")
                lock.unlink()


def is_alarm(note: str) -> bool:
    """Whether a note of a stage says that something is wrong with a run."""
    return "alarm" in note or "ended after step" in note


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def kept_builds(store: Path) -> dict[str, KeptBuild]:
    """Every build that the store knows of, by name of its file, the newest first.

    A file that is half written or of another version is left out: it is read again the next time.
    """
    builds: dict[str, KeptBuild] = {}
    for path in sorted((store / FOLDER).glob("*.json"), reverse=True):
        with suppress(OSError, ValidationError):
            builds[path.stem] = KeptBuild.model_validate_json(path.read_bytes())
    return builds


def is_running(store: Path, name: str) -> bool:
    """Whether the build of that name holds its lock."""
    try:
        with (store / FOLDER / f"{name}.lock").open() as file:
            # Shared, and for an instant: a build waits for its own lock, so it cannot be disturbed.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
