"""How the end of a worker is told: what the kernel counted, who else has gone, its last words."""

import os
import re
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from factory.building.worker import out_of_memory
from factory.core import errors
from factory.core.errors import EngineError, FactoryError
from factory.core.machine import Machine, free_gib
from factory.grading.usage import descendants
from factory.stages import STAGES

FULL_GIB, FULL_FILES = 0.02, 32
"""A worker that failed without a word while the disk has room for less than this: it was full."""
GROUPS = Path("/sys/fs/cgroup")


class MemoryKills(NamedTuple):
    """Processes that the kernel has killed for want of memory until now."""

    number: int
    file: Path
    """Where the kernel says so."""


def memory_kills(groups: Path = GROUPS, proc: Path = Path("/proc")) -> MemoryKills | None:
    """Of this process's control group (version 2, else 1), else of the machine; None: nobody says.

    A group's own count comes first: that of the machine rises with other containers' too.
    """
    for file in _counters(groups, proc):
        try:
            counted = re.search(r"^oom_kill (\d+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
        except OSError:
            continue
        if counted:
            return MemoryKills(int(counted[1]), file)
    return None


def _counters(groups: Path, proc: Path) -> Iterator[Path]:
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    entries = [line.split(":", 2) for line in lines if line.count(":") >= 2]
    for number, _, path in entries:
        if number == "0":
            yield from (
                root / path.strip("/") / "memory.events" for root in (groups, groups / "unified")
            )
    for _, controllers, path in entries:
        if "memory" in controllers.split(","):
            # A container sees its own group at the root, under a path that is the host's.
            yield from (
                groups / "memory" / at / "memory.oom_control" for at in (path.strip("/"), ".")
            )
    yield proc / "vmstat"


def failure(
    stage: str,
    kind: str,
    run: Path,
    status: int,
    *,
    message: Mapping[str, Any] | None,
    machine: Machine,
    before: MemoryKills | None = None,
    server: int | None = None,
) -> FactoryError:
    """The error of a stage whose worker ended with `status`, negative for a signal.

    `message` is what the worker itself told, `before` what the kernel had counted when it started,
    `server` how the fork server ended, if it did: its workers end with it.
    """
    if message:
        return getattr(errors, message["kind"], EngineError)(f"stage {stage}: {message['message']}")
    if server is not None:
        subject, status = "the process that workers are forked from was ", server
    else:
        subject = ""
    killed = _killed_for_memory(before)
    if status == -signal.SIGKILL:
        return EngineError(f"stage {stage}: {subject}{_of_a_kill(kind, machine, killed, before)}")
    if server is not None:
        return EngineError(
            f"stage {stage}: the process that workers are forked from ended with status {status}, "
            f"and its workers with it: start again (it resumes)"
        )
    if free_gib(run) < FULL_GIB or _free_files(run) < FULL_FILES:
        return EngineError(f"stage {stage}: the disk of {run} is full: make room, start again")
    log = run / "log.txt"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    tail = "\n".join(lines[-12:])
    meanwhile = f"{killed}: {out_of_memory(kind, machine)}; " if killed else ""
    return EngineError(
        f"stage {stage}: {meanwhile}its worker ended with status {status}; the log is {log}; "
        f"its last lines:\n{tail}"
    )


def _free_files(folder: Path) -> float:
    """How many more files a file system takes; infinity where it knows no bound."""
    state = os.statvfs(folder)
    return state.f_favail if state.f_files else float("inf")


def _killed_for_memory(before: MemoryKills | None) -> str:
    """What the kernel counted since; empty where it was nothing, or nobody counts."""
    now = memory_kills()
    if now is None or before is None or now.file != before.file or now.number <= before.number:
        return ""
    return f"the kernel killed {now.number - before.number} for want of memory ({now.file})"


def _of_a_kill(kind: str, machine: Machine, killed: str, before: MemoryKills | None) -> str:
    if killed or before is None:
        what = f"killed; {killed}:" if killed else "killed from outside, most likely"
        return f"{what} {out_of_memory(kind, machine)}"
    advice = STAGES[kind].memory_advice(machine)
    return (
        f"killed from outside; the kernel counts no kill for want of memory ({before.file}), so a "
        f"person, a batch system or a guard of memory did it. If memory was short: {advice}"
    )


def stopped_process(pid: int) -> int | None:
    """The first of a process and all that came from it that a signal has stopped, as by Ctrl-Z;
    None where none is, or the kernel does not say."""
    return next(filter(is_stopped, descendants(pid)), None)


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal, as the kernel says; false where it does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[:1] == [b"T"]


def end_of(pid: int) -> int | None:
    """Exit status of a child, negative for a signal; None while it runs. It is not reaped.

    A child that is reaped already counts as killed: nobody knows better.
    """
    try:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return -signal.SIGKILL
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
