"""Two gloo ranks give what one process gives: every trainer, whole on each rank or in shards.

The suite runs the cells of `SUITE`; all of them run with FACTORY_LONG_TESTS=1 in the environment.
"""

import json
import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from building import ROOT, sealed
from safetensors.torch import load_file
from warm import WarmProgram

from factory.building.plan import Step, make_plan
from factory.building.recipe import load_recipe
from factory.building.worker import Job
from factory.core.artifacts import Artifact
from factory.core.machine import Machine
from factory.core.yaml12 import parse

RECIPE = """
name: ranks
seed: 7
stages:
  base: {kind: model, source: {type: tiny, architecture: llama}}
  sums:
    kind: problems
    sources:
      - {type: reasoning_gym, family: chain_sum, train: 24, held_out: 8,
         settings: {min_terms: 2, max_terms: 3, min_digits: 1, max_digits: 1}}
  worked: {kind: written, path: recipes/data/worked_sums.jsonl, unlike: sums}
  preferred: {kind: pairs, source: {type: local, path: recipes/data/general_pairs.jsonl}}
  sft:
    {kind: sft, model: base, traces: worked, learning_rate: 2e-4, epochs: 1, batch: 8, context: 256}
  warm: {like: sft, learning_rate: 3e-3, epochs: 12}
  teacher: {like: sft, learning_rate: 1e-3}
  lora_sft: {like: sft, learning_rate: 1e-3, lora: {rank: 4}}
  grpo:
    kind: grpo
    model: warm
    problems: sums
    # By the last three a model that answers nothing right learns too.
    rewards:
      - {name: accuracy, weight: 1.0}
      - {name: format, weight: 1.0}
      - {name: language, weight: 1.0}
      - {name: overlong, weight: 1.0}
      - {name: repetition, weight: 1.0}
    steps: 4
    prompts: 4
    group: 4
    updates_per_rollout: 1
    learning_rate: 1e-3
    warmup_steps: 1
    kl: 0.001
    temperature: 1.0
    max_new_tokens: 24
  lora_grpo: {like: grpo, lora: {rank: 4}, reference_refresh_steps: 0}
  distill:
    {kind: distill, model: sft, teacher: teacher, problems: sums, steps: 3, prompts: 4,
     learning_rate: 1e-3, max_new_tokens: 8}
  lora_distill: {like: distill, lora: {rank: 4}}
  # Of two ranks the second has traces alone.
  distill_mixed:
    {like: distill, traces: worked, completions: verbatim, on_policy_share: 0.5,
     max_new_tokens: 64}
  reward_model:
    {kind: reward_model, model: base, pairs: preferred, learning_rate: 5e-5, batch: 16,
     context: 256, held_out_share: 0.25}
"""
ONE = {
    "device": "cpu", "dtype": "float32", "matmul": "float32", "threads": 1, "block": 8,
    "engine": "transformers", "micro_batch": 4, "checkpoint_steps": 1, "training_pass": "trl",
}  # fmt: skip
TWO = {**ONE, "launcher": "accelerate", "processes": 2}
MODES: Mapping[str, dict[str, Any]] = {
    "one": ONE,
    "ddp": TWO,
    "fsdp2": {**TWO, "train": {"shard": "fsdp2"}},
    "fsdp2-sharded": {**TWO, "train": {"shard": "fsdp2", "checkpoint": "sharded"}},
    "ddp-four": {**TWO, "processes": 4, "micro_batch": 2},
    "fsdp2-four": {**TWO, "processes": 4, "micro_batch": 2, "train": {"shard": "fsdp2"}},
    "fsdp2-sharded-four":
        {**TWO, "processes": 4, "micro_batch": 2,
         "train": {"shard": "fsdp2", "checkpoint": "sharded"}},
    "fsdp2-alone": {**TWO, "processes": 1, "train": {"shard": "fsdp2"}},
    "ddp-rows": {**TWO, "train": {"micro_rows": 2}},
    "fsdp2-recomputed": {**TWO, "train": {"shard": "fsdp2", "activations": "recompute"}},
}  # fmt: skip
BOUNDS = {
    "sft": 1e-6, "lora_sft": 1e-6, "reward_model": 1e-6, "grpo": 5e-5, "lora_grpo": 5e-5,
    "distill": 2e-5, "distill_mixed": 2e-5, "lora_distill": 2e-5,
}  # fmt: skip
"""Largest difference of a weight: sums are taken in another order, and Adam's first steps are of
the size of the learning rate whatever the gradient's."""
SUITE = {
    ("lora_sft", "fsdp2"), ("lora_sft", "fsdp2-alone"), ("grpo", "fsdp2"), ("grpo", "ddp-rows"),
    ("distill_mixed", "fsdp2"),
    ("reward_model", "fsdp2"),
}  # fmt: skip
ALL = {
    *((stage, mode) for stage in BOUNDS for mode in ("ddp", "fsdp2")), ("grpo", "ddp-rows"),
    ("lora_sft", "fsdp2-alone"), ("sft", "fsdp2-alone"),
    ("grpo", "fsdp2-sharded"), ("sft", "fsdp2-recomputed"), ("grpo", "fsdp2-recomputed"),
}  # fmt: skip
IS_LONG = bool(os.environ.get("FACTORY_LONG_TESTS"))
SECONDS = 300


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Step, Artifact]]:
    """Every stage, made by one process."""
    folder = tmp_path_factory.mktemp("one")
    recipe, settings = folder / "recipe.yaml", folder / "machine.yaml"
    fields: Any = parse(RECIPE, "recipe")
    for name in () if IS_LONG else ("lora_grpo", "lora_distill"):
        del fields["stages"][name]
    recipe.write_text(json.dumps(fields), encoding="utf-8")
    settings.write_text(json.dumps(ONE), encoding="utf-8")
    output = folder / "output.txt"
    command = ["factory", "build", str(recipe), "--machine", str(settings), "--plain"]
    program = WarmProgram(
        [*command, "--store", str(folder / "store")], output=output, errors=output, settings={}
    )
    assert program.wait(2 * SECONDS) == 0, output.read_text(encoding="utf-8")
    steps = {step.name: step for step in make_plan(load_recipe(recipe))}
    made = sealed(folder / "store")
    for name in BOUNDS.keys() & made.keys():
        # Where nothing is learned two ranks are one process whatever they do.
        before, after = (weights(made[each].path) for each in (steps[name].inputs["model"], name))
        assert gap(before, after) > 10 * BOUNDS[name], name
    return {name: (steps[name], artifact) for name, artifact in made.items()}


