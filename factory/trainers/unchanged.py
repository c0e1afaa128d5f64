"""Whether a checkpoint is what was written: the hashes in its marker."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from factory.artifacts import sha256_file
from factory.trainers.marked import MARKER, Completion


def hashes(paths: Sequence[Path], folder: Path) -> dict[str, str]:
    """sha256 of each file by its name below a folder; several are read side by side."""
    with ThreadPoolExecutor(max_workers=8) as threads:
        digests = threads.map(sha256_file, paths)
        names = [path.relative_to(folder).as_posix() for path in paths]
        return dict(zip(names, digests, strict=True))


def changed_file(checkpoint: Path) -> Path | None:
    """A file of a complete checkpoint that is not what was written; None where each is."""
    content = (checkpoint / MARKER).read_text(encoding="utf-8")
    wanted = Completion.model_validate_json(content).sha256
    actual = hashes([checkpoint / name for name in wanted], checkpoint)
    return next((checkpoint / name for name in wanted if actual[name] != wanted[name]), None)
