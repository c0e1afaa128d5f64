"""A run of programs counts as a whole: its processor time, its memory of every sort, its end.

Each attack takes what no limit of a single process counts; beside each, honest programs pass.
"""

import os
import threading
import time
from pathlib import Path

import pytest
from namespaces import needs_namespaces

from factory.core.records import Problem
from factory.grading import usage, watching
from factory.grading.code import grade_code
from factory.grading.isolation import python_command
from factory.grading.sandbox import Sandbox
from factory.grading.watching import Finished, Limits

pytestmark = needs_namespaces


def run(source: str, *, seconds: float = 30.0, memory_mib: int = 1024) -> Finished:
    limits = Limits(seconds=seconds, memory_mib=memory_mib)
    files = {"main.py": source.encode()}
    return Sandbox().run(python_command("main.py"), files=files, limits=limits)


FILLING = {
    "files": "for n in range(10**7): open(f'f{n}', 'w').close()",
    "attributes": (
        "open('f', 'w').close()\n"
        "for n in range(10**7):\n"
        "    if n % 100 == 0: open(f'f{n}', 'w').close()\n"
        "    os.setxattr(f'f{n - n % 100}', f'user.{n}', b'x' * 500)"
    ),
    "locks": (
        "import fcntl\n"
        "for n in range(10**7):\n"
        "    if n % 500 == 0: file = open(f'f{n}', 'w'); kept.append(file)\n"
        "    fcntl.lockf(file, fcntl.LOCK_EX, 1, 2 * (n % 500))"
    ),
    "sockets": (
        "import socket\n"
        "for _ in range(50):\n"
        "    if os.fork() == 0: break\n"
        "try:\n"
        "    while True: kept += socket.socketpair()\n"
        "except OSError: time.sleep(60)"
    ),
}


@pytest.mark.parametrize("kind", FILLING)
def test_what_the_kernel_keeps_for_a_run_counts_as_its_memory(kind: str) -> None:
    finished = run(f"import os, time\nkept = []\n{FILLING[kind]}", memory_mib=96)
    assert finished.overfilled, finished


HONEST = {
    "asyncio": "import asyncio\nasync def f(): await asyncio.sleep(0); print(25)\nasyncio.run(f())",
    "threads": (
        "import threading\n"
        "kept = []\n"
        "threads = [threading.Thread(target=kept.append, args=(n,)) for n in range(40)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]; print(len(kept) - 15)"
    ),
    "a data base": (
        "import sqlite3\n"
        "base = sqlite3.connect('x.db')\n"
        "base.execute('create table t (n int)'); base.execute('insert into t values (25)')\n"
        "base.commit(); print(base.execute('select n from t').fetchone()[0])"
    ),
    "a child in a session of its own": (
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', 'print(25)'], start_new_session=True, check=True)"
    ),
    "a map of a file": (
        "import mmap\n"
        "open('f', 'wb').write(b'25')\n"
        "with open('f', 'r+b') as f: print(mmap.mmap(f.fileno(), 0)[:].decode())"
    ),
    "many small files": (
        "for n in range(3000): open(f'f{n}', 'w').write('x')\n"
        "import os\nprint(len(os.listdir()) - 2975)"
    ),
    "most of the memory": "b = bytearray(700 << 20)\nb[::4096] = b'x' * (700 << 8)\nprint(25)",
}


@pytest.mark.parametrize("kind", HONEST)
def test_honest_programs_pass(kind: str) -> None:
    finished = run(HONEST[kind], seconds=10.0)
    assert (finished.status, finished.stdout) == (0, b"25\n"), finished


@pytest.mark.parametrize(
    "source",
    [
        # Over many processes; in children that end and are waited for; in threads; in sessions.
        "import os\nfor _ in range(20):\n    if os.fork() == 0: break\nwhile True: pass",
        "import os\nwhile True:\n    if os.fork() == 0: sum(range(10**5)); os._exit(0)\n"
        "    os.wait()",
        "import os\nfor _ in range(9):\n    if os.fork() == 0: os.setsid(); break\n"
        "while True: pass",
    ],
)
def test_processor_time_counts_over_all_processes(source: str) -> None:
    finished = run(source, seconds=0.5)
    assert finished.timed_out
    assert 0.1 < finished.processor < 3.0
    assert finished.seconds < watching.PATIENCE + 3.0


