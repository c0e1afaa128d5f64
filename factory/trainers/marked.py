"""Which checkpoints of a run are complete: what their markers say, read without torch."""

import re
from pathlib import Path

from pydantic import Field

from factory.core.files import with_hash, without_hash, write_file
from factory.core.records import Record

MARKER = "COMPLETE"
ROWS = ("telemetry.jsonl", "rollouts.jsonl", "asked.jsonl", "watch.jsonl")
"""What a run appends to while it trains, in the folder above that of its checkpoints."""
_FOLDER = re.compile(r"checkpoint-\d+")


class Completion(Record):
    """What the marker says of a checkpoint."""

    step: int
    files: dict[str, int]
    """Size of every file in bytes."""
    sha256: dict[str, str] = Field(default_factory=dict)
    """Of every file; empty in checkpoints of earlier versions."""
    rows: dict[str, tuple[int, str]] | None = None
    """Bytes and sha256 of each of ROWS as it was then; None in checkpoints of earlier versions."""


def write_marker(
    checkpoint: Path, *, step: int, files: dict[str, int], sha256: dict[str, str],
    rows: dict[str, tuple[int, str]] | None,
) -> None:  # fmt: skip
    """Write what the marker says, with a hash of its own, whole or not at all."""
    completion = Completion(step=step, files=files, sha256=sha256, rows=rows)
    write_file(checkpoint / MARKER, with_hash(completion.model_dump_json(indent=2) + "\n"))


def read_marker(checkpoint: Path) -> Completion:
    """What the marker says; ValueError where it is not what was written, OSError where none is."""
    content, _ = without_hash((checkpoint / MARKER).read_bytes())
    return Completion.model_validate_json(content)


def latest_complete(folder: Path) -> Path | None:
    """The complete checkpoint of the highest step under `folder`, or None.

    The step is the marker's, not the name's, and every file must be there at its marked size.
    """
    complete = [(step, path) for path in checkpoints(folder) if (step := marked_step(path))]
    return max(complete)[1] if complete else None


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoint folders under `folder`, torn ones too."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and _FOLDER.fullmatch(p.name))


def marked_step(checkpoint: Path) -> int | None:
    """The step that a checkpoint's marker states, or None where it is torn."""
    try:
        completion = read_marker(checkpoint)
        sizes = {name: (checkpoint / name).stat().st_size for name in completion.files}
    except (OSError, ValueError):  # a missing file or an unreadable marker is what torn means
        return None
    return completion.step if sizes == completion.files else None
