"""Which code made an artifact: the commit and whether the tree had changes."""

import subprocess
from functools import cache
from pathlib import Path


@cache
def code_state() -> tuple[str, bool]:
    """(commit, dirty) of the checkout this package runs from; ("unknown", False) outside git."""
    folder = Path(__file__).resolve().parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit, bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", False


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()
