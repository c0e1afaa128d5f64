"""How one command is put behind bubblewrap and limited."""

import fcntl
import importlib.util
import os
import resource
import stat
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path

from factory.core.errors import EngineError
from factory.grading.seccomp import filter_program
from factory.grading.watching import Limits

HOME = "/tmp"
"""The one place where a program may write: a tmpfs of its own."""
SHARED = "/dev/shm"
"""Where pools of processes keep their locks: another tmpfs, whose files count as memory."""
INTERPRETER = "/interpreter"
"""Where the interpreter's prefix is mounted, whatever its path outside."""
UNUSED_UIDS = range(61000, 64000)

BWRAP = b"bwrap: "
"""How bubblewrap's own messages begin."""


DIGITS = ("-X", "int_max_str_digits=0")
"""Integers of any size are printed and read; the clock bounds what that takes."""
START = (Path(__file__).parent / "inside" / "start.py").read_text(encoding="utf-8")


def python_command(name: str, *arguments: str) -> list[str]:
    """Run a Python file of `files`, isolated from site-packages and from its own folder."""
    return [*_python(), f"/program/{name}", *arguments]


def _python() -> list[str]:
    """How each Python program begins; the most processes it may have come next."""
    prefix, executable = interpreter()
    inside = executable if prefix == Path("/usr") else f"{INTERPRETER}/bin/{Path(executable).name}"
    return [inside, "-I", "-S", "-B", *DIGITS, "-c", START]


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
    options += _packages()
    for name, content in files.items():
        inherited.append(holding(stack, content))
        options += ["--file", str(inherited[-1]), f"/program/{name}"]
    filter_bytes = filter_program()
    if filter_bytes is not None:
        inherited.append(holding(stack, filter_bytes))
        options += ["--seccomp", str(inherited[-1])]
    size = str(limits.tmp_mib * 2**20)
    options += ["--size", size, "--tmpfs", HOME, "--chdir", HOME]
    options += ["--size", size, "--tmpfs", SHARED]
    options += ["--remount-ro", "/proc", "--remount-ro", "/"]
    command = _with_most_processes(command, limits.processes)
    return [str(bwrap), *ISOLATION, *options, "--", *command], tuple(inherited)


def _with_most_processes(command: Sequence[str], most: int) -> list[str]:
    """The command with a limit of processes that is set inside, where the count begins at nothing
    with every run: by a Python program's own start, before anything else by a shell.

    Outside it would count all that the user runs, and what earlier runs have not yet given back.
    POSIX shells call it -u (bash) or -p (dash, busybox).
    """
    start = _python()
    if list(command[: len(start)]) == start:
        return [*start, str(most), *command[len(start) :]]
    set_limit = f"{{ ulimit -u {most} || ulimit -p {most}; }} 2>/dev/null"
    return ["/bin/sh", "-c", f'{set_limit} && exec "$@"', "sh", *command]


def holding(stack: ExitStack, content: bytes, *, is_fixed: bool = True) -> int:
    """A descriptor of a file in memory with this content, closed with the stack; where it is fixed
    nobody can write to it, however it is opened again."""
    descriptor = os.memfd_create("sandbox", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    stack.callback(os.close, descriptor)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    if is_fixed:
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
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
    options = ["--ro-bind", "/usr", "/usr", "--proc", "/proc"]
    # Not bubblewrap's own /dev: it has terminals, whose buffers nothing counts, and takes a
    # millisecond. A shared map of /dev/zero would be memory that nothing counts.
    for name in ("null", "urandom"):
        options += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    links = {"zero": "null", "random": "urandom", "fd": "/proc/self/fd"}
    links |= {f"std{name}": f"/proc/self/fd/{n}" for n, name in enumerate(("in", "out", "err"))}
    for name, target in links.items():
        options += ["--symlink", target, f"/dev/{name}"]
    for name in ("bin", "lib", "lib64", "sbin"):
        path = Path("/", name)
        if path.is_symlink():
            options += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            options += ["--ro-bind", str(path), str(path)]
    return tuple(options)


@lru_cache(maxsize=1)
def _packages() -> tuple[str, ...]:
    """numpy read-only at /packages, where it is installed for the Python that programs run in."""
    spec = importlib.util.find_spec("numpy")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if spec is None or spec.origin is None:
        return ()
    folder = Path(spec.origin).parent
    is_same = Path(interpreter()[1]).resolve().name == version
    if not is_same or not is_reachable(folder):
        return ()
    parts = (folder, folder.with_name("numpy.libs"))
    binds = [("--ro-bind", str(part), f"/packages/{part.name}") for part in parts if part.is_dir()]
    return (*(word for bind in binds for word in bind), "--setenv", "OPENBLAS_NUM_THREADS", "1")


def bare(
    stack: ExitStack, command: Sequence[str], files: Mapping[str, bytes]
) -> tuple[list[str], str]:
    """The command without isolation, and a working folder: for who typed so."""
    root = stack.enter_context(tempfile.TemporaryDirectory())
    for name, content in files.items():
        Path(root, name).write_bytes(content)
    Path(root, "work").mkdir()
    outside = {"/program/": f"{root}/", INTERPRETER: str(interpreter()[0])}
    start, here = _python(), []
    if list(command[: len(start)]) == start:
        command = [*start, "0", *command[len(start) :]]
    for part in command:
        for inside, path in outside.items():
            part = part.replace(inside, path)
        here.append(part)
    return here, f"{root}/work"


def bounds(limits: Limits) -> list[tuple[int, int]]:
    """(kind, size) of each limit that a process is given before it becomes the command."""
    memory = limits.memory_mib * 2**20
    # Recursion in C, such as sum(map(...)), needs more than the usual 8 MiB.
    most = resource.getrlimit(resource.RLIMIT_STACK)[1]
    stack = memory // 4
    return [
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, int(limits.seconds) + 2),
        (resource.RLIMIT_FSIZE, limits.tmp_mib * 2**20),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_SIGPENDING, 4096),  # timers too
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_STACK, stack if most == resource.RLIM_INFINITY else min(stack, most)),
    ]


def unused_identity() -> int | None:
    """A user id that nothing else runs under, where we are root: root's processes know no limit
    of their number, and root outside would be root to whatever escapes."""
    if os.getuid() != 0:
        return None
    return UNUSED_UIDS[os.getpid() % len(UNUSED_UIDS)]
