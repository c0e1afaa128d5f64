"""Training in two ranks on CPUs: one world, or nothing is made."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import fine_tuning
import pytest
import test_grpo_stage
import test_pretrain_stage
from building import ROOT, sealed
from safetensors.torch import load_file
from warm import WarmProgram

from factory.building.worker import Job
from factory.core.artifacts import Inputs
from factory.core.context import Context
from factory.core.errors import EngineError
from factory.core.machine import Machine
from lab.pretrain import run as pretrain

TWO_RANKS = {"launcher": "accelerate", "processes": 2}
RECIPE = """
name: ranks
seed: 7
stages:
  base: {kind: model, source: {type: tiny, architecture: llama, hidden: 32, layers: 1}}
  sums:
    kind: problems
    sources: [{type: reasoning_gym, family: chain_sum, train: 4, held_out: 2}]
  worked: {kind: written, path: recipes/data/worked_sums.jsonl, unlike: sums}
  cold:
    {kind: sft, model: base, traces: worked, learning_rate: 1e-3, epochs: 1, batch: 8, context: 256}
"""
SETTINGS = {
    "device": "cpu", "dtype": "float32", "matmul": "float32", "threads": 1,
    "engine": "transformers", "micro_batch": 4, "checkpoint_steps": 100, "training_pass": "trl",
}  # fmt: skip


def test_a_rank_that_nobody_launched_beside_others_makes_nothing(
    tmp_path: Path, sft_inputs: Inputs
) -> None:
    """The machine asks for two ranks, this is one process: each stage stops before a step."""
    alone = "processes: 2, but rank 0 was started as one of 1 and its trainer sees 1"
    with pytest.raises(EngineError, match=alone):
        fine_tuning.stage(
            tmp_path / "sft", fine_tuning.config(), sft_inputs,
            machine=fine_tuning.MACHINE.model_copy(update=TWO_RANKS),
        )  # fmt: skip
    inputs = test_grpo_stage.make_inputs(tmp_path / "artifacts")
    with pytest.raises(EngineError, match=alone):
        test_grpo_stage.run_stage(
            test_grpo_stage.config(), inputs, tmp_path / "grpo",
            machine=test_grpo_stage.MACHINE.model_copy(update=TWO_RANKS),
        )  # fmt: skip
    machine = test_pretrain_stage.MACHINE.model_copy(update=TWO_RANKS)
    for name in ("out", "scratch"):
        (tmp_path / "pretrain" / name).mkdir(parents=True)
    context = Context(3, machine, tmp_path / "pretrain" / "scratch")
    with pytest.raises(EngineError, match=alone):
        pretrain.run(test_pretrain_stage.CONFIG, Inputs(), tmp_path / "pretrain" / "out", context)
    made = [*tmp_path.rglob("model.safetensors"), *tmp_path.rglob("telemetry.jsonl")]
    assert [path for path in made if "artifacts" not in path.parts] == []


def test_every_trainer_is_started_where_its_world_is_checked() -> None:
    files = [path for name in ("factory", "lab") for path in (ROOT / name).rglob("*.py")]
    # A Trainer's own method; modules `trainer` have a function of that name, which takes a config.
    calls = re.compile(r"^ +\w*trainer\.train\((?:resume_from_checkpoint|\))", re.MULTILINE)
    started = [path for path in files if calls.search(path.read_text(encoding="utf-8"))]
    assert started == [ROOT / "factory" / "trainers" / "running.py"]


def build(store: Path, machine: dict[str, Any], pod: dict[str, str]) -> Path:
    """The sft stage of RECIPE as a user builds it, in a shell with the variables of a pod."""
    store.mkdir()
    recipe, settings = store / "recipe.yaml", store / "machine.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    settings.write_text(json.dumps({**SETTINGS, **machine}), encoding="utf-8")
    command = ["factory", "build", str(recipe), "--machine", str(settings), "--plain"]
    output = store / "output.txt"
    program = WarmProgram(
        [*command, "--store", str(store / "store")], output=output, errors=output, settings=pod
    )
    assert program.wait(300) == 0, output.read_text(encoding="utf-8")
    return sealed(store / "store")["cold"].path


def test_two_ranks_give_the_model_of_one_in_a_pod_that_has_ranks_of_its_own(tmp_path: Path) -> None:
    """The pod says that this is rank 1 of 4 and that weights are sharded: neither is believed."""
    pod = {
        "RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1", "PET_NNODES": "4", "OMPI_COMM_WORLD_SIZE": "4",
        "ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_USE_FSDP": "true",
    }  # fmt: skip
    first = build(tmp_path / "one", {}, pod)
    two = build(tmp_path / "two", TWO_RANKS, pod)
    rows = [
        [json.loads(line) for line in (path / "telemetry.jsonl").read_text().splitlines()]
        for path in (first, two)
    ]
    assert len(rows[0]) == len(rows[1]) > 1
    for ours, theirs in zip(*rows, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
    alone, together = (load_file(path / "model.safetensors") for path in (first, two))
    assert alone.keys() == together.keys()
    assert max(float((alone[name] - together[name]).abs().max()) for name in alone) < 1e-6


def train_two_ranks(
    folder: Path, machine: dict[str, Any], settings: dict[str, Any], engine: str
) -> tuple[list[int], str]:
    """Two steps of GRPO in two ranks, with an engine of rank_with_engine.py: status and log."""
    # Four attention heads, of which two key-value heads, can be parted.
    inputs = test_grpo_stage.make_inputs(folder / "artifacts", hidden=128)
    run, out = folder / "zero.run", folder / "zero.partial"
    (run / "scratch").mkdir(parents=True)
    out.mkdir()
    config = test_grpo_stage.config(
        **{
            "prompts": 4, "steps": 2, "updates_per_rollout": 1, "reference_refresh_steps": 0,
            **settings,
        }
    )  # fmt: skip
    job = Job(
        stage="grpo", config=config.model_dump(mode="json"),
        inputs={key: str(inputs[key].path) for key in ("model", "problems")},
        out=str(out), run=str(run), seed=7, builder=os.getpid(),
        machine=Machine.model_validate({**machine, **TWO_RANKS}),
    )  # fmt: skip
    (run / "job.json").write_text(job.model_dump_json(), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {
        **os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    script = ROOT / "tests" / "rank_with_engine.py"
    with (folder / "log.txt").open("w") as log:
        ranks = [
            subprocess.Popen(
                [sys.executable, str(script), str(run / "job.json"), engine],
                cwd=ROOT, stdout=log, stderr=log,
                env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(2)
        ]  # fmt: skip
        ends = [rank.wait(400) for rank in ranks]
    return ends, (folder / "log.txt").read_text()[-3000:]


def test_an_engine_that_opens_a_group_where_it_finds_none_does_not_part_the_ranks(
    tmp_path: Path,
) -> None:
    """Each rank once trained alone on the same questions, and both wrote: a row a step too many."""
    run, out = tmp_path / "zero.run", tmp_path / "zero.partial"
    ends, log = train_two_ranks(tmp_path, SETTINGS, {}, "own group")
    assert ends == [0, 0], log
    rows = [json.loads(line) for line in (out / "telemetry.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("ranks of a launcher (2)" in row.get("text", "") for row in events)
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert result["metrics"]["steps"] == 2.0


VLLM = {**SETTINGS, "engine": "vllm", "engine_memory_gib": 0.25, "block": 32}


@pytest.mark.vllm
@pytest.mark.parametrize(
    "shards",
    [
        pytest.param(
            1, marks=pytest.mark.skipif("CI" not in os.environ, reason="CI alone has the time")
        ),
        2,
    ],
)
def test_vllm_in_two_ranks_takes_the_weights_of_every_update(tmp_path: Path, shards: int) -> None:
    """Each rank has an engine, or both hold the parts of one. A float32 engine with a rate of 0.02
    that missed an update would be off by more than a hundred times the bound."""
    pytest.importorskip("vllm", reason="vLLM is not installed")
    machine = {**VLLM, "tensor_parallel_rl": shards}
    ends, log = train_two_ranks(tmp_path, machine, {"learning_rate": 0.02, "kl": 0.0}, "vllm")
    assert ends == [0, 0], log
    text = (tmp_path / "zero.run" / "metrics.jsonl").read_text(encoding="utf-8")
    steps = [row for row in map(json.loads, text.splitlines()) if row["event"] == "metrics"]
    assert [row["step"] for row in steps] == [1, 2]
    assert all(row["values"]["parity/max"] < 1e-4 for row in steps)


@pytest.mark.vllm
def test_parts_of_an_engine_that_miss_an_update_are_seen(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    machine = {**VLLM, "tensor_parallel_rl": 2}
    ends, log = train_two_ranks(tmp_path, machine, {"learning_rate": 0.02, "kl": 0.0}, "stale")
    assert set(ends) == {2}, log
    assert "the engine does not hold the trainer's weights" in log
