"""What trainers take from the machine file: one dtype for all, and what bounds their memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from test_distill_stage import config as distill_config
from test_grpo_stage import PROBLEMS, Events, artifact
from test_grpo_stage import config as grpo_config
from test_reward_model_stage import LABELS, PAIRS
from test_sft_stage import config as sft_config
from test_sft_stage import trace
from transformers import TrainingArguments

from factory.core.artifacts import Inputs
from factory.core.context import Context
from factory.core.jsonl import recover_rows, write_records
from factory.core.machine import Machine
from factory.models.tiny import save_tiny_model
from factory.stages import STAGES
from factory.stages.reward_model.config import RewardModelConfig
from factory.trainers import running
from factory.trainers.arguments import trainer_arguments
from lab.pretrain.config import PretrainConfig

TRAINERS: dict[str, Callable[[], Any]] = {
    "pretrain": lambda: PretrainConfig(
        kind="pretrain", hidden=32, layers=1, heads=2, feed_forward=64, sequence=32, batch=4,
        tokens=2 * 4 * 32,
    ),
    "sft": lambda: sft_config(epochs=1),
    "reward_model": lambda: RewardModelConfig(
        kind="reward_model", model="base", pairs="pairs", batch=8, epochs=1
    ),
    "reward_model on labels": lambda: RewardModelConfig(
        kind="reward_model", model="base", labels="labels", batch=8, epochs=1
    ),
    "distill": lambda: distill_config(steps=1),
    "grpo": lambda: grpo_config(steps=1, updates_per_rollout=1),
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("artifacts")

    def model(name: str) -> Any:
        return artifact(
            folder, name, "model", lambda path: save_tiny_model(path, "llama", hidden=32, layers=1)
        )

    def records(name: str, kind: Any, **files: Any) -> Any:
        def fill(path: Path) -> None:
            for file, rows in files.items():
                write_records(path / f"{file}.jsonl", rows)

        return artifact(folder, name, kind, fill)

    traces = [trace(number, reasoning="so") for number in range(8)]
    return Inputs(
        model=model("base"),
        teacher=model("teacher"),
        problems=records("sums", "problems", train=PROBLEMS, held_out=[]),
        traces=records("texts", "traces", traces=traces),
        pairs=records("pairs", "pairs", pairs=PAIRS),
        labels=records("labels", "labels", labels=LABELS),
    )


class Recording(Machine):
    """A machine that remembers which of its settings were read."""

    def __getattribute__(self, name: str) -> Any:
        if name in Machine.model_fields:
            READ.add(name)
        return super().__getattribute__(name)


READ: set[str] = set()


@contextmanager
def dtypes_of_forward_passes() -> Iterator[set[torch.dtype]]:
    """Dtypes in which layers of models in training compute, while gradients are kept."""
    seen: set[torch.dtype] = set()

    def look(module: torch.nn.Module, *_: Any) -> None:
        if module.training and torch.is_grad_enabled() and isinstance(module, torch.nn.Embedding):
            is_rounded = torch.is_autocast_enabled("cpu")
            seen.add(torch.get_autocast_dtype("cpu") if is_rounded else module.weight.dtype)

    hook = torch.nn.modules.module.register_module_forward_hook(look)
    try:
        yield seen
    finally:
        hook.remove()


def test_every_stage_that_trains_is_tested_here() -> None:
    trained = {row.name for row in STAGES.rows() if row.value.trains}
    assert {trainer.split()[0] for trainer in TRAINERS} == trained


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[TrainingArguments]:
    """The arguments of every trainer that is started, as it starts and as it ends."""
    arguments: list[TrainingArguments] = []
    original = running.require_ranks

    def noted(trainer: Any, launched: int) -> None:
        arguments.append(trainer.args)
        original(trainer, launched)

    monkeypatch.setattr(running, "require_ranks", noted)
    return arguments


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_trainer_computes_in_the_dtype_of_the_machine_file(
    inputs: Inputs, tmp_path: Path, started: list[TrainingArguments], trainer: str, dtype: str
) -> None:
    kind = trainer.split()[0]
    machine = Recording.model_validate(
        {"device": "cpu", "engine": "transformers", "threads": 1, "dtype": dtype, "micro_batch": 4,
         "training_pass": "trl"}
    )  # fmt: skip
    READ.clear()
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    out.mkdir()
    scratch.mkdir()
    context = Context(7, machine, scratch, Events())
    with dtypes_of_forward_passes() as seen:
        STAGES[kind].run(TRAINERS[trainer](), inputs, out, context)
    assert seen == {getattr(torch, dtype)}
    # One set of arguments: what a stage adds changes none of it but how often it saves.
    arguments = started[0]
    shared = trainer_arguments(
        context,
        rows=arguments.per_device_train_batch_size,
        steps=arguments.max_steps,
        accumulation=arguments.gradient_accumulation_steps,
        save_every=int(arguments.save_steps),
    )
    wanted = TrainingArguments(**shared)
    assert {name: getattr(arguments, name) for name in shared} == {
        name: getattr(wanted, name) for name in shared
    }
    # The advice for a stage that runs out of memory names what its training has just read.
    helpful = set(STAGES[kind].memory_settings) - {"gpu_memory_fraction_rl"}
    assert helpful <= READ
    if kind == "pretrain":
        assert not helpful and not READ & {"micro_batch", "block", "engine_memory_gib"}
    else:
        assert helpful & {"micro_batch", "micro_groups"}
    losses = [row["loss"] for row in recover_rows(out / "telemetry.jsonl")]
    assert losses and all(loss == loss for loss in losses)


@pytest.mark.parametrize(
    ("on_gpu", "dtype", "bf16"),
    [
        (False, "auto", False), (False, "float32", False), (False, "bfloat16", True),
        (True, "auto", True), (True, "float32", False), (True, "bfloat16", True),
    ],
)  # fmt: skip
def test_the_rule_is_the_same_on_both_devices(
    monkeypatch: pytest.MonkeyPatch, on_gpu: bool, dtype: str, bf16: bool
) -> None:
    monkeypatch.setattr(Machine, "takes_gpu", lambda self: on_gpu)
    machine = Machine.model_validate({"dtype": dtype})
    fields = trainer_arguments(Context(0, machine, Path()), rows=1, steps=1)
    assert (fields["use_cpu"], fields["bf16"], fields["fp16"]) == (not on_gpu, bf16, False)
