"""Whether what a run keeps until it is sealed is what was written: checkpoints and the rows before
them, by the hashes in a marker; weights beside them, by hashes of their own."""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from factory.core.artifacts import sha256_file
from factory.core.errors import ArtifactError
from factory.core.files import with_hash, without_hash, write_file
from factory.core.jsonl import append_rows, recover_rows
from factory.trainers.marked import ROWS, read_marker


def hashes(paths: Sequence[Path], folder: Path) -> dict[str, str]:
    """sha256 of each file by its name below a folder; several are read side by side."""
    with ThreadPoolExecutor(max_workers=8) as threads:
        digests = threads.map(sha256_file, paths)
        names = [path.relative_to(folder).as_posix() for path in paths]
        return dict(zip(names, digests, strict=True))


def changed_file(checkpoint: Path, scratch: Path | None = None) -> Path | None:
    """A file of a complete checkpoint, or of the rows in `scratch` up to it, that is not what was
    written; None where each is."""
    marker = read_marker(checkpoint)
    wanted = marker.sha256
    actual = hashes([checkpoint / name for name in wanted], checkpoint)
    changed = [checkpoint / name for name in wanted if actual[name] != wanted[name]]
    if scratch is not None:
        for name, (size, digest) in (marker.rows or {}).items():
            if _rows(scratch / name, size) != (size, digest):
                changed.append(scratch / name)
    return next(iter(changed), None)


def remember(kept: Path) -> None:
    """Write the hashes of a file, or of a folder's, beside it."""
    text = json.dumps(hashes(_files(kept), kept.parent), indent=2)
    write_file(sums(kept), with_hash(text + "\n"))


def require_unchanged(kept: Path) -> None:
    """ArtifactError unless a file or folder is what it was when it was remembered."""
    if not sums(kept).exists():
        return  # written by an earlier version
    try:
        wanted = json.loads(without_hash(sums(kept).read_bytes())[0])
    except ValueError:
        wanted = {sums(kept).name: "what was written"}
    actual = hashes(_files(kept), kept.parent)
    changed = sorted(name for name in {*wanted, *actual} if wanted.get(name) != actual.get(name))
    if changed:
        raise ArtifactError(
            f"{kept.parent / changed[0]}: not what was written; delete {kept.parent}, and the "
            "stage is made anew"
        )


def sums(kept: Path) -> Path:
    """Where the hashes of a remembered file or folder stand."""
    return kept.with_name(f"sums-{kept.name}.json")


def _files(kept: Path) -> list[Path]:
    return sorted(path for path in (kept, *kept.rglob("*")) if path.is_file())


def rows_until_now(scratch: Path) -> dict[str, tuple[int, str]]:
    """Bytes and sha256 of each file of rows that is there."""
    return {name: _rows(scratch / name) for name in ROWS if (scratch / name).exists()}


def cut_rows(checkpoint: Path | None, scratch: Path) -> None:
    """Make the files of rows what they were at a checkpoint: what came later comes again."""
    marker = None if checkpoint is None else read_marker(checkpoint)
    kept = {} if marker is None else marker.rows
    for name in ROWS:
        if kept is None and marker is not None:  # written by an earlier version
            truncate_rows(scratch / name, marker.step)
        elif kept and name in kept:
            os.truncate(scratch / name, kept[name][0])
        else:
            (scratch / name).unlink(missing_ok=True)


def truncate_rows(path: Path, step: int) -> None:
    """Drop the rows past a step."""
    rows = recover_rows(path)
    kept = [row for row in rows if row["step"] <= step]
    if len(kept) < len(rows):
        draft = path.with_name(path.name + ".tmp")
        draft.unlink(missing_ok=True)
        append_rows(draft, kept)
        os.replace(draft, path)


def _rows(path: Path, most: int = -1) -> tuple[int, str]:
    """(bytes, sha256) of the first `most` bytes of a file, or of all; of none where it is gone."""
    data = b""
    if path.exists():
        with path.open("rb") as file:
            data = file.read(most)
    return len(data), hashlib.sha256(data).hexdigest()
