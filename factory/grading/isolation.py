"""How one command is put behind bubblewrap, limited, watched and ended."""

import os
import resource
import selectors
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from factory.errors import EngineError
from factory.grading.landlock import restriction
from factory.grading.seccomp import filter_program
from factory.records import Record

HOME = "/tmp"
"""The one place where a program may write: a tmpfs of its own."""
INTERPRETER = "/interpreter"
"""Where the interpreter's prefix is mounted, whatever its path outside."""
UNUSED_UIDS = range(61000, 64000)


class Limits(Record):
    """What one run may use."""

    seconds: float = 5.0
    """Wall clock."""
    memory_mib: int = 1024
    """Address space of each process, and memory of all of them together. Below about 1 GiB
    programs with threads cannot start."""
    tmp_mib: int = 64
    processes: int = 64
    open_files: int = 256
    output_bytes: int = 1 << 20
    """Of standard output, and of standard error; more than that ends the run."""


DEFAULT = Limits()
Process = subprocess.Popen[bytes]
MEMORY_SECONDS = 0.05
"""Between two looks at a run's memory."""
PAGE = resource.getpagesize()
BWRAP = b"bwrap: "
"""How bubblewrap's own messages begin."""


@dataclass(frozen=True)
class Finished:
    """How a run ended."""

    status: int | None
    """Exit status, 128 + n for signal n; None if it was stopped from here."""
    stdout: bytes
    stderr: bytes
    seconds: float
    timed_out: bool = False
    flooded: bool = False
    overfilled: bool = False
    """Its processes together took more memory than they may."""


def python_command(name: str, *arguments: str) -> list[str]:
    """Run a Python file of `files`, isolated from site-packages and from its own folder."""
    prefix, executable = interpreter()
    inside = executable if prefix == Path("/usr") else f"{INTERPRETER}/bin/{Path(executable).name}"
    return [inside, "-I", "-S", "-B", f"/program/{name}", *arguments]


@lru_cache(maxsize=1)
def interpreter() -> tuple[Path, str]:
    """(prefix, executable) of the Python that programs run in: ours, else the system's.

    Where we are root, ours may lie where the unused user cannot reach it (below /root); then
    /usr/bin/python3 is taken, and EngineError says so if there is none.
    """
    prefix = Path(sys.base_prefix)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if is_reachable(prefix):
        return prefix, str(prefix / "bin" / version)
    if Path("/usr/bin/python3").exists():
        return Path("/usr"), "/usr/bin/python3"
    raise EngineError(
        f"no Python for sandboxed programs: {prefix} cannot be read by other users, and there is "
        "no /usr/bin/python3; install one of the system's, or run as an ordinary user"
    )


def is_reachable(path: Path) -> bool:
    """Whether the user that programs run as may go there."""
    if os.getuid() != 0:
        return os.access(path, os.X_OK)
    parents = [path.resolve(), *path.resolve().parents]
    return all(part.stat().st_mode & stat.S_IXOTH for part in parents)


def isolated(
    stack: ExitStack,
    bwrap: Path,
    command: Sequence[str],
    files: Mapping[str, bytes],
    limits: Limits,
) -> tuple[list[str], tuple[int, ...]]:
    """The command behind bwrap, and the descriptors that bwrap reads and closes."""
    inherited = []
    options = [*_system_mounts()]
    prefix = interpreter()[0]
    if prefix != Path("/usr"):
        options += ["--ro-bind", str(prefix), INTERPRETER]
    for name, content in files.items():
        inherited.append(holding(stack, content))
        options += ["--ro-bind-data", str(inherited[-1]), f"/program/{name}"]
    filter_bytes = filter_program()
    if filter_bytes is not None:
        inherited.append(holding(stack, filter_bytes))
        options += ["--seccomp", str(inherited[-1])]
    size = str(limits.tmp_mib * 2**20)
    options += ["--size", size, "--tmpfs", HOME, "--chdir", HOME]
    options += ["--remount-ro", "/dev", "--remount-ro", "/"]
    full_command = [*_process_limit(limits.processes), *command]
    return [str(bwrap), *ISOLATION, *options, "--", *full_command], tuple(inherited)


def _process_limit(most: int) -> list[str]:
    """Sets the limit of processes inside: there the count begins at nothing with every run.

    Outside it would count all that the user runs, and what earlier runs have not yet given back.
    POSIX shells call it -u (bash) or -p (dash, busybox).
    """
    set_limit = f"{{ ulimit -u {most} || ulimit -p {most}; }} 2>/dev/null"
    return ["/bin/sh", "-c", f'{set_limit} && exec "$@"', "sh"]


def holding(stack: ExitStack, content: bytes) -> int:
    """A descriptor of a file in memory with this content, closed with the stack."""
    descriptor = os.memfd_create("sandbox")
    stack.callback(os.close, descriptor)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


ISOLATION = (
    "--unshare-all", "--unshare-user", "--disable-userns", "--uid", "65534", "--gid", "65534",
    "--cap-drop", "ALL", "--hostname", "sandbox", "--die-with-parent", "--new-session",
    "--clearenv", "--setenv", "PATH", "/usr/bin:/bin", "--setenv", "LANG", "C.UTF-8",
    "--setenv", "HOME", HOME,
)  # fmt: skip


@lru_cache(maxsize=1)
def _system_mounts() -> tuple[str, ...]:
    """/usr and its usual links, /proc of the sandbox's own processes, and a bare /dev."""
    options = ["--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev"]
    for name in ("bin", "lib", "lib64", "sbin"):
        path = Path("/", name)
        if path.is_symlink():
            options += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            options += ["--ro-bind", str(path), str(path)]
    return tuple(options)


