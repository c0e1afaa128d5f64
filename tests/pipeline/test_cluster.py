"""Traces drawn by engines on a Ray cluster: what dies on the way changes nothing."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import psutil
import pytest
from tempting import tempting
from trace_runs import Run, Script, Stepper, inputs_of
from two_nodes import DEATHS, NODE, Patient, Refusing, Scripted, Stepping, two_nodes

from factory.core.artifacts import Inputs
from factory.core.context import Metrics
from factory.core.engines import Cluster
from factory.core.errors import EngineError
from factory.models.tiny import save_tiny_model
from factory.sampling import cluster
from factory.sampling.engine import Engine
from factory.sampling.kept import Kept
from factory.sampling.nodes import Nodes
from factory.stages.generate import run as generate

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    not find_spec("ray"), reason="Ray is not installed: make development"
)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    with two_nodes() as nodes:
        yield nodes


class OnCluster:
    """A trace run whose engines are on the test's cluster."""

    def __init__(self, run: Run, address: str, **settings: Any) -> None:
        self.run = run
        given = {"engines": 2, "blocks": 4, **settings}
        drawing = "full" if run.machine.drawing == "full" else "exact"
        run.machine = run.machine.model_copy(
            update={"cluster": Cluster(address=address, **given), "drawing": drawing}
        )

    def here(self, engine: type) -> dict[str, float]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cluster, "Engine", engine)
            return self.run.here()

    @property
    def notes(self) -> str:
        return self.run.events.getvalue()

    @property
    def figures(self) -> Metrics:
        return self.run.figures


def expect_deaths(inputs: Inputs, *names: str) -> Path:
    """Deaths of a run's engines, see `two_nodes.Scripted`."""
    folder = inputs["model"].path.parent / DEATHS
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


SETTINGS = {"samples": 8, "sampling": {"max_new_tokens": 60, "loop": {}}}


def scripted_here(folder: Path, inputs: Inputs, **settings: Any) -> Run:
    """The same run with the scripted engine in this process."""
    run = Run(folder, inputs, block=8, **settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "open_sampler", lambda *_, **__: Script())
        run.here()
    return run


