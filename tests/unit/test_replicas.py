"""Servers that a stage starts for itself: shares, a key, one that ends, one that never comes up.

The server is a stand-in, but in the last test, which runs vLLM's own with FACTORY_LONG_TESTS=1.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from building import wait_until_gone

from factory.building.recipe import load_machine
from factory.core.engines import Replicas
from factory.core.errors import EngineError, RecipeError
from factory.core.machine import Machine
from factory.core.records import SamplingConfig
from factory.models.tiny import save_tiny_model
from factory.sampling import Request, open_sampler, replicas

SAMPLING = SamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=8)
REQUESTS = [Request((5, number), seed=number) for number in range(11)]
SCRIPT = Path(__file__).resolve().parents[1] / "replica_server.py"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def command(model: str, name: str, machine: Machine, *, port: int, **rest: Any) -> list[str]:
        number = len(list(tmp_path.glob("scratch/replica-*")))
        return [sys.executable, str(SCRIPT), str(tmp_path / f"scratch/replica-{number}"), str(port)]

    monkeypatch.setattr(replicas, "server_command", command)
    monkeypatch.setattr(replicas, "find_spec", lambda name: True)
    monkeypatch.delenv(replicas.KEY_NAME, raising=False)
    save_tiny_model(tmp_path / "model", "llama", hidden=32)
    return tmp_path


def opened(folder: Path, notes: list[str], **settings: Any) -> Any:
    machine = Machine(device="cpu", threads=1, replicas=Replicas(**{"count": 2, **settings}))
    scratch = folder / "scratch"
    return open_sampler(
        folder / "model", machine, max_length=64, on_cluster=True, scratch=scratch,
        notify=notes.append,
    )  # fmt: skip


def test_servers_share_what_is_drawn_and_end_with_the_sampler(folder: Path) -> None:
    sampler = opened(folder, [])
    answers = sampler.sample(REQUESTS, SAMPLING)
    assert [answer.text for answer in answers] == [f"{5 + n} {n}" for n in range(11)]
    assert [answer.logprobs for answer in answers] == [(-0.5,)] * 11
    kept = sorted(folder.glob("scratch/replica-*/endpoint-answers-*.jsonl"))
    assert [len(path.read_bytes().splitlines()) for path in kept] == [6, 5]
    processes = sampler._processes
    sampler.close()
    assert all(process.poll() is not None for process in processes)
    wait_until_gone([*engines(folder)])


def test_the_share_of_a_server_that_ends_goes_to_the_others(folder: Path) -> None:
    (folder / "scratch" / "replica-2").mkdir(parents=True)
    notes: list[str] = []
    # The folder of the second one is there already, so both are told apart by hand.
    sampler = opened_in_order(folder, notes)
    (folder / "scratch" / "replica-2" / "die").touch()
    answers = sampler.sample(REQUESTS, SAMPLING)
    assert [answer.text for answer in answers] == [f"{5 + n} {n}" for n in range(11)]
    assert any("the others draw its share" in note for note in notes)
    first, second = engines(folder)
    wait_until_gone([second])  # as a GPU's memory must be
    os.kill(first, 0)
    (folder / "scratch" / "replica-1" / "die").touch()
    with pytest.raises(EngineError, match="no server is left"):
        sampler.sample([Request((7, n), seed=n) for n in range(9)], SAMPLING)
    sampler.close()


def engines(folder: Path) -> list[int]:
    """What each server has started, by its number."""
    return [int(path.read_text()) for path in sorted(folder.glob("scratch/replica-*/engine"))]


def test_servers_and_their_engines_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys; from factory.core.interpreter import *;"
        "words = module_command('factory.sampling.keeper', *sys.argv[1:]);"
        "subprocess.Popen(words, preexec_fn=die_with_parent).wait()"
    )
    server = [sys.executable, str(SCRIPT), str(tmp_path), "0"]
    stage = subprocess.Popen([sys.executable, "-c", code, *server])
    path = tmp_path / "engine"
    end = time.monotonic() + 60
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < end
        time.sleep(0.05)
    stage.kill()
    stage.wait()
    wait_until_gone([int(path.read_text())])


def opened_in_order(folder: Path, notes: list[str]) -> Any:
    numbers = iter((1, 2))

    def command(model: str, name: str, machine: Machine, *, port: int, **rest: Any) -> list[str]:
        own = folder / "scratch" / f"replica-{next(numbers)}"
        return [sys.executable, str(SCRIPT), str(own), str(port)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replicas, "server_command", command)
        return opened(folder, notes)


def test_a_server_that_does_not_come_up_is_told_with_its_last_words(folder: Path) -> None:
    (folder / "scratch" / "replica-1").mkdir(parents=True)
    (folder / "scratch" / "replica-1" / "never").touch()
    with pytest.raises(
        EngineError, match=r"replica-1: the server ended with status 4.*\nno memory"
    ):
        opened(folder, [], count=1)
    (folder / "scratch" / "replica-1" / "never").rename(folder / "scratch" / "replica-1" / "slow")
    with pytest.raises(EngineError, match=r"did not answer in 1 seconds"):
        opened(folder, [], count=1, start_seconds=1.0)


def test_each_server_has_gpus_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "takes_gpu", lambda self: self.device != "cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4,5,6,7")
    machine = Machine(device="cuda", tensor_parallel=2)
    assert replicas._devices(machine, Replicas()) == ["3,4", "5,6"]
    assert replicas._devices(machine, Replicas(count=1)) == ["3,4"]
    with pytest.raises(EngineError, match="3 servers of 2 GPUs, and there are 5 GPUs"):
        replicas._devices(machine, Replicas(count=3))
    assert replicas._devices(Machine(device="cpu"), Replicas()) == [None]


def test_a_machine_draws_in_one_way(tmp_path: Path) -> None:
    path = tmp_path / "machine.yaml"
    path.write_text("device: cpu\ncluster: {engines: 1}\nreplicas: {count: 1}\n")
    with pytest.raises(RecipeError, match="cluster and replicas both say who draws"):
        load_machine(path)


def test_the_key_is_in_no_file(folder: Path) -> None:
    sampler = opened(folder, [], count=1)
    sampler.sample(REQUESTS[:2], SAMPLING)
    sampler.close()
    key = os.environ[replicas.KEY_NAME].encode()
    assert all(key not in path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.vllm
@pytest.mark.skipif(
    not os.environ.get("FACTORY_LONG_TESTS"),
    reason="two servers of vLLM take minutes to start: FACTORY_LONG_TESTS=1",
)
def test_servers_of_vllm_draw_what_an_engine_here_draws_also_when_one_is_killed(
    tmp_path: Path,
) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    model = save_tiny_model(tmp_path / "model", "llama", hidden=64, seed=3)
    alone = Machine(device="cpu", dtype="float32", threads=1, engine="transformers")
    served = alone.model_copy(update={"replicas": Replicas(count=2)})
    greedy = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=8)
    requests = [Request((5 + number, 9, 12), seed=number) for number in range(40)]
    wanted = open_sampler(model, alone, max_length=64).sample(requests, greedy)
    notes: list[str] = []
    sampler: Any = open_sampler(
        model, served, max_length=64, on_cluster=True, scratch=tmp_path, notify=notes.append
    )
    try:
        answers = sampler.sample(requests, greedy)
        (server,) = psutil.Process(sampler._processes[0].pid).children()
        started = server.children(recursive=True)
        server.kill()
        more = [Request((40 + number, 9, 12), seed=number) for number in range(4)]
        assert len(sampler.sample(more, greedy)) == 4
        assert psutil.wait_procs(started, timeout=30)[1] == []
    finally:
        sampler.close()
    # A server keeps bytes to itself that are no character yet, a random model writes many.
    texts = [own.text for own in wanted if "\ufffd" not in own.text]
    pairs = zip(answers, wanted, strict=True)
    assert [answer.text for answer, own in pairs if "\ufffd" not in own.text] == texts
    assert len(set(texts)) > 2
    assert any("the others draw its share" in note for note in notes)
