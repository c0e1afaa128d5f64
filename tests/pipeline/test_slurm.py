"""A build as a job of two nodes: told to stop, and robbed of a node, it goes on to the same bytes.

The Slurm is real, in namespaces of its own (tests/slurm/inside.sh): it needs root and Slurm's
commands, installed or unpacked by `bash tests/slurm/fetch.sh .slurm`. It builds
the first four stages of the smoke recipe, with FACTORY_LONG_TESTS=1 all of them.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from building import ROOT, sealed

from factory.building.recipe import load_recipe

FOLDER = ROOT / "tests" / "slurm"
MACHINE = """
device: cpu
dtype: float32
matmul: float32
threads: 1
engine: transformers
block: 8
micro_batch: 4
# None but those that a stop asks for.
checkpoint_steps: 100
training_pass: trl
peaks: {gflops: 100, gigabytes_per_second: 10, memory_gib: 8}
launcher: slurm
processes: 2
slurm: {nodes: 2, gpus: 1, cores: 1, time: "01:00:00", stop_seconds: 60}
cluster: {address: slurm, engines: 2}
# Compared by bytes.
drawing: exact
"""
IS_LONG = bool(os.environ.get("FACTORY_LONG_TESTS"))
SECONDS = 1800 if IS_LONG else 500
"""Of a job."""
STEPS = 40
"""Of a third of a second each: a stop and a loss must come in the middle of them."""


def tree() -> Path | None:
    """Where Slurm's files lie: in the system, or unpacked beside the tests."""
    if shutil.which("slurmctld"):
        return Path("/")
    unpacked = ROOT / ".slurm" / "tree"
    return unpacked if unpacked.is_dir() else None


def gap() -> str:
    """Why there can be no Slurm here; empty if there can."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return "needs the machine for itself: make test-slurm"
    if os.geteuid() != 0:
        return "needs root: a Slurm of its own lives in mount and network namespaces"
    if tree() is None:
        return "no Slurm: install slurm-wlm, or `bash tests/slurm/fetch.sh .slurm`"
    probe = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--net", "true"]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True).returncode:
        return "this kernel gives no namespaces"
    return ""


def inside(work: Path, *command: Any, seconds: float) -> subprocess.CompletedProcess[str]:
    """A command in a Slurm of its own."""
    own = ["unshare", "--kill-child", "--mount", "--pid", "--fork", "--mount-proc", "--net"]
    return subprocess.run(
        [*own, "bash", FOLDER / "inside.sh", work, tree() or "/", *command],
        cwd=ROOT, capture_output=True, text=True, timeout=seconds,
    )  # fmt: skip


def fault(work: Path) -> str:
    """Why three nodes do not answer to their controller in this container; empty if they do."""
    work.mkdir()
    nodes = ["bash", "-c", 'test "$(timeout 20 sinfo -h -t idle -o %D)" = 3']
    done = inside(work, *nodes, seconds=150.0)
    said = " ".join((done.stdout + done.stderr).split())
    return said[-300:] or "no word" if done.returncode else ""


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    work = tmp_path_factory.mktemp("slurm")
    machine = work / "machine.yaml"
    machine.write_text(MACHINE, encoding="utf-8")
    if message := fault(work / "trial"):
        pytest.skip(f"a Slurm of one's own does not come up here: {message}")
    # A model that answers nothing right learns to end.
    settings = [
        f"steps={STEPS}", "max_new_tokens=32", "learning_rate=1e-3",
        "rewards=[{name: overlong, weight: 1.0}]",
    ]  # fmt: skip
    options = [word for each in settings for word in ("--set", f"stages.zero.{each}")]
    orders = ["recipes/smoke.yaml", "--machine", machine, *options]
    orders += [] if IS_LONG else ["--until", "zero_traces"]
    driver = [sys.executable, FOLDER / "kill_a_node.py", work, str(SECONDS), "zero", *orders]
    done = inside(work, *driver, seconds=2.2 * SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return work, json.loads(done.stdout.splitlines()[-1])


pytestmark = [
    pytest.mark.skipif(bool(gap()), reason=gap()),
    pytest.mark.timeout(2.5 * SECONDS),  # two builds, whose ranks import all anew at each start
]


def test_a_job_that_is_told_to_stop_and_then_loses_a_node_makes_the_same_bytes(
    jobs: tuple[Path, dict[str, Any]],
) -> None:
    work, message = jobs
    assert {name: job["state"] for name, job in message.items()} == {
        "undisturbed": "COMPLETED", "stopped": "COMPLETED",
    }  # fmt: skip
    assert (message["undisturbed"]["restarts"], message["stopped"]["restarts"]) == ("0", "2")
    ours, theirs = sealed(work / "undisturbed"), sealed(work / "stopped")
    stages = load_recipe(ROOT / "recipes" / "smoke.yaml").stages.keys()
    assert ours.keys() == theirs.keys()
    assert ours.keys() == (stages if IS_LONG else {"base", "sums", "zero", "zero_traces"})
    for name, artifact in ours.items():
        assert artifact.manifest.content == theirs[name].manifest.content
    assert ours["zero"].manifest.metrics["steps"] == STEPS
    weights = [(ours[name].path / "model.safetensors").read_bytes() for name in ("base", "zero")]
    assert weights[0] != weights[1]
    assert ours["zero"].manifest.machine["processes"] == 2
    assert ours["sums"].manifest.machine["slurm"]["nodes"] == 2
    for artifacts in (ours, theirs):
        traces = artifacts["zero_traces"]
        assert traces.manifest.metrics["cluster_engines"] == 2
        log = (traces.run_path / "log.txt").read_text(encoding="utf-8")
        assert "Ray runtime started" in log  # the other node has joined


def test_a_stop_costs_no_step_and_a_lost_node_those_since_the_checkpoint(
    jobs: tuple[Path, dict[str, Any]],
) -> None:
    work, message = jobs
    output = message["stopped"]["output"]
    assert "the time limit is near: the job goes back into the queue" in output
    assert "DUE TO NODE FAILURE" in output or "a node is lost" in output
    assert (message["undisturbed"]["nodes"], message["stopped"]["nodes"]) == ("n[1-2]", "n[1,3]")
    (path,) = (work / "stopped").glob("zero-*.run/metrics.jsonl")
    events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    begins = [
        number for number, row in enumerate(events)
        if row["event"] == "progress" and not row["figures"]
    ]  # fmt: skip
    made = [sum(row["event"] == "metrics" for row in events[:begin]) for begin in begins]
    # What the stop kept is all that was made until then, and both later starts go on from there.
    kept = made[1]
    assert 0 < kept < STEPS
    assert [events[begin]["done"] for begin in begins] == [0, kept, kept]
    starts = output.split("reading recipes/smoke.yaml\n")[1:]
    assert len(starts) == 3
    assert all(f"zero: {kept} of {STEPS} steps" in start for start in starts[1:])
