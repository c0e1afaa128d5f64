"""Python processes that the factory starts: the user's folder is data and never code.

`python -m` and `python -c` put the current folder before all libraries, so that a file torch.py in
it would run in the place of torch. The console script `factory` does not, and its children must
not either.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LIBRARY = ctypes.CDLL(None)
SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""Environment in which no Python process puts the current folder on its path, nor do those that
libraries start below it."""


def keep_children_safe() -> None:
    """Give `SAFE_PATH` to all processes that start below this one."""
    os.environ.update(SAFE_PATH)


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module with this interpreter, off the current folder."""
    return [sys.executable, "-P", "-m", module, *arguments]


def program_command(*arguments: str) -> list[str]:
    """The `factory` command with this interpreter, off the current folder."""
    return [sys.executable, "-P", "-c", "from factory.cli import main; main()", *arguments]


def die_with_parent(sign: signal.Signals = signal.SIGKILL) -> None:
    """Ask Linux to kill this process when the one that started it dies: no orphan goes on."""
    if sys.platform == "linux":
        _LIBRARY.prctl(_PR_SET_PDEATHSIG, sign)


def adopt_orphans() -> None:
    """Become the parent of what children of this process leave behind when they die."""
    if sys.platform == "linux":
        _LIBRARY.prctl(_PR_SET_CHILD_SUBREAPER, 1)
