"""Inside the Slurm of inside.sh: a build that nobody disturbs, and one that is stopped twice.

    python kill_a_node.py WORK SECONDS STAGE RECIPE [OPTION...]

The second build hears in the middle of STAGE that its time is nearly over. Once it is back it loses
node n2 for ever, and goes on with the spare one. Prints JSON: state, restarts, nodes and output of
both jobs. SECONDS are for a job to end.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from factory.core.interpreter import program_command

SECONDS = 400.0
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


def main() -> None:
    work, seconds, stage, *orders = sys.argv[1:]
    undisturbed = submit(Path(work, "undisturbed"), orders)
    wait(lambda: state(undisturbed) in ENDED, "the undisturbed job", float(seconds))
    first = fields(undisturbed)
    store = Path(work, "stopped")
    stopped = submit(store, orders)
    wait(lambda: steps(store, stage) >= 1 or state(stopped) in ENDED, f"a step of {stage}")
    subprocess.run(["scancel", "--batch", "--signal=USR1", stopped], check=True)
    seen = go_on(stopped, store, stage)
    wait(lambda: steps(store, stage) > seen or state(stopped) in ENDED, f"another step of {stage}")
    assert state(stopped) == "RUNNING", fields(stopped)
    lose_node("n2")
    wait(lambda: state(stopped) not in ("RUNNING", "COMPLETING"), "the job to be requeued")
    go_on(stopped, store, stage)
    wait(lambda: state(stopped) in ENDED, "the stopped job", float(seconds))
    print(json.dumps({"undisturbed": first, "stopped": fields(stopped)}))


def go_on(job: str, store: Path, stage: str) -> int:
    """Start a queued job before its two minutes are over; the steps that were made.

    Not at once: a node starts no job anew while it still ends the last start of it.
    """
    wait(lambda: state(job) == "PENDING", "the job to be requeued")
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now+15"], check=True)
    return steps(store, stage)


def submit(store: Path, orders: list[str]) -> str:
    done = subprocess.run(
        program_command("submit", *orders, "--store", str(store)),
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    match = re.search(r"^job: (\d+)", done.stdout, re.MULTILINE)
    assert match, done.stdout
    return match[1]


def field(job: str, name: str) -> str:
    said = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True).stdout
    match = re.search(rf"\b{name}=(\S+)", said)
    return match[1] if match else ""


def state(job: str) -> str:
    return field(job, "JobState")


def fields(job: str) -> dict[str, str]:
    return {
        "state": state(job), "restarts": field(job, "Restarts"), "nodes": field(job, "NodeList"),
        "output": Path(field(job, "StdOut")).read_text(encoding="utf-8"),
    }  # fmt: skip


def steps(store: Path, stage: str) -> int:
    texts = [path.read_text() for path in store.glob(f"{stage}-*.run/metrics.jsonl")]
    return sum(text.count('"event": "metrics"') for text in texts)


def lose_node(name: str) -> None:
    """SIGKILL all that runs on a node: its slurmd, its steps and what they have started."""
    doomed = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            environ = (folder / "environ").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if words[1:3] == [b"-N", name.encode()]:
            doomed.append(int(folder.name))
        if f"SLURMD_NODENAME={name}".encode() in environ:
            doomed += [int(folder.name), parent]
    for pid in sorted({*doomed} - {0, 1, os.getpid()}):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    # As the controller would, once it had waited for an answer; it waits long, since a node of a
    # machine at work on other things is slow to answer and not lost.
    lost = ["scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=killed"]
    subprocess.run(lost, check=True)
    print("killed on", name, len(doomed), file=sys.stderr, flush=True)


def wait(is_so: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.5)


if __name__ == "__main__":
    main()
