"""Trainers, batches and comparisons for tests that hold the packed pass against TRL's own."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from doubles import CLOSE
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config

from factory.core.context import Context
from factory.core.machine import Machine
from factory.models.tiny import byte_tokenizer, save_tiny_model
from factory.stages.grpo.arguments import training_arguments
from factory.stages.grpo.config import GrpoConfig
from factory.stages.grpo.trainer import FactoryGrpoTrainer
from factory.trainers.lora import peft_config

CPU = Machine(device="cpu")
PROMPTS, GROUP, LENGTH = 4, 4, 7
ROWS = PROMPTS * GROUP


def make_trainer(
    folder: Path,
    output: Path,
    *,
    questions: Sequence[str] = ("q",),
    draw: Any = lambda prompts, trainer: {},
    reward: Any = lambda **_: [],
    passes: int = 1,
    machine: Machine = CPU,
    **settings: Any,
) -> FactoryGrpoTrainer:
    config = GrpoConfig(
        **{
            "kind": "grpo", "model": "-", "problems": "-", "steps": 1, "prompts": PROMPTS,
            "group": GROUP, "updates_per_rollout": 1, "max_new_tokens": LENGTH,
            "temperature": 1.3, "epsilon": 0.2, "kl": 0.05, "reference_refresh_steps": 0,
            "rewards": ({"name": "accuracy"},), **settings,
        }
    )  # fmt: skip
    arguments = training_arguments(config, Context(0, machine, output), rows=PROMPTS * config.group)
    arguments.num_iterations = passes
    reward.__name__ = "accuracy"
    rows = {"prompt": list(questions), "problem": list(range(len(questions)))}
    trainer = FactoryGrpoTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        args=arguments,
        train_dataset=Dataset.from_dict(rows),
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=peft_config(config.lora),
        reward_funcs=[reward],
        rollout_func=draw,
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer


def save_model(folder: Path, architecture: Any) -> Path:
    """A tiny model with four query heads on two key-value heads, so that folding is not trivial."""
    if architecture != "qwen3":
        return save_tiny_model(folder, architecture, hidden=128)
    # Its layers also normalise queries and keys, and its heads are wider than hidden / heads.
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=259, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, initializer_range=0.05,
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def batch(seed: int = 0, *, empty_row: bool = False) -> dict[str, Any]:
    """TRL's inputs: shuffled rows of four prompts of other lengths, completions of 1 to 7 tokens.

    The rows of prompt 1 have no advantage; every log-prob of old and reference policy differs
    from the policy's by up to about 0.3.
    """
    stream = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=stream)

    widths = (9, 4, 6, 9)
    prompts = [draw(3, 259, width) for width in widths]
    owner = torch.randperm(ROWS, generator=stream) % PROMPTS
    lengths = torch.tensor([1, LENGTH, *draw(1, LENGTH + 1, ROWS - 2).tolist()])
    if empty_row:
        lengths[3] = 0
    prompt_ids = torch.full((ROWS, max(widths)), 2)
    prompt_mask = torch.zeros_like(prompt_ids)
    for row, prompt in enumerate(owner.tolist()):
        prompt_ids[row, -widths[prompt] :] = prompts[prompt]
        prompt_mask[row, -widths[prompt] :] = 1
    completion_mask = (torch.arange(LENGTH) < lengths[:, None]).long()
    advantages = torch.randn(ROWS, generator=stream)
    advantages[owner == 1] = 0.0
    return {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": torch.where(completion_mask == 1, draw(3, 259, ROWS, LENGTH), 2),
        "completion_mask": completion_mask,
        "advantages": advantages,
        "num_items_in_batch": completion_mask.sum(),
        "noise": 0.3 * torch.randn(ROWS, LENGTH, generator=stream),
    }


def loss_and_gradients(
    trainer: FactoryGrpoTrainer, inputs: dict[str, Any], packed_rows: int | None
) -> tuple[float, dict[str, torch.Tensor]]:
    trainer.packed_rows = packed_rows
    inputs = {
        name: value.to(trainer.accelerator.device) if isinstance(value, torch.Tensor) else value
        for name, value in inputs.items()
    }
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    gradients = {
        n: p.grad.to("cpu", copy=True)
        for n, p in trainer.model.named_parameters()
        if p.requires_grad
    }
    return loss.item(), gradients


def with_old_and_reference(
    trainer: FactoryGrpoTrainer, inputs: dict[str, Any], *, old: bool
) -> dict[str, Any]:
    """Old and reference log-probs near the policy's own, as an earlier policy would give them."""
    trainer.packed_rows = None
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    own = trainer.completion_logprobs(ids, mask, LENGTH)
    inputs["ref_per_token_logps"] = own + inputs["noise"]
    if old:
        inputs["old_per_token_logps"] = own + inputs["noise"].roll(1, dims=0)
    return inputs


def relative_distance(expected: dict[str, torch.Tensor], actual: dict[str, torch.Tensor]) -> float:
    """Length of the difference of all gradients over the length of all gradients."""
    assert expected.keys() == actual.keys()
    missed = sum((actual[name] - expected[name]).square().sum().item() for name in expected)
    return (missed / sum(value.square().sum().item() for value in expected.values())) ** 0.5


def assert_same(
    plain: tuple[float, dict[str, torch.Tensor]],
    packed: tuple[float, dict[str, torch.Tensor]],
    *,
    bound: float = CLOSE,
) -> None:
    """Losses and gradients are the same but for `bound` of their size."""
    assert packed[0] == pytest.approx(plain[0], rel=bound, abs=1e-2 * bound)
    scale = max(gradient.norm() for gradient in plain[1].values())
    for name, expected in plain[1].items():
        # A key bias moves no score: its true gradient is 0 and what is left is rounding.
        assert bound > CLOSE or expected.dtype == torch.float64, "float32 has no such bound"
        size = max(expected.norm(), 1e-3 * scale)
        assert (packed[1][name] - expected).norm() <= bound * size, name


def fill_adapters(trainer: FactoryGrpoTrainer) -> None:
    """Adapters that change something: they start as zeros."""
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)


def bfloat16_distances(
    architecture: str, folder: Path, device: Any
) -> tuple[FactoryGrpoTrainer, float, Callable[[], float]]:
    """A bfloat16 trainer, how far its gradients by TRL's pass are from float32's, and, when
    called, how far those by the packed pass are."""
    model = save_model(folder / "model", architecture)
    exact = make_trainer(model, folder)
    # On-policy: a ratio that rounding moves over the clip range would drown all else.
    inputs = with_old_and_reference(exact, batch(), old=False)
    expected = loss_and_gradients(exact, inputs, None)[1]
    mixed = make_trainer(model, folder, machine=Machine(device=device, dtype="bfloat16"))

    def distance(rows: int | None) -> float:
        return relative_distance(expected, loss_and_gradients(mixed, inputs, rows)[1])

    return mixed, distance(None), lambda: distance(GROUP)
