"""Programs are started by a small process: what they get, and what is left when something fails."""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from factory.core.errors import EngineError
from factory.grading import starting
from factory.grading.forker import MOST_BYTES
from factory.grading.isolation import interpreter
from factory.grading.starting import Forker, Process, start

SHELL = ["/bin/sh", "-c"]


def request(*command: str, **other: Any) -> dict[str, Any]:
    plain = {"folder": "/", "environment": {"GIVEN": "yes"}, "limits": [], "identity": None}
    return {"command": command, "group": None, "landlock": None} | plain | other


def started(*command: str, inherited: tuple[int, ...] = (), **other: Any) -> Process:
    with open(os.devnull, "rb") as nothing:
        return start(
            interpreter()[1], request(*command, **other), stdin=nothing.fileno(),
            inherited=inherited,
        )  # fmt: skip


def ended(process: Process) -> tuple[int, str, str]:
    """Its status and what it wrote."""
    texts = []
    for stream in (process.stdout, process.stderr):
        assert stream is not None
        with open(stream, encoding="utf-8") as file:
            texts.append(file.read())
    return process.wait(), texts[0], texts[1]


@pytest.fixture
def forker() -> Iterator[Forker]:
    """That of this process, at work."""
    ended(started(*SHELL, "true"))
    yield starting._forkers[0]


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_a_program_has_its_streams_its_folder_its_environment_and_nothing_else(
    tmp_path: Path,
) -> None:
    (tmp_path / "kept").write_text("inherited")
    with open(tmp_path / "kept", "rb") as kept, open(tmp_path / "kept", "rb"):
        source = (
            "import os, sys\n"
            "numbers = [int(number) for number in os.listdir('/proc/self/fd')]\n"
            "print(os.getcwd(), os.environ['GIVEN'], 'PATH' in os.environ, numbers)\n"
            f"print(os.read({kept.fileno()}, 99), sys.stdin.read())\n"
            "sys.stderr.write('aside'); sys.exit(7)"
        )
        python = (interpreter()[1], "-I", "-S", "-c", source)
        process = started(*python, inherited=(kept.fileno(),), folder=str(tmp_path))
        status, said, aside = ended(process)
        numbers = {0, 1, 2, kept.fileno()}
    first = f"{tmp_path} yes False "
    assert (status, aside) == (7, "aside")
    lines = said.splitlines()
    assert lines[0].startswith(first) and lines[1] == "b'inherited' "
    # The one that lists them has the lowest free number.
    free = next(number for number in range(3, 5) if number not in numbers)
    assert {*json.loads(lines[0].removeprefix(first)), free} == numbers | {free}


def test_inherited_descriptors_keep_numbers_that_cross_those_of_others() -> None:
    pipes = [os.pipe() for _ in range(8)]
    try:
        for number, (_, writing) in enumerate(pipes):
            os.write(writing, f"{number}\n".encode())
            os.close(writing)
        script = "; ".join(f"cat /proc/self/fd/{reading}" for reading, _ in pipes)
        inherited = tuple(reading for reading, _ in reversed(pipes))
        said = "".join(f"{number}\n" for number in range(len(pipes)))
        assert ended(started(*SHELL, script, inherited=inherited))[:2] == (0, said)
    finally:
        for reading, _ in pipes:
            os.close(reading)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"command": ["/no/such/program"]}, "FileNotFoundError: .*/no/such/program"),
        ({"folder": "/no/such/folder"}, "FileNotFoundError: .*/no/such/folder"),
        ({"limits": [[99, 1]]}, "ValueError: invalid resource"),
        ({"landlock": "00"}, "OSError: .*Landlock refused"),
    ],
)
def test_what_cannot_be_limited_or_run_says_why_and_leaves_nothing(
    change: dict[str, Any], reason: str, forker: Forker
) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=reason):
        started("/bin/true", **change)
    assert set(os.listdir("/proc/self/fd")) == before
    assert children(forker._process.pid) == []
    assert ended(started(*SHELL, "echo on"))[1] == "on\n"


def test_a_status_is_that_of_the_program_or_of_its_signal(forker: Forker) -> None:
    assert ended(started(*SHELL, "exit 3"))[0] == 3
    assert ended(started(*SHELL, "kill -TERM $$"))[0] == -signal.SIGTERM
    process = started("/bin/sleep", "600")
    os.kill(process.pid, signal.SIGKILL)
    assert (process.wait(), process.wait()) == (-signal.SIGKILL, -signal.SIGKILL)
    assert children(forker._process.pid) == []


def test_programs_end_with_their_forker_and_the_next_gets_another(forker: Forker) -> None:
    process = started("/bin/sleep", "600")
    watch = os.pidfd_open(process.pid)
    os.kill(forker._process.pid, signal.SIGKILL)
    with open(watch, "rb"):
        assert select.select([watch], [], [], 60)[0] == [watch]
    with pytest.raises(EngineError, match="starts programs"):
        started("/bin/true")
    assert process.wait() == -signal.SIGKILL
    assert ended(started(*SHELL, "echo again"))[1] == "again\n"
    assert starting._forkers[0] is not forker


def test_an_exchange_that_is_broken_off_ends_the_forker(
    forker: Forker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(starting.socket, "send_fds", interrupted)
        with pytest.raises(KeyboardInterrupt):
            started("/bin/true")
    assert not forker.is_usable
    assert ended(started(*SHELL, "echo again"))[1] == "again\n"


def test_a_process_that_was_forked_has_a_forker_of_its_own(forker: Forker) -> None:
    forker._owner = -1  # as in a child
    try:
        assert ended(started(*SHELL, "echo mine"))[1] == "mine\n"
        assert starting._forkers[0] is not forker
    finally:
        forker._owner = os.getpid()
        forker.close()


def test_a_command_that_is_too_long_is_an_error_in_words(forker: Forker) -> None:
    with pytest.raises(EngineError, match="too long"):
        started("/bin/echo", "x" * MOST_BYTES)


def test_threads_start_programs_at_once() -> None:
    said: dict[int, str] = {}

    def run(number: int) -> None:
        said[number] = ended(started(*SHELL, f"echo {number}"))[1]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {number: f"{number}\n" for number in range(16)}


def test_a_forker_is_gone_with_the_process_that_has_it() -> None:
    program = (
        "import json, os, sys\n"
        "from factory.grading import starting\n"
        "process = starting.start(sys.argv[1], json.loads(sys.argv[2]), stdin=0)\n"
        "print(process.pid, starting._forkers[0]._process.pid, flush=True)\n"
        "os._exit(0)\n"
    )
    arguments = [interpreter()[1], json.dumps(request("/bin/sleep", "600"))]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    waiting = [Path("/proc", pid, "stat") for pid in done.stdout.split()]
    end = time.monotonic() + 60
    while any(is_at_work(path) for path in waiting):
        assert time.monotonic() < end
        time.sleep(0.01)


def is_at_work(path: Path) -> bool:
    try:
        return path.read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
