"""Builds as a user starts them, in processes of their own, and what they left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from warm import WarmProgram

from factory.core.artifacts import SHORT, Artifact, open_artifact

ROOT = Path(__file__).resolve().parents[1]
SMOKE = ROOT / "recipes" / "smoke.yaml"
MACHINE = """
device: cpu
dtype: float32
matmul: float32
threads: 1
engine: transformers
block: 4
micro_batch: 4
checkpoint_steps: 1
# Stated, or every new store would be measured for seconds.
peaks: {gflops: 100, gigabytes_per_second: 10, memory_gib: 8}
"""


class Build:
    """One `factory` command that runs; its output goes to a file."""

    def __init__(
        self, store: Path, *arguments: str, verb: str = "build", recipe: Path = SMOKE,
        is_warm: bool = False, dies_at: tuple[str, str] | None = None,
    ) -> None:  # fmt: skip
        """`is_warm`: with its imports done, see warm.py; `dies_at`: where such a one is killed."""
        store.mkdir(exist_ok=True)
        machine = store / "machine.yaml"
        machine.write_text(MACHINE, encoding="utf-8")
        command = [verb, str(recipe), "--store", str(store), *arguments]
        if verb != "plan":
            command += ["--plain"]
        if verb == "build":
            command += ["--machine", str(machine)]
        self.store = store
        self.began = time.time_ns()
        self._output = store / f"output-{self.began}.txt"
        # Wide enough for a table's rows.
        wide = {"COLUMNS": "200"} | ({"DIES_AT": " ".join(dies_at)} if dies_at else {})
        self.others: list[int] = []
        """Its descendants when it was last waited for."""
        self.process: subprocess.Popen[bytes] | WarmProgram
        if is_warm:
            self.process = WarmProgram(
                ["factory", *command], output=self._output, errors=self._output, settings=wide
            )
            return
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from factory.cli import main; main()", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                start_new_session=True,
                env={**os.environ, **wide},
            )

    def finish(self, timeout: float = 500.0) -> str:
        """Wait for its end; what it printed."""
        self.others = self.descendants()
        self.process.wait(timeout)
        return self.output()

    def output(self) -> str:
        return self._output.read_text(encoding="utf-8")

    def succeed(self) -> str:
        """Wait for its end and insist that it went well."""
        text = self.finish()
        assert self.process.returncode == 0, text
        return text

    def is_running(self) -> bool:
        return self.process.poll() is None

    def workers(self) -> list[int]:
        """Processes below this one that lead a session of their own: the workers of stages."""
        leaders = _processes()[1]
        return [pid for pid in self.descendants() if pid in leaders]

    def descendants(self) -> list[int]:
        """All processes below this one: fork server, workers, and what they have started."""
        parents, below = _processes()[0], [self.process.pid]
        for item in below:
            below += [pid for pid, parent in parents.items() if parent == item]
        return below[1:]

    def fork_server(self) -> int:
        """The process whose forks the workers are."""
        parents = _processes()[0]
        return parents[self.workers()[0]]

    def wait_for_worker(self, stage: str, timeout: float = 120.0) -> list[int]:
        """Wait until a worker of this stage runs; [] if the build or the stage ended first."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if self.has_sealed(stage) or not self.is_running():
                return []
            jobs = [path.stat().st_mtime_ns for path in self.store.glob(f"{stage}-*.run/job.json")]
            if any(at > self.began for at in jobs) and (result := self.workers()):
                return result
            time.sleep(0.02)
        raise AssertionError(f"no worker of {stage} within {timeout} s:\n{self.output()}")

    def progress(self, stage: str) -> float:
        """Share of a stage's work that is done, by the newest event of its unfinished run."""
        for path in self.store.glob(f"{stage}-*.run/metrics.jsonl"):
            lines = path.read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line) for line in lines if line.endswith("}")]
            shares = [row["done"] / row["total"] for row in rows if row["event"] == "progress"]
            return shares[-1] if shares else 0.0
        return 0.0

    def has_sealed(self, stage: str) -> bool:
        return any(not path.suffix for path in self.store.glob(f"{stage}-{'?' * SHORT}"))

    def kill(self, *, whole_group: bool) -> None:
        """SIGKILL the build, alone or with every process below it; its workers must go too."""
        workers = self.workers()
        if whole_group:
            for pid in (-self.process.pid, *workers):
                _kill_if_there(pid)
        else:
            self.process.kill()
        self.process.wait()
        wait_until_gone(workers)


def wait_until_gone(pids: Sequence[int], timeout: float = 30.0) -> None:
    """Insist that these processes end."""
    end = time.monotonic() + timeout
    while alive := [pid for pid in pids if _is_alive(pid)]:
        assert time.monotonic() < end, f"workers {alive} outlive their build"
        time.sleep(0.02)


def sealed(store: Path) -> dict[str, Artifact]:
    """The sealed artifacts of a store by stage name."""
    folders = [path.parent for path in store.glob("*/manifest.json")]
    results = [open_artifact(folder) for folder in folders if not folder.suffix]
    return {artifact.name: artifact for artifact in results}


def _processes() -> tuple[dict[int, int], list[int]]:
    """(parent of every process, processes that lead a session), from /proc."""
    parents, leaders = {}, []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # pid (name) state parent group session ...; a name may hold spaces and brackets.
            fields = path.read_text(encoding="utf-8").rpartition(")")[2].split()
        except (OSError, UnicodeDecodeError):
            continue
        pid = int(path.parent.name)
        parents[pid] = int(fields[1])
        if int(fields[3]) == pid and fields[0] != "Z":
            leaders.append(pid)
    return parents, leaders


def _is_alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def _kill_if_there(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
