"""Control groups of runs: where they can be made, what they are given, what they count.

Most of it on a tree of files that stands for the kernel's; the last tests on the kernel itself,
where it lets us.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from factory.grading import groups
from factory.grading.groups import Group, hard, home, own_group, run_group, suitable
from factory.grading.sandbox import Sandbox
from factory.grading.watching import Limits

FILES = ("cgroup.procs", "cgroup.controllers", "cgroup.kill", "cpu.stat")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root of groups in which a folder that is made fills itself, as the kernel's do."""

    def made(parent: Path) -> Group | None:
        folder = parent / f"{groups.PREFIX}{os.getpid()}-0"
        return Group(group_in(folder))

    monkeypatch.setattr(groups, "_made", made)
    monkeypatch.setattr(Group, "remove", lambda self: shutil.rmtree(self.folder))
    return group_in(tmp_path / "cgroup", controllers="memory pids cpu", is_root=True)


def group_in(folder: Path, *, controllers: str | None = None, is_root: bool = False) -> Path:
    """A group's folder; it has the controllers that the one above hands on."""
    folder.mkdir()
    handed = folder.parent / "cgroup.subtree_control"
    given = controllers or (handed.read_text() if handed.exists() else "")
    for name in (*FILES, "cgroup.subtree_control", *([] if is_root else ["cgroup.type"])):
        (folder / name).touch()
    (folder / "cgroup.controllers").write_text(given)
    for name in given.split():
        for file in {"memory": ("memory.max", "memory.swap.max", "memory.oom.group",
                                "memory.events"), "pids": ("pids.max",)}.get(name, ()):  # fmt: skip
            (folder / file).touch()
    return folder


def hands_on(folder: Path, text: str) -> None:
    (folder / "cgroup.subtree_control").write_text(text)


def test_beside_ours_where_only_the_group_above_hands_on_memory(root: Path) -> None:
    hands_on(root, "memory pids")
    above = group_in(root / "app.slice")
    hands_on(above, "memory pids")
    own = group_in(above / "shell.scope")
    assert suitable(own, lambda group: True) == above
    assert hard(above) == ["memory", "processes", "processor time", "the end"]


def test_below_ours_where_it_hands_on_memory_itself(root: Path) -> None:
    hands_on(root, "memory pids")
    own = group_in(root / "delegated")
    hands_on(own, "memory pids")
    assert suitable(own, lambda group: True) == own


def test_nowhere_if_nobody_hands_on_memory(root: Path) -> None:
    own = group_in(group_in(root / "slice") / "scope")
    assert suitable(own, lambda group: True) is None
    assert hard(own) == ["processor time", "the end"]
    assert not list(root.rglob(f"{groups.PREFIX}*"))


def test_nowhere_if_no_process_may_be_moved(root: Path) -> None:
    own = group_in(root / "scope")
    assert suitable(own, lambda group: False) is None
    assert not list(root.rglob(f"{groups.PREFIX}*"))


def test_the_folder_above_the_mount_is_no_group(root: Path) -> None:
    parents: list[Path] = []
    suitable(root, lambda group: parents.append(group.folder.parent) or True)
    assert parents == [root]


