"""What a cluster needs is checked, and refused with what to do, before an engine is asked."""

import socket
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from factory import sampling
from factory.building.launch import engines
from factory.building.launch.engines import with_engines
from factory.core.engines import Cluster
from factory.core.errors import EngineError
from factory.core.machine import Machine
from factory.core.slurm import Slurm
from factory.models.tiny import save_tiny_model
from factory.sampling import cluster, engine, nodes, open_sampler
from factory.sampling.nodes import Nodes, fitting


@pytest.mark.parametrize("address", ["local", "slurm", "10.0.0.1:6379", "head.example:6379"])
def test_an_address_is_a_host_with_its_port_or_local(address: str) -> None:
    assert Cluster(address=address, engines=2).address == address


@pytest.mark.parametrize("address", ["", "auto", "10.0.0.1", "ray://10.0.0.1:10001", "a b:1"])
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(ValidationError):
        Cluster(address=address, engines=2)


def test_a_stage_asks_for_the_blocks_of_all_engines_at_once() -> None:
    assert Machine(block=32).requests_at_once == 32
    cluster = Cluster(address="local", engines=2, blocks=6)
    assert Machine(block=32, cluster=cluster).requests_at_once == 192


def test_only_who_says_so_reaches_the_cluster_whatever_folder_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ClusterSampler", lambda *_, **__: "engines of the cluster")
    settings = Cluster(address="local", engines=2)
    machine = Machine(device="cpu", threads=1, engine="transformers", cluster=settings)
    folder = save_tiny_model(tmp_path / "model", "llama", hidden=32)
    here = open_sampler(folder, machine, max_length=32, scratch=tmp_path)
    assert here.name == "transformers"
    there = open_sampler(folder, machine, max_length=32, scratch=tmp_path, on_cluster=True)
    assert there == "engines of the cluster"
    with pytest.raises(ValueError, match="on_cluster without scratch"):
        open_sampler(folder, machine, max_length=32, on_cluster=True)
    alone = machine.model_copy(update={"cluster": None})
    assert open_sampler(folder, alone, max_length=32, on_cluster=True).name == "transformers"


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"Ray is not installed.*'\.\[cluster\]'"):
        Nodes(Cluster(address="local", engines=1))


def test_a_head_that_does_not_answer_is_named_with_the_command_that_starts_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nodes, "find_spec", lambda name: True)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(EngineError) as caught:
            Nodes(Cluster(address=address, engines=1))
    message = str(caught.value)
    assert f"cluster.address: {address} does not answer" in message
    assert "ray start --head" in message
    assert f"ray start --address {address}" in message


@pytest.mark.parametrize(
    ("resources", "need", "count"),
    [
        ({"CPU": 8.0}, {"CPU": 2}, 4),
        ({"CPU": 7.0}, {"CPU": 2}, 3),
        ({"CPU": 64.0, "GPU": 8.0}, {"CPU": 4, "GPU": 4}, 2),
        ({"CPU": 4.0, "GPU": 8.0}, {"CPU": 4, "GPU": 1}, 1),
        ({"CPU": 64.0}, {"CPU": 4, "GPU": 1}, 0),
    ],
)
def test_a_node_has_room_for_what_each_of_its_resources_allows(
    resources: dict[str, float], need: dict[str, float], count: int
) -> None:
    assert fitting(resources, need) == count


def test_versions_that_differ_are_told_apart() -> None:
    here = {"the factory": "abc", "torch": "2.13.0", "transformers": "5.17.0"}
    assert engine.differences(here, here) == ""
    there = {**here, "torch": "2.12.0", "the factory": "abd"}
    message = "the factory is abd, not abc, torch is 2.12.0, not 2.13.0"
    assert engine.differences(here, there) == message


def test_builds_of_one_version_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "installed_version", {"torch": "2.13.0+cpu"}.get)
    assert engine.public("torch") == "2.13.0"
    assert engine.public("vllm") == "missing"


def test_a_model_that_a_node_does_not_see_alike_is_named_with_its_node(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "deeper").mkdir()
    sizes = engine.file_sizes(tmp_path)
    assert sizes == {"config.json": 2}
    engine.check_files(tmp_path, sizes, "n1")
    with pytest.raises(EngineError, match=r"node n1: .*/gone is not there; .*shared file system"):
        engine.check_files(tmp_path / "gone", sizes, "n1")
    with pytest.raises(EngineError, match=r"node n1: .*model\.safetensors is missing, not 7 bytes"):
        engine.check_files(tmp_path, {**sizes, "model.safetensors": 7}, "n1")
    with pytest.raises(EngineError, match=r"node n1: .*config\.json is 2 bytes, not 3 bytes"):
        engine.check_files(tmp_path, {"config.json": 3}, "n1")


@pytest.mark.parametrize(
    ("settings", "visible", "expected"),
    [
        ({"device": "cuda"}, "0,1,2,3", ("local", 4, 32)),
        ({"device": "auto", "tensor_parallel": 2}, "0,1,2,3,4", ("local", 2, 16)),
        ({"device": "cuda"}, "0", None),
        ({"device": "cpu"}, "0,1", None),
        ({"launcher": "accelerate", "processes": 8}, "0", ("local", 8, 64)),
        ({"launcher": "slurm", "processes": 16, "slurm": Slurm(nodes=2, gpus=8)}, "0",
         ("slurm", 16, 128)),
        ({"cluster": Cluster(address="a:1")}, "0,1", ("a:1", 2, 16)),
        ({"cluster": Cluster(address="a:1", engines=5, blocks=7)}, "0,1", ("a:1", 5, 7)),
    ],
)  # fmt: skip
def test_what_only_draws_has_an_engine_on_every_gpu(
    monkeypatch: pytest.MonkeyPatch, settings: Any, visible: str,
    expected: tuple[str, int, int] | None,
) -> None:  # fmt: skip
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(Machine, "may_take_gpu", lambda self: self.device != "cpu")
    cluster = with_engines(Machine(**settings)).cluster
    assert expected == (cluster and (cluster.address, cluster.engines, cluster.blocks))


def test_without_ray_one_engine_draws_and_the_idle_gpus_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    monkeypatch.setattr(Machine, "may_take_gpu", lambda self: True)
    monkeypatch.setattr(Machine, "takes_gpu", lambda self: False)
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    monkeypatch.setattr(sampling, "find_spec", lambda name: None)
    machine = Machine(threads=1, engine="transformers")
    assert with_engines(machine) is machine
    folder = save_tiny_model(tmp_path / "model", "llama", hidden=32)
    notes: list[str] = []
    open_sampler(
        folder, machine, max_length=32, scratch=tmp_path, on_cluster=True, notify=notes.append
    )
    assert notes == ["2 GPUs idle: engines on all of them need Ray, the extra `cluster`"]


def test_an_open_number_of_engines_without_a_gpu_is_refused() -> None:
    with pytest.raises(EngineError, match=r"cluster\.engines: left out, .* write how many"):
        with_engines(Machine(device="cpu", cluster=Cluster()))


def test_a_cluster_of_a_job_outside_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_NUM_NODES", "SLURM_NNODES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(nodes, "find_spec", lambda name: True)
    with pytest.raises(EngineError, match=r"cluster\.address: slurm, but this is no job"):
        Nodes(Cluster(address="slurm", engines=2))