@pytest.mark.parametrize(
    "source",
    [
        # Forks whose times the kernel drops; sleep; a stopped process; a wait for itself.
        "import os, signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "for _ in range(20):\n    if os.fork() == 0: break\n"
        "else: import time; time.sleep(60)\n"
        "while True:\n    try:\n        if os.fork(): os._exit(0)\n    except OSError: pass",
        "import time\ntime.sleep(60)",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
        "import threading\nlock = threading.Lock(); lock.acquire(); lock.acquire()",
    ],
)
def test_a_run_that_takes_no_countable_time_ends_by_the_clock(source: str) -> None:
    began = time.monotonic()
    finished = run(source, seconds=0.5)
    assert finished.timed_out or finished.status not in (0, None)
    assert time.monotonic() - began < watching.PATIENCE + 3.0


HOGS = [
    "import os\nfor _ in range(40):\n    if os.fork() == 0: break\nwhile True: pass",
    "import os\nfor _ in range(60):\n    if os.fork() == 0: os.setsid(); break\nwhile True: pass",
    "import threading\ndef f():\n    while True: pass\n"
    "for _ in range(30): threading.Thread(target=f).start()",
]


@pytest.mark.parametrize("hog", HOGS)
def test_an_honest_program_is_graded_beside_a_hog_as_alone(hog: str) -> None:
    ends = threading.Event()

    def neighbour() -> None:
        while not ends.is_set():
            run(hog, seconds=1.0)

    beside = [threading.Thread(target=neighbour) for _ in range(2)]
    for thread in beside:
        thread.start()
    time.sleep(0.3)
    honest = (
        "import time\nt = time.process_time()\nwhile time.process_time() - t < 0.5: pass\nprint(25)"
    )
    test = {"stdin": "", "expected_stdout": "25\n"}
    data = {"tests": [test], "timeout_seconds": 1.0}
    problem = Problem(id="p", prompt="", reference="", kind="code", source="", data=data)
    verdict = grade_code(problem, honest)
    ends.set()
    for thread in beside:
        thread.join()
    assert verdict.outcome == "correct", verdict


def processes(name: str) -> list[str]:
    left = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            left += [path.parent.name] if path.read_text(encoding="utf-8").strip() == name else []
        except OSError:
            continue
    return left


def leaves_nothing(name: str) -> bool:
    end = time.monotonic() + 3.0
    while processes(name) and time.monotonic() < end:
        time.sleep(0.05)
    return not processes(name)


@pytest.mark.parametrize("error", [RuntimeError, OSError, KeyboardInterrupt])
@pytest.mark.parametrize("wait", [0.0, 0.01, 0.03, 0.3])
def test_whatever_stops_the_watcher_ends_the_run(
    error: type[BaseException], wait: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At once too, while the sandbox is being set up.
    def broken(self: watching.Clock) -> watching.Stop:
        time.sleep(wait)
        raise error

    monkeypatch.setattr(watching.Clock, "look", broken)
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.0)
    name = f"left-{error.__name__}"[:15]
    with pytest.raises(error):
        run(
            f"import ctypes, os, time\nctypes.CDLL(None).prctl(15, b'{name}')\n"
            "os.fork(); time.sleep(60)"
        )
    assert leaves_nothing(name)


def test_every_read_of_proc_may_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    # In turn: the first read of each look fails, the second, and so on.
    calls = 0
    original = {
        name: getattr(os, name) for name in ("open", "listdir", "read", "statvfs", "readlink")
    }

    def failing(name: str, number: int):
        def call(path, *rest, **named):
            nonlocal calls
            calls += 1
            if calls % 23 == number:
                raise OSError(3, "No such process")
            return original[name](path, *rest, **named)

        return call

    meter = usage.Meter([os.getpid()], is_isolated=True)
    for number in range(23):
        with monkeypatch.context() as patched:
            for name in original:
                patched.setattr(usage.os, name, failing(name, number))
            assert meter.look().seconds >= 0.0
    assert meter.look().seconds > 0.0


def test_a_process_that_is_gone_takes_nothing() -> None:
    assert usage.Meter([2**22 + 5], is_isolated=True).look() == usage.Usage(0.0, 0.0, 0)


def test_an_explanation_says_both_clocks() -> None:
    finished = run("while True: pass", seconds=0.5)
    assert finished.timed_out
    assert finished.processor > 0.4