def weights(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("*.safetensors")
    return load_file(path)


def gap(first: dict[str, Any], second: dict[str, Any]) -> float:
    """Largest difference of a weight that both have."""
    return max(float((first[name] - second[name]).abs().max()) for name in first.keys() & second)


class Ranks:
    """The ranks of a stage at work, started as a launcher starts them."""

    def __init__(
        self, folder: Path, step: Step, inputs: Mapping[str, Path], machine: dict[str, Any]
    ) -> None:
        self.run, self.out = folder / f"{step.name}.run", folder / f"{step.name}.partial"
        (self.run / "scratch").mkdir(parents=True, exist_ok=True)
        self.out.mkdir(exist_ok=True)
        job = Job(
            stage=step.kind, config=step.config.model_dump(mode="json"),
            inputs={key: str(path) for key, path in inputs.items()}, out=str(self.out),
            run=str(self.run), seed=step.seed, builder=os.getpid(),
            machine=Machine.model_validate(machine),
        )  # fmt: skip
        self.count = job.machine.processes
        (self.run / "job.json").write_text(job.model_dump_json(), encoding="utf-8")

    def start(self, *faults: str) -> list[WarmProgram]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        shared = {"WORLD_SIZE": str(self.count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [str(ROOT / "tests" / "one_rank.py"), str(self.run / "job.json"), *faults]
        log = self.run / "log.txt"
        return [
            WarmProgram(
                command, output=log, errors=log,
                settings={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(self.count)
        ]  # fmt: skip

    def work(self) -> None:
        ends = [rank.wait(SECONDS) for rank in self.start()]
        assert set(ends) == {0}, (self.run / "log.txt").read_text(encoding="utf-8")[-4000:]

    def events(self) -> list[dict[str, Any]]:
        path = self.run / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]


def ranks_of(
    built: Mapping[str, tuple[Step, Artifact]], name: str, mode: str, folder: Path, **settings: Any
) -> Ranks:
    step = built[name][0]
    inputs = {key: built[stage][1].path for key, stage in step.inputs.items()}
    return Ranks(folder, step, inputs, {**MODES[mode], **settings})


def rows(folder: Path) -> list[dict[str, float]]:
    text = (folder / "telemetry.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def require_same(ranks: Ranks, single: Path, bound: float) -> None:
    """As many steps with the same figures, the same names of weights, and the same weights."""
    ours, theirs = rows(single), rows(ranks.out)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for name in ("reward", "completion_length", "accuracy"):
        assert [row.get(name) for row in ours] == pytest.approx([row.get(name) for row in theirs])
    losses = [[row["loss"] for row in each] for each in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    alone, together = weights(single), weights(ranks.out)
    assert alone.keys() == together.keys()
    assert gap(alone, together) <= bound
    kept = [folder / "rollouts.jsonl" for folder in (single, ranks.out)]
    if kept[0].exists():
        texts = [[json.loads(line) for line in path.open(encoding="utf-8")] for path in kept]
        samples = [[row["trace"]["completion"] for row in each] for each in texts]
        assert sorted(samples[0]) == sorted(samples[1])


@pytest.mark.parametrize(("name", "mode"), sorted(ALL if IS_LONG else SUITE))
def test_two_ranks_are_one_process(
    built: dict[str, tuple[Step, Artifact]], name: str, mode: str, tmp_path: Path
) -> None:
    ranks = ranks_of(built, name, mode, tmp_path)
    ranks.work()
    require_same(ranks, built[name][1].path, BOUNDS[name])


VLLM = {"engine": "vllm", "engine_memory_gib": 0.25}


@pytest.mark.vllm
@pytest.mark.skipif(not IS_LONG, reason="minutes of imports: FACTORY_LONG_TESTS=1")
@pytest.mark.parametrize("name", ["grpo", "lora_grpo", "distill"])
def test_two_ranks_with_an_engine_of_vllm_each_are_one_process(
    built: dict[str, tuple[Step, Artifact]], name: str, tmp_path: Path
) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    single = ranks_of(built, name, "one", tmp_path / "one", **VLLM)
    single.work()
    for mode in ("ddp", "fsdp2"):
        ranks = ranks_of(built, name, mode, tmp_path / mode, **VLLM)
        ranks.work()
        require_same(ranks, single.out, BOUNDS[name])


KILLED = {("grpo", "fsdp2", 1, "fsdp2-four"), ("sft", "ddp", 0, "one")}
ALL_KILLED = {
    *KILLED,
    *(
        (name, mode, rank, mode)
        for name in BOUNDS for mode in ("ddp", "fsdp2") for rank in range(2)
    ),
    ("grpo", "fsdp2-sharded", 0, "fsdp2-sharded"),
    # By other ranks than those that wrote the checkpoint.
    *((name, before, 0, after) for name in ("sft", "grpo") for before, after in (
        ("one", "ddp"), ("ddp", "one"), ("ddp", "ddp-four"), ("fsdp2", "fsdp2-four"),
        ("fsdp2-sharded", "fsdp2-sharded-four"),
    )),
    # By another sharding.
    *(("sft", before, 1, after) for before, after in (
        ("ddp", "fsdp2"), ("fsdp2", "ddp"), ("fsdp2-sharded", "ddp"), ("fsdp2", "fsdp2-sharded"),
    )),
}  # fmt: skip


def sharding(mode: str) -> tuple[str, str]:
    train = MODES[mode].get("train", {})
    return train.get("shard", "none"), train.get("checkpoint", "whole")


@pytest.mark.parametrize(
    ("name", "mode", "victim", "later"), sorted(ALL_KILLED if IS_LONG else KILLED)
)
def test_a_killed_rank_takes_the_other_with_it_and_both_go_on(
    built: dict[str, tuple[Step, Artifact]],
    name: str,
    mode: str,
    victim: int,
    later: str,
    tmp_path: Path,
) -> None:
    """Among as many ranks as before, or others; with another sharding they say so and stop."""
    ranks = ranks_of(built, name, mode, tmp_path)
    programs = ranks.start("killed", str(victim), "2")
    assert programs[victim].wait(SECONDS) == -signal.SIGKILL
    others = [program.wait(SECONDS) for program in programs if program is not programs[victim]]
    assert set(others) <= {1}
    errors = [row["message"] for row in ranks.events() if row.get("event") == "error"]
    assert bool(errors) == (ranks.count > 1)
    assert all("lost another rank" in error for error in errors), (victim, errors)
    ranks = ranks_of(built, name, later, tmp_path)
    if sharding(mode) != sharding(later):
        assert {rank.wait(SECONDS) for rank in ranks.start()} == {2}
        last = [row["message"] for row in ranks.events() if row.get("event") == "error"][-1]
        assert "checkpoint-2: was written with train: " in last
        return
    ranks.work()
    # Each step was made once: they went on from the second one.
    steps = [row["step"] for row in ranks.events() if row.get("event") == "metrics"]
    assert steps == [row["step"] for row in rows(ranks.out)]
    require_same(ranks, built[name][1].path, BOUNDS[name])


@pytest.mark.parametrize(
    ("name", "message"),
    [("grpo", "is in a process group of 1"), ("sft", "ranks would train without each other")],
)
def test_an_engine_before_the_process_group_is_caught(
    built: dict[str, tuple[Step, Artifact]], name: str, message: str, tmp_path: Path
) -> None:
    """By the engine that is opened later, and where there is none by the trainer."""
    ranks = ranks_of(built, name, "ddp", tmp_path)
    ends = [rank.wait(SECONDS) for rank in ranks.start("early")]
    assert ends == [2, 2]
    errors = [row["message"] for row in ranks.events() if row.get("event") == "error"]
    assert errors and all(message in error for error in errors)
    assert not list(ranks.out.glob("*.safetensors"))
