"""How a worker's end is told: by the kernel's own counts, and never as what it was not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from factory.building.launch import endings
from factory.building.launch.endings import (
    MemoryKills,
    end_of,
    failure,
    memory_kills,
    stopped_process,
)
from factory.building.worker import out_of_memory
from factory.core.errors import ArtifactError, EngineError, FactoryError
from factory.core.machine import Machine

ROOT = Path(__file__).resolve().parents[2]
KILLED = -signal.SIGKILL


def failure_of(run: Path, status: int, **more: object) -> FactoryError:
    fields = {"message": None, "machine": Machine(), **more}
    return failure("zero", "sft", run, status, **fields)  # type: ignore[arg-type]


def kernel(root: Path, *, entries: str, **files: str) -> tuple[Path, Path]:
    """(control groups, /proc) of a made-up kernel; `__` in a name stands for a slash."""
    texts = {"proc/self/cgroup": entries, **{k.replace("__", "/"): v for k, v in files.items()}}
    for name, text in texts.items():
        path = root / name.replace("_events", ".events").replace(
            "oom_control", "memory.oom_control"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root / "groups", root / "proc"


def test_kills_for_memory_are_read_where_the_nearest_group_counts_them(tmp_path: Path) -> None:
    events = "low 0\nhigh 0\nmax 12\noom 2\noom_kill 2\noom_group_kill 0\n"
    machine = {"proc__vmstat": "pgfault 1\noom_kill 9\npgscan 2\n"}
    second = kernel(
        tmp_path / "2", entries="0::/user.slice/job\n", **machine,
        **{"groups__user.slice__job__memory_events": events},
    )  # fmt: skip
    assert memory_kills(*second) == (2, second[0] / "user.slice/job/memory.events")
    # Version 1, in a container that sees its own group at the root.
    first = kernel(
        tmp_path / "1", entries="5:pids:/x\n4:memory:/docker/abc\n0::/\n", **machine,
        groups__memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
    )  # fmt: skip
    assert memory_kills(*first) == (3, first[0] / "memory/./memory.oom_control")
    # The root of a whole machine has no such file: there the machine's count is its own.
    bare = kernel(tmp_path / "0", entries="0::/\n", **machine)
    assert memory_kills(*bare) == (9, bare[1] / "vmstat")
    assert memory_kills(*kernel(tmp_path / "none", entries="0::/\n")) is None
    assert memory_kills(tmp_path, tmp_path / "no-proc") is None


@pytest.mark.parametrize("status", [KILLED, 1])
def test_a_kill_that_the_kernel_counted_is_told_as_one_for_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """With status 1 it was a process of the worker: a rank, an engine."""
    (tmp_path / "log.txt").write_text("its last line\n", encoding="utf-8")
    counter = tmp_path / "memory.events"
    monkeypatch.setattr(endings, "memory_kills", lambda: MemoryKills(5, counter))
    text = str(failure_of(tmp_path, status, before=MemoryKills(4, counter)))
    assert f"the kernel killed 1 for want of memory ({counter}): out of memory: lower" in text
    assert ("its last line" in text) == (status == 1)
    # A count that did not rise, or of another group, says nothing of the kind.
    for before in (MemoryKills(5, counter), MemoryKills(4, tmp_path / "other")):
        text = str(failure_of(tmp_path, status, before=before))
        assert "the kernel killed" not in text
        if status == KILLED:
            assert "counts no kill for want of memory" in text and "lower" in text


def test_where_the_kernel_counts_nothing_a_kill_is_most_likely_for_memory(tmp_path: Path) -> None:
    error = failure_of(tmp_path, KILLED)
    assert isinstance(error, EngineError)
    assert "stage zero: killed from outside, most likely out of memory: lower" in str(error)


def test_a_fork_server_that_has_gone_is_told_with_how_it_ended(tmp_path: Path) -> None:
    text = str(failure_of(tmp_path, 255, server=KILLED))
    assert text.startswith("stage zero: the process that workers are forked from was killed")
    assert out_of_memory("sft", Machine()) in text
    text = str(failure_of(tmp_path, 255, server=-signal.SIGTERM))
    assert "ended with status -15" in text and "start again" in text


def test_a_failure_that_a_worker_told_keeps_its_words_and_kind(tmp_path: Path) -> None:
    error = failure_of(tmp_path, 2, message={"kind": "ArtifactError", "message": "x: differs"})
    assert isinstance(error, ArtifactError) and str(error) == "stage zero: x: differs"


def test_a_silent_failure_shows_the_logs_end_or_says_that_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log.txt").write_text("\n".join(map(str, range(40))), encoding="utf-8")
    text = str(failure_of(tmp_path, 1))
    assert "status 1" in text and text.endswith("38\n39") and "\n27" not in text
    monkeypatch.setattr(endings, "free_gib", lambda path: 0.0)
    assert "is full: make room" in str(failure_of(tmp_path, 1))


def wait_for(is_so: object, expected: object) -> None:
    end = time.monotonic() + 20
    while is_so() != expected:  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_stopped_process_and_a_stopped_child_are_told_from_those_that_run() -> None:
    command = [sys.executable, "-c", "import subprocess\nsubprocess.run(['sleep', '60'])"]
    process = subprocess.Popen(command, start_new_session=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        wait_for(lambda: bool(children.read_text()), True)
        child = int(children.read_text())
        assert stopped_process(process.pid) is None
        for pid in (process.pid, child):
            os.kill(pid, signal.SIGSTOP)
            wait_for(lambda: stopped_process(process.pid), pid)
            os.kill(pid, signal.SIGCONT)
            wait_for(lambda: stopped_process(process.pid), None)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert stopped_process(process.pid) is None


def test_how_a_child_ended_is_seen_without_reaping_it() -> None:
    process = subprocess.Popen(["sleep", "60"])
    assert end_of(process.pid) is None
    process.kill()
    wait_for(lambda: end_of(process.pid), KILLED)
    assert process.wait() == KILLED
    # Somebody has reaped it, so nobody knows how it ended.
    assert end_of(process.pid) == KILLED
    process = subprocess.Popen(["sh", "-c", "exit 3"])
    wait_for(lambda: end_of(process.pid), 3)
    assert process.wait() == 3


def own_group() -> Path | None:
    """The folder of this process's memory group, version 1, where groups can be made below it."""
    kills = memory_kills()
    if kills is None or kills.file.name != "memory.oom_control":
        return None
    return kills.file.parent if os.access(kills.file.parent, os.W_OK) else None


TAKES_TOO_MUCH = """
import os, sys
from pathlib import Path
from factory.building.launch.endings import memory_kills

group = Path(sys.argv[1])
(group / "cgroup.procs").write_text(str(os.getpid()))
before = memory_kills()
child = os.fork()
if child == 0:
    Path("/proc/self/oom_score_adj").write_text("1000")
    held = bytearray(os.urandom(1 << 20)) * 400
    os._exit(0)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
after = memory_kills()
is_same = after.file == before.file == group / "memory.oom_control"
print(status, after.number - before.number, is_same)
(group.parent / "cgroup.procs").write_text(str(os.getpid()))
"""


@pytest.mark.skipif(own_group() is None, reason="no writable memory group of version 1 here")
def test_a_real_kill_of_a_group_with_too_little_memory_is_counted() -> None:
    parent = own_group()
    assert parent is not None
    group = parent / f"factory-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(200 << 20))
        (group / "memory.swappiness").write_text("0")  # else it would be swapped out, not killed
        command = [sys.executable, "-c", TAKES_TOO_MUCH, str(group)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
        assert done.stdout.split() == ["-9", "1", "True"], done.stderr
    finally:
        group.rmdir()