def test_real_samples_are_those_of_a_run_here(nodes: Any, one_thread: None, tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model", "llama", hidden=32, seed=3)
    inputs = inputs_of(tmp_path / "inputs", problems=12, model=model)
    settings = {"samples": 4, "sampling": {"max_new_tokens": 16}}
    here = Run(tmp_path / "here", inputs, block=8, **settings)
    here.here()
    run = Run(tmp_path / "there", inputs, block=8, **settings)
    there = OnCluster(run, nodes.address, engines=1)
    there.here(Engine)
    assert there.run.bytes() == here.bytes()
    assert len(there.run.traces()) == 48


def test_deaths_without_end_stop_the_stage_and_cost_no_finished_block(
    nodes: Any, tmp_path: Path
) -> None:
    inputs = inputs_of(tmp_path / "inputs", problems=8)
    here = scripted_here(tmp_path / "here", inputs, **SETTINGS)
    run = Run(tmp_path / "there", inputs, block=8, **SETTINGS)
    there = OnCluster(run, nodes.address, engines=1, blocks=8, restarts=1)
    expect_deaths(inputs, "first", "second")
    with pytest.raises(EngineError) as caught:
        there.here(Scripted)
    message = str(caught.value)
    assert f"cluster {nodes.address}: no engine is left; finished blocks are kept" in message
    assert "engine 1 on node 127.0.0.1/" in message
    assert "worker process has died" in message
    assert "1 engines were started anew before, and cluster.restarts allows no more" in message
    # Each of the two processes finished one of the eight blocks and died in its second.
    (kept,) = run.scratch.glob("cluster-blocks-*.jsonl")
    assert len(kept.read_bytes().splitlines()) == 16
    there.here(Scripted)
    assert there.figures["cluster_most_blocks"] == 6
    assert run.bytes() == here.bytes()


FAULTS = {
    "raises twice": ("raise-a", "raise-b"),
    "raises when it opens": ("open-raise",),
    "hangs": ("hang",),
    "dies twice": ("a", "b"),
    "all of it": ("a-raise", "b-hang", "c", "open-raise"),
}


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
def test_faults_of_engines_change_no_byte_and_cost_no_more_than_the_deadline(
    nodes: Any, tmp_path: Path, faults: tuple[str, ...]
) -> None:
    inputs = inputs_of(tmp_path / "inputs", problems=10)
    here = scripted_here(tmp_path / "here", inputs, **SETTINGS)
    run = Run(tmp_path / "there", inputs, block=8, **SETTINGS)
    deadline = 4.0
    there = OnCluster(run, nodes.address, block_seconds=deadline)
    due = expect_deaths(inputs, *faults)
    began = time.monotonic()
    metrics = there.here(Scripted)
    assert time.monotonic() - began < 60
    assert list(due.iterdir()) == []
    assert run.bytes() == here.bytes()
    assert metrics["traces"] == 80
    assert there.figures["cluster_restarts"] == len(faults)
    raised = sum("raise" in name for name in faults)
    assert there.notes.count("RuntimeError: ") == raised
    assert there.notes.count("no answer for a block in 4 seconds") == sum(
        "hang" in name for name in faults
    )
    assert sum(map(int, re.findall(r": (\d+) blocks", there.notes))) == 10


def streamed_here(folder: Path, inputs: Inputs, **settings: Any) -> Run:
    """The same run with the engine that streams in this process."""
    run = Run(folder, inputs, drawing="full", **settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "open_sampler", lambda *_, **__: Stepper(8))
        run.here()
    return run


STREAMED = {"samples": 8, "enough": 2, "length_stops": {"retry": 90}, **SETTINGS}


def test_streams_on_a_cluster_give_the_same_traces_through_faults_of_engines(
    nodes: Any, tmp_path: Path
) -> None:
    inputs = inputs_of(tmp_path / "inputs", problems=60)
    here = streamed_here(tmp_path / "here", inputs, **STREAMED)
    run = Run(tmp_path / "there", inputs, drawing="full", **STREAMED)
    there = OnCluster(run, nodes.address, block_seconds=4.0)
    due = expect_deaths(inputs, "a-raise", "b-hang", "c", "open-raise")
    metrics = there.here(Stepping)
    assert list(due.iterdir()) == []
    assert run.bytes() == here.bytes()
    assert metrics["problems"] == 60
    assert there.figures["cluster_restarts"] >= 4
    assert there.notes.count("RuntimeError: ") == 2
    assert "no answer for a request in 4 seconds" in there.notes


def test_a_stream_that_every_engine_fails_with_ends_the_stage_and_goes_on_later(
    nodes: Any, tmp_path: Path
) -> None:
    inputs = inputs_of(tmp_path / "inputs", problems=30)
    here = streamed_here(tmp_path / "here", inputs, **SETTINGS)
    run = Run(tmp_path / "there", inputs, drawing="full", **SETTINGS)
    there = OnCluster(run, nodes.address, engines=1, retries=1)
    expect_deaths(inputs, "a-raise", "b-raise")
    with pytest.raises(EngineError, match="one request failed 2 times, and cluster"):
        there.here(Stepping)
    kept = (run.scratch / "traces.jsonl").read_bytes()
    assert 0 < len(kept.splitlines()) < 240
    there.here(Stepping)
    assert run.bytes() == here.bytes()
    assert (run.scratch / "traces.jsonl").read_bytes().startswith(kept)
    assert there.figures["cluster_most_requests"] == 240 - len(kept.splitlines())


def test_an_engine_that_always_raises_is_given_up_and_the_other_draws_all(
    nodes: Any, tmp_path: Path
) -> None:
    inputs = inputs_of(tmp_path / "inputs", problems=10)
    here = scripted_here(tmp_path / "here", inputs, **SETTINGS)
    run = Run(tmp_path / "there", inputs, block=8, **SETTINGS)
    there = OnCluster(run, nodes.address, retries=0)
    expect_deaths(inputs, "open-raise")
    there.here(Scripted)
    assert run.bytes() == here.bytes()
    assert " is given up: RuntimeError: open-raise: as the test told me" in there.notes
    assert there.figures["cluster_fewest_blocks"] == 0


def test_a_block_with_which_every_engine_fails_ends_the_stage_with_all_reasons(
    nodes: Any, tmp_path: Path
) -> None:
    inputs = inputs_of(tmp_path / "inputs", problems=4)
    run = Run(tmp_path / "there", inputs, block=8, **SETTINGS)
    there = OnCluster(run, nodes.address, engines=1, retries=1)
    with pytest.raises(EngineError) as caught:
        there.here(Refusing)
    message = str(caught.value)
    assert "one block failed 2 times, and cluster.retries allows 1" in message
    assert message.count("RuntimeError: call 1") == 2


def test_a_node_that_joins_late_takes_part(
    nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node has room for one engine of two cores; the third node comes with the first block."""
    inputs = inputs_of(tmp_path / "inputs", problems=12)
    here = scripted_here(tmp_path / "here", inputs, **SETTINGS)
    run = Run(tmp_path / "there", inputs, block=8, **SETTINGS)
    there = OnCluster(run, nodes.address, engines=3, cores=2, blocks=12)
    late: list[Any] = []
    keep = Kept.add

    def join_after_a_block(self: Kept, completions: Any) -> None:
        keep(self, completions)
        if not late:
            late.append(nodes.add_node(**NODE))

    monkeypatch.setattr(Kept, "add", join_after_a_block)
    try:
        there.here(Patient)
    finally:
        for node in late:
            nodes.remove_node(node)
    assert run.bytes() == here.bytes()
    assert "room for 2: each takes 2 CPU; " in there.notes
    assert "; the others start when nodes join" in there.notes
    assert f"on node 127.0.0.1/{late[0].node_id[:8]}: " in there.notes
    assert there.figures["cluster_nodes"] == 3
    assert there.figures["cluster_fewest_blocks"] > 0


def test_more_engines_than_this_machine_has_room_for_are_refused_with_what_there_is() -> None:
    settings = Cluster(address="local", engines=3, cores=2)
    there_is = {
        "Alive": True,
        "NodeManagerAddress": "n",
        "NodeID": "a" * 9,
        "Resources": {"CPU": 4.0},
    }
    nodes = object.__new__(Nodes)
    nodes._settings = settings
    nodes.ray = cast(ModuleType, SimpleNamespace(nodes=lambda: [there_is]))
    message = (
        r"cluster\.engines is 3.*room for 2: each takes 2 CPU; .*with 4 CPU, 0 GPU; ask for fewer"
    )
    with pytest.raises(EngineError, match=message):
        nodes.await_room({"CPU": 2})


def test_a_node_that_sees_another_model_is_named(
    nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = inputs_of(tmp_path / "inputs", problems=1)
    monkeypatch.setattr(cluster, "file_sizes", lambda folder: {"model.safetensors": 5})
    run = Run(tmp_path / "there", inputs, samples=1)
    message = r"engine \d: node 127\.0\.0\.1/\w{8}: .*/model\.safetensors is missing, not 5 bytes"
    with pytest.raises(EngineError, match=message):
        OnCluster(run, nodes.address, engines=1).here(Scripted)


# The last one on the two nodes, since it leaves one of them.
def test_a_killed_engine_and_a_lost_node_change_no_byte(nodes: Any, tmp_path: Path) -> None:
    inputs = inputs_of(tmp_path / "inputs", problems=40)
    here = scripted_here(tmp_path / "here", inputs, **SETTINGS)
    run = Run(tmp_path / "there", inputs, block=8, **SETTINGS)
    # One engine fits on each node; the place of the lost one stays empty.
    there = OnCluster(run, nodes.address, engines=2, cores=2)
    (lost,) = nodes.worker_nodes
    due = expect_deaths(inputs, "engine", f"node-{lost.node_id[:8]}")
    metrics = there.here(Scripted)
    assert list(due.iterdir()) == []
    assert there.run.bytes() == here.bytes()
    assert metrics["traces"] == 320
    assert there.notes.count("was lost: ") == 2
    assert f"on node 127.0.0.1/{lost.node_id[:8]} was lost: " in there.notes
    assert there.figures["cluster_engines"] == 2
    assert there.figures["cluster_restarts"] == 2
    # Every block is drawn to its end once.
    assert sum(map(int, re.findall(r": (\d+) blocks", there.notes))) == 40


ALONE = """
import os, sys
from pathlib import Path
from trace_runs import Script
from two_nodes import Scripted
from factory.core.engines import Cluster
from factory.core.machine import Machine
from factory.core.records import SamplingConfig
from factory.sampling import Request, cluster

cluster.Engine = Scripted
settings = Cluster(address="local", engines=1)
sampler = cluster.ClusterSampler(
    Path(sys.argv[1]) / "model", Machine(device="cpu", block=2, cluster=settings), settings,
    max_length=8, mean_length=8, scratch=Path(sys.argv[1]),
)
requests = [Request((number,), number) for number in range(4)]
sampling = SamplingConfig(max_new_tokens=8)
script = Script()
wanted = [one for at in (0, 2) for one in script.sample(requests[at : at + 2], sampling)]
assert sampler.sample(requests, sampling) == wanted
assert "RAY_AUTH_TOKEN" not in os.environ
print("drawn", flush=True)
sys.stdin.read()
"""


def test_a_cluster_of_one_machine_is_reached_from_it_alone_and_dies_with_its_stage(
    tmp_path: Path,
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="alone-"))
    (tmp_path / "model").mkdir()
    ran = tempting(tmp_path / "user")
    given = {
        "TMPDIR": str(folder), "HOME": str(tmp_path), "HF_TOKEN": "hf_secretsecret",
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests"))),
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", ALONE, str(tmp_path)], cwd=tmp_path / "user",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **given},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert "drawn\n" in iter(process.stdout.readline, "")
        own = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        listening = {
            connection.laddr.ip.removeprefix("::ffff:")
            for each in own
            for connection in each.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
        (raylet,) = [each for each in own if each.name() == "raylet"]
        token = raylet.environ()["RAY_AUTH_TOKEN"]
        assert any(each.name() == "gcs_server" for each in own)
        # Two helpers of the raylet try for a minute to tell the others of its end.
        helpers = [
            connection
            for connection in own
            if connection.name() in ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
        ]
        assert len(helpers) == 2
    finally:
        process.kill()
        process.communicate()
    _, alive = psutil.wait_procs([each for each in own if each not in helpers], timeout=30)
    assert alive == []
    assert not ran.exists(), ran.read_text()
    for helper in helpers:
        with suppress(psutil.NoSuchProcess):
            helper.kill()
    logs = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "raylet.out" for path in logs)
    for path in logs:
        data = path.read_bytes()
        assert token.encode() not in data and b"hf_secretsecret" not in data, path
    assert not (tmp_path / ".ray").exists()
    shutil.rmtree(folder)