def bare(
    stack: ExitStack, command: Sequence[str], files: Mapping[str, bytes]
) -> tuple[list[str], str]:
    """The command without isolation, and a working folder: for who typed so."""
    root = stack.enter_context(tempfile.TemporaryDirectory())
    for name, content in files.items():
        Path(root, name).write_bytes(content)
    Path(root, "work").mkdir()
    outside = {"/program/": f"{root}/", INTERPRETER: str(interpreter()[0])}
    here = []
    for part in command:
        for inside, path in outside.items():
            part = part.replace(inside, path)
        here.append(part)
    return here, f"{root}/work"


def watched(process: Process, limits: Limits, *, beside: Sequence[int] = ()) -> Finished:
    """Collect a process's output until it ends, its deadline passes or it takes too much.

    `beside` are further processes whose memory counts.
    """
    started = time.monotonic()
    output, stop = _collect(process, started + limits.seconds, limits, beside)
    kill_group(process.pid)
    status = process.wait()
    return Finished(
        status=None if stop else (status if status >= 0 else 128 - status),
        stdout=output[0],
        stderr=output[1],
        seconds=time.monotonic() - started,
        timed_out=stop == "late",
        flooded=stop == "flooded",
        overfilled=stop == "overfilled",
    )


Stop = Literal["", "late", "flooded", "overfilled"]
"""Why a run was ended from here; empty where it ended by itself."""


def _collect(
    process: Process, deadline: float, limits: Limits, beside: Sequence[int]
) -> tuple[tuple[bytes, bytes], Stop]:
    """(stdout, stderr), and why the run was stopped.

    Ends with the process, not with its pipes: an orphan may hold them open for ever.
    """
    streams = [stream for stream in (process.stdout, process.stderr) if stream is not None]
    collected = {stream.fileno(): bytearray() for stream in streams}
    most = limits.output_bytes
    stop: Stop = ""
    watch = os.pidfd_open(process.pid)
    with selectors.DefaultSelector() as selector:
        for descriptor in (*collected, watch):
            os.set_blocking(descriptor, False)
            selector.register(descriptor, selectors.EVENT_READ)
        looked = time.monotonic()
        while not stop:
            left = deadline - time.monotonic()
            ready = [key.fd for key, _ in selector.select(max(0.0, min(left, MEMORY_SECONDS)))]
            for descriptor in ready:
                if descriptor != watch and not _read_into(collected[descriptor], descriptor, most):
                    selector.unregister(descriptor)
            if watch in ready:
                for descriptor, buffer in collected.items():
                    while _read_into(buffer, descriptor, most):
                        pass
            if any(len(buffer) > most for buffer in collected.values()):
                stop = "flooded"
            elif watch in ready:
                break
            elif left <= 0:
                stop = "late"
            elif time.monotonic() - looked >= MEMORY_SECONDS:
                looked = time.monotonic()
                if memory_of([process.pid, *beside]) > limits.memory_mib * 2**20:
                    stop = "overfilled"
    os.close(watch)
    texts = [bytes(buffer[:most]) for buffer in collected.values()]
    for stream in streams:
        stream.close()
    return (b"" if process.stdout is None else texts[0], texts[-1]), stop


def memory_of(pids: Sequence[int]) -> int:
    """Bytes that processes and all their descendants hold; pages that they share count once.

    The limit of the address space is for each process alone: sixty-four of them are another matter.
    """
    tree = list(pids)
    for pid in tree:
        tree += _children(pid)
    resident = sum(_first_number(f"/proc/{pid}/statm", after=1) for pid in tree) * PAGE
    if resident < 2**28:
        return resident
    shared_out = sum(_first_number(f"/proc/{pid}/smaps_rollup", after="Pss:") for pid in tree)
    return shared_out * 1024 or resident


def _children(pid: int) -> list[int]:
    ids: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            ids += map(int, path.read_text().split())
        except OSError:
            continue
    return ids


def _first_number(path: str, *, after: str | int) -> int:
    """The word that follows a word, or stands at a place, in a file of /proc; 0 if it is gone."""
    try:
        words = Path(path).read_text().split()
        return int(words[words.index(after) + 1 if isinstance(after, str) else after])
    except (OSError, ValueError, IndexError):
        return 0


def _read_into(buffer: bytearray, descriptor: int, most: int) -> bool:
    """Read what is there; False at the end, where nothing is there, or past the limit."""
    if len(buffer) > most:
        return False
    try:
        part = os.read(descriptor, 65536)
    except BlockingIOError:
        return False
    buffer += part
    return bool(part)


def limiter(limits: Limits, identity: int | None) -> Callable[[], None]:
    """What the child does before it becomes the command."""
    memory = limits.memory_mib * 2**20
    processor = int(limits.seconds) + 2
    sizes = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: processor,
        resource.RLIMIT_FSIZE: limits.tmp_mib * 2**20,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_CORE: 0,
    }

    restrict = restriction()

    def apply() -> None:
        # Where memory runs out after all, the kernel takes these processes first. A process that
        # has changed its user may not say so, and /proc may be missing: a wish, not a wall. A file
        # object would cost the fork a millisecond.
        with suppress(OSError):
            score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
            os.write(score, b"1000")
            os.close(score)
        if identity is not None:
            os.setgroups([])
            os.setresgid(identity, identity, identity)
            os.setresuid(identity, identity, identity)
        for kind, size in sizes.items():
            resource.setrlimit(kind, (size, size))
        if restrict is not None:
            restrict()

    return apply


def unused_identity() -> int | None:
    """A user id that nothing else runs under, where we are root: root's processes know no limit
    of their number, and root outside would be root to whatever escapes."""
    if os.getuid() != 0:
        return None
    return UNUSED_UIDS[os.getpid() % len(UNUSED_UIDS)]


def kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
