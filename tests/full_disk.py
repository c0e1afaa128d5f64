"""Builds on a disk that fills up: `full_disk.py FOLDER`, in a fork that has its imports done.

The disk is a file system in memory that this process mounts at FOLDER, in a user and mount
namespace of its own, so it takes no privileges. It has less room than the build needs, then a
little more, at twenty points of the bytes that it writes and of the files that it makes. Prints as
JSON how each build ended, and what an undisturbed one and the last one made.
"""

import ctypes
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from building import MACHINE, SMOKE, sealed
from warm import become, fork

from factory.building import pipeline
from factory.trainers import checkpoints

LIBRARY = ctypes.CDLL(None, use_errno=True)
NEW_NAMES, NEW_USER, REMOUNT = 0x20000, 0x10000000, 32
ROOMY = {"size": 1 << 30, "nr_inodes": 1 << 20}
POINTS = 20
"""Of bytes and of files, in turn."""
LEAST = {"size": 2 * os.sysconf("SC_PAGESIZE"), "nr_inodes": 3}
"""Of room that a build finds at a point, beside what it had taken, times how late the point is."""


def called(name: str, *arguments: Any) -> None:
    """A function of the C library that gives 0; OSError else."""
    if getattr(LIBRARY, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def become_own_root() -> None:
    """May mount from now on, and is nobody else than before."""
    user, group = os.getuid(), os.getgid()
    called("unshare", NEW_NAMES | NEW_USER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"),
                       ("gid_map", f"{group} {group} 1")):  # fmt: skip
        Path("/proc/self", name).write_text(text, encoding="ascii")


def mount(folder: Path, *, again: bool = True, **limits: int) -> None:
    options = ",".join(f"{name}={number}" for name, number in {**ROOMY, **limits}.items())
    flags = REMOUNT if again else 0
    called("mount", b"disk", os.fsencode(folder), b"tmpfs", flags, options.encode())


def built(store: Path, machine: Path) -> tuple[int, str]:
    """(exit status, what it printed) of a build into a store."""
    command = ["factory", "build", str(SMOKE), "--until", "eval_zero", "--store", str(store)]
    command += ["--machine", str(machine), "--plain"]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "output")
        child = fork(lambda: become(command, output=output, errors=output, settings=os.environ))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return status, output.read_text(encoding="utf-8")


def contents(store: Path) -> dict[str, str]:
    return {name: artifact.manifest.content for name, artifact in sealed(store).items()}


def taken(folder: Path) -> dict[str, int]:
    """Bytes and files of the file system that a folder is on."""
    state = os.statvfs(folder)
    bytes_ = (state.f_blocks - state.f_bfree) * state.f_frsize
    return {"size": bytes_, "nr_inodes": state.f_files - state.f_ffree}


def main(disk: Path) -> None:
    # That a build, or what trains, refuses to start with so little room is held by other tests.
    pipeline.LEAST_FREE_GIB = 0.0
    checkpoints.free_gib = lambda folder: float("inf")
    machine = disk.with_suffix(".yaml")
    machine.write_text(MACHINE, encoding="utf-8")
    become_own_root()
    mount(disk, again=False)
    status, output = built(disk / "store", machine)
    if status != 0:
        raise SystemExit(output)
    made, most = contents(disk / "store"), taken(disk)
    shutil.rmtree(disk / "store")
    endings: list[tuple[str, int, str]] = []
    for _ in range(3 * POINTS):
        if len(endings) == POINTS:
            break
        limit, step = list(ROOMY)[len(endings) % 2], len(endings) // 2
        share = most[limit] * (2 * step + 1) // POINTS
        room = max(share, taken(disk)[limit] + (step + 1) * LEAST[limit])
        mount(disk, **{limit: room})
        status, output = built(disk / "store", machine)
        if status == 0:  # what an attempt leaves may take more than what is sealed in the end
            shutil.rmtree(disk / "store")
        else:
            endings.append((limit, status, output))
    mount(disk)
    status, output = built(disk / "store", machine)
    last = contents(disk / "store") if status == 0 else {}
    print(json.dumps({"endings": endings, "made": made, "last": last, "output": output}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
