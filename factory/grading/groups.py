"""A control group (v2) of its own for each run, where one may be made: limits that are hard.

The kernel then counts what `usage.py` can only look at: memory of every sort, its own included,
processes, and processor time of children that nobody waits for; and it ends all of a run at once.
A group is made below ours, or beside it where only that hands on memory and processes (a group with
processes in it cannot): as root of a machine, or in a slice that systemd gives to a user. In most
containers none may be made. Then, and with version 1, what is looked at is all that holds.
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import count
from pathlib import Path

BEYOND_MIB = 64
"""Above what a look allows, so that verdicts say the same where nothing is hard: a program ends
here only by what it takes between two looks."""
OWN_PROCESSES = 16
"""Of the sandbox itself, above those of the program."""
WANTED = ("memory", "pids", "cpu")
PREFIX = "factory-run-"
_numbers = count()


class Group:
    """One run's group; `enter` is for its first process, before that becomes a program."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def bound(self, memory_mib: int, processes: int) -> None:
        """Set its limits, as far as the machine hands them on."""
        limits = {
            "memory.max": (memory_mib + BEYOND_MIB) << 20,
            "memory.swap.max": 0,
            "memory.oom.group": 1,
            "pids.max": processes + OWN_PROCESSES,
        }
        for name, value in limits.items():
            _write(self.folder / name, str(value))

    def enter(self) -> None:
        """Move this process into the group, and with it all that will come from it. OSError."""
        # No file object: this runs between fork and exec.
        descriptor = os.open(self.folder / "cgroup.procs", os.O_WRONLY)
        os.write(descriptor, b"0")
        os.close(descriptor)

    def seconds(self) -> float:
        """Processor time of all that ever was in the group."""
        return _word(self.folder / "cpu.stat", "usage_usec") / 1e6

    def was_overfilled(self) -> bool:
        """Whether the kernel ended it for its memory."""
        return _word(self.folder / "memory.events", "oom_kill") > 0

    def kill(self) -> None:
        """Kill all that is in it, at once."""
        _write(self.folder / "cgroup.kill", "1")

    def remove(self) -> None:
        """Take the empty group away; the kernel needs a moment after a kill."""
        for _ in range(1000):
            try:
                self.folder.rmdir()
                return
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.001)


@contextmanager
def run_group(memory_mib: int, processes: int) -> Iterator[Group | None]:
    """A group for one run, which is dead and gone behind the block; None where none may be made."""
    parent = home()
    group = None if parent is None else _made(parent)
    if group is None:
        yield None
        return
    group.bound(memory_mib, processes)
    try:
        yield group
    finally:
        group.kill()
        group.remove()


@lru_cache(maxsize=1)
def home() -> Path | None:
    """The folder in which groups of runs can be made; None where they cannot be."""
    own = own_group()
    return None if own is None else suitable(own, _takes_processes)


def suitable(own: Path, takes: Callable[[Group], bool]) -> Path | None:
    """Of our group and the one above it the first whose groups are given memory and processes.

    One that only counts is not worth its price: the kernel takes 10 to 20 ms to move a process in,
    half of what a short program's run takes. `takes` says whether a process may be moved.
    """
    for parent in (own, own.parent):
        if not (parent / "cgroup.procs").exists():
            continue  # above the mount
        if not (parent / "cgroup.type").exists():  # of the root alone
            for name in WANTED:
                _write(parent / "cgroup.subtree_control", f"+{name}")
        _sweep(parent)
        group = _made(parent)
        if group is None:
            continue
        given = _read(group.folder / "cgroup.controllers").split()
        is_suitable = takes(group) and {"memory", "pids"} <= set(given)
        group.kill()
        group.remove()
        if is_suitable:
            return parent
    return None


def hard(parent: Path | None) -> list[str]:
    """What the kernel itself bounds for groups made there, in words."""
    group = None if parent is None else _made(parent)
    if group is None:
        return []
    given = set(_read(group.folder / "cgroup.controllers").split())
    group.remove()
    words = {"memory": "memory", "pids": "processes"}
    return [words[name] for name in words if name in given] + ["processor time", "the end"]


def own_group() -> Path | None:
    """The folder of the version 2 group that this process is in; None where none is mounted."""
    lines = _read(Path("/proc/self/cgroup")).splitlines()
    path = next((line[3:] for line in lines if line.startswith("0::")), None)
    for line in _read(Path("/proc/self/mountinfo")).splitlines():
        before, _, after = line.partition(" - ")
        root, mount = before.split()[3:5]
        # A path that begins with .. lies outside of what our namespace shows.
        if path is not None and after.startswith("cgroup2 ") and not path.startswith("/.."):
            inner = os.path.relpath(path, root)
            if not inner.startswith(".."):
                return Path(os.path.normpath(os.path.join(mount, inner)))
    return None


def _takes_processes(group: Group) -> bool:
    """Whether a child of ours may move into it."""
    try:
        subprocess.run(["/bin/true"], preexec_fn=group.enter, check=True, env={})
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def _made(parent: Path) -> Group | None:
    folder = parent / f"{PREFIX}{os.getpid()}-{next(_numbers)}"
    try:
        folder.mkdir()
    except OSError:
        return None
    return Group(folder)


def _sweep(parent: Path) -> None:
    """Take away what processes left that were killed; groups with processes in them stay."""
    for folder in parent.glob(f"{PREFIX}*"):
        owner = folder.name.removeprefix(PREFIX).partition("-")[0]
        if not Path("/proc", owner).exists():
            with suppress(OSError):
                folder.rmdir()


def _word(path: Path, name: str) -> int:
    words = _read(path).split()
    return int(words[words.index(name) + 1]) if name in words else 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _write(path: Path, text: str) -> None:
    """Where the kernel takes it: files of controllers that are not handed on do not exist."""
    with suppress(OSError), open(os.open(path, os.O_WRONLY), "w", encoding="utf-8") as file:
        file.write(text)