def test_a_run_is_given_its_limits_and_a_margin_above_what_is_looked_at(root: Path) -> None:
    hands_on(root, "memory pids")
    group = Group(group_in(root / "run"))
    group.bound(1024, 64)
    written = {name: (group.folder / name).read_text() for name in
               ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max")}  # fmt: skip
    assert written == {
        "memory.max": str(1088 * 2**20), "memory.swap.max": "0", "memory.oom.group": "1",
        "pids.max": "80",
    }  # fmt: skip
    assert not group.was_overfilled()
    (group.folder / "memory.events").write_text("low 0\nmax 7\noom 1\noom_kill 1\n")
    (group.folder / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    assert (group.was_overfilled(), group.seconds()) == (True, 1.5)


@pytest.mark.parametrize(
    ("group", "mounts", "expected"),
    [
        ("0::/a/b", "30 1 0:1 / /sys/fs/cgroup rw - cgroup2 c rw", "/sys/fs/cgroup/a/b"),
        ("4:memory:/x\n0::/", "30 1 0:1 / /sys/fs/cgroup/unified rw - cgroup2 c rw",
         "/sys/fs/cgroup/unified"),
        ("0::/a/b", "30 1 0:1 /a /mnt rw - cgroup2 c rw", "/mnt/b"),
        ("0::/../other", "30 1 0:1 / /sys/fs/cgroup rw - cgroup2 c rw", None),
        ("4:memory:/x", "30 1 0:1 / /sys/fs/cgroup/memory rw - cgroup c rw", None),
        ("", "", None),
    ],
)  # fmt: skip
def test_our_group_is_where_it_is_mounted(
    group: str, mounts: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {Path("/proc/self/cgroup"): group, Path("/proc/self/mountinfo"): mounts}
    monkeypatch.setattr(groups, "_read", lambda path: files.get(path, ""))
    assert own_group() == (None if expected is None else Path(expected))


def test_where_no_group_may_be_made_a_run_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "home", lambda: None)
    with run_group(1024, 64) as group:
        assert group is None


def test_a_group_that_cannot_be_entered_stops_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "home", lambda: tmp_path)  # folders, and no groups
    finished = Sandbox(is_isolated=False).run(["/bin/echo", "1"], files={})
    assert (finished.status, finished.stdout) == (0, b"1\n")


def is_at_work(pid: str) -> bool:
    """Whether a process is there and no zombie: who reaps it may take its time."""
    try:
        return ") Z" not in Path("/proc", pid, "stat").read_text()
    except OSError:
        return False


def counting() -> Path | None:
    """Where this user may make groups, of memory or not."""
    own = own_group()
    group = None if own is None else groups._made(own)
    if group is None:
        return None
    is_open = groups._takes_processes(group)
    group.remove()
    return own if is_open else None


COUNTING = counting()
needs_groups = pytest.mark.skipif(COUNTING is None, reason="no control group may be made here")


@needs_groups
def test_all_of_a_run_is_counted_and_killed_also_what_left_its_parents(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(groups, "home", lambda: COUNTING)
    program = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"  # its children's time is dropped
        "for _ in range(4):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        end = time.process_time() + 0.05\n"
        "        while time.process_time() < end: pass\n"
        "        os._exit(0) if _ else time.sleep(600)\n"
        "time.sleep(600)\n"
    )
    with run_group(256, 64) as group:
        assert group is not None
        process = subprocess.Popen([sys.executable, "-c", program], preexec_fn=group.enter)
        end = time.monotonic() + 60
        while group.seconds() < 0.2:
            assert time.monotonic() < end
            time.sleep(0.01)
        members = (group.folder / "cgroup.procs").read_text().split()
        assert str(process.pid) in members and len(members) >= 2
    assert process.wait(60) == -9
    assert not group.folder.exists()
    assert not any(map(is_at_work, members))


@needs_groups
def test_time_that_the_kernel_drops_counts_where_a_group_counts_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(groups, "home", lambda: COUNTING)
    program = (
        "import os, signal\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "while True:\n"
        "    if os.fork() == 0:\n"
        "        sum(range(10**4))\n"
        "        os._exit(0)\n"
    )
    limits = Limits(seconds=0.5)
    finished = Sandbox(is_isolated=False).run(["/usr/bin/env", "-i", sys.executable, "-c", program],
                                              files={}, limits=limits)  # fmt: skip
    assert finished.timed_out and finished.processor > 0.5


@pytest.mark.skipif("memory" not in hard(home()), reason="no group here is given memory")
def test_memory_between_two_looks_is_bounded_by_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.grading.watching.LOOK_SECONDS", 600.0)  # nothing is looked at
    program = (
        "import os, time\n"
        "for _ in range(12):\n"
        "    if os.fork() == 0: block = bytearray(os.urandom(1 << 20)) * 50; time.sleep(600)\n"
        "time.sleep(600)\n"
    )
    limits = Limits(memory_mib=256, seconds=60)
    command = ["/usr/bin/env", "-i", sys.executable, "-c", program]
    finished = Sandbox(is_isolated=False).run(command, files={}, limits=limits)
    assert finished.overfilled and finished.status is None
