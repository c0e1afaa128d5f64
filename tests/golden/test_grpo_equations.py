"""Equations 1 to 3 of DeepSeek-R1, worked out by hand, against the trainer that a stage runs.

Only the model is replaced: its per-token log-probs are a leaf tensor, so that loss and gradient
can be computed on paper. Everything between log-probs and loss is the trainer as configured by
GrpoConfig. Each number has a sibling that shows that a changed setting changes it.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from factory.core.context import Context
from factory.core.machine import Machine
from factory.models.tiny import save_tiny_model
from factory.rewards import totals
from factory.stages.grpo.arguments import training_arguments
from factory.stages.grpo.config import GrpoConfig
from factory.stages.grpo.trainer import FactoryGrpoTrainer

TOLERANCE = 1e-6
"""For numbers that are worked out by hand, to seven digits."""
pytestmark = pytest.mark.usefixtures("float64")
BOTH_PASSES = pytest.mark.parametrize("packed_rows", [None, 1], ids=["plain", "micro-batches"])


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), "llama", hidden=32, layers=1)


def make_trainer(
    folder: Path,
    output: Path,
    *,
    scores: tuple[float, ...] = (),
    packed_rows: int | None = None,
    **settings: Any,
) -> FactoryGrpoTrainer:
    """A trainer of one question and `group` samples, with these settings of the stage."""
    config = GrpoConfig(
        **{
            "kind": "grpo", "model": "-", "problems": "-", "steps": 1, "prompts": 1, "group": 2,
            "updates_per_rollout": 1, "max_new_tokens": 2, "kl": 0.0,
            "rewards": ({"name": "accuracy"},),
            **settings,
        }
    )  # fmt: skip

    def accuracy(completions: list[str], **_: Any) -> list[float]:
        return list(scores)

    def rollout(prompts: list[str], trainer: Any) -> dict[str, list[list[Any]]]:
        count = len(prompts)
        ids = {"prompt_ids": [[5]] * count, "completion_ids": [[6, 2]] * count}
        return {**ids, "logprobs": [[0.0, 0.0]] * count}

    trainer = FactoryGrpoTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        args=training_arguments(
            config, Context(0, Machine(device="cpu"), output), rows=config.group
        ),
        train_dataset=Dataset.from_dict({"prompt": ["q"]}),
        processing_class=AutoTokenizer.from_pretrained(folder),
        reward_funcs=[accuracy],
        rollout_func=rollout,
        packed_rows=packed_rows,
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer


def loss_and_gradient(
    trainer: FactoryGrpoTrainer,
    logprobs: list[list[float]],
    advantages: list[float],
    mask: list[list[int]],
    **given: list[list[float]],
) -> tuple[float, list[list[float]]]:
    """Loss and its gradient by log-probs (rows, tokens); `given` holds old and reference ones."""
    leaf = torch.tensor(logprobs, requires_grad=True)
    rows, length = leaf.shape

    def score(model: Any, input_ids: torch.Tensor, *_: Any, **__: Any) -> tuple[Any, Any, None]:
        chosen = leaf[input_ids[:, 0]]  # the prompt's only token tells the row
        trainer._policy_logprobs = chosen.detach()
        return chosen, torch.zeros_like(chosen), None

    trainer._get_per_token_logps_and_entropies = score
    inputs = {
        "prompt_ids": torch.arange(rows)[:, None],
        "prompt_mask": torch.ones(rows, 1, dtype=torch.long),
        "completion_ids": torch.full((rows, length), 7),
        "completion_mask": torch.tensor(mask),
        "advantages": torch.tensor(advantages),
        "num_items_in_batch": torch.tensor(mask).sum(),
        **{name: torch.tensor(values) for name, values in given.items()},
    }
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    return loss.item(), leaf.grad.tolist()


ON_POLICY = {
    "logprobs": [[-0.7, -0.3], [-1.1, -0.2]],
    "advantages": [1.0, -1.0],
    "mask": [[1, 1], [1, 0]],
}


@BOTH_PASSES
def test_loss_is_the_mean_over_outputs_of_the_mean_over_their_tokens(
    model_folder: Path, tmp_path: Path, packed_rows: int | None
) -> None:
    # On-policy every ratio is 1, so a token's loss is -A and its slope by its log-prob is -A.
    # Outputs: mean(-1, -1) = -1 and mean(+1) = +1; over outputs: 0.
    # Slopes: -1 / (2 tokens * 2 outputs) = -1/4 twice; +1 / (1 token * 2 outputs) = 1/2.
    trainer = make_trainer(model_folder, tmp_path, packed_rows=packed_rows)
    loss, gradient = loss_and_gradient(trainer, **ON_POLICY)
    assert loss == pytest.approx(0.0, abs=TOLERANCE)
    assert gradient == [
        pytest.approx([-0.25, -0.25], abs=TOLERANCE),
        pytest.approx([0.5, 0.0], abs=TOLERANCE),
    ]


@BOTH_PASSES
@pytest.mark.parametrize("loss_type", ["dapo", "bnpo"])
def test_a_token_mean_is_another_number(
    model_folder: Path, tmp_path: Path, packed_rows: int | None, loss_type: str
) -> None:
    # Three tokens: (-1 - 1 + 1) / 3 = -1/3; slopes -1/3, -1/3, +1/3.
    trainer = make_trainer(model_folder, tmp_path, packed_rows=packed_rows, loss_type=loss_type)
    loss, gradient = loss_and_gradient(trainer, **ON_POLICY)
    assert loss == pytest.approx(-1 / 3, abs=TOLERANCE)
    assert gradient == [
        pytest.approx([-1 / 3, -1 / 3], abs=TOLERANCE),
        pytest.approx([1 / 3, 0.0], abs=TOLERANCE),
    ]


# pi = 1/2, ref = 1/4, old = 1/4: ratio pi/old = 2, and k3 = 1/2 - log(1/2) - 1 = 0.19314718.
# d k3 / d log pi = 1 - ref/pi = 1/2. A = 0 leaves beta * k3 alone.
OFF_REFERENCE = {
    "logprobs": [[math.log(0.5)], [math.log(0.5)]],
    "advantages": [0.0, 0.0],
    "mask": [[1], [1]],
    "old_per_token_logps": [[math.log(0.25)], [math.log(0.25)]],
    "ref_per_token_logps": [[math.log(0.25)], [math.log(0.25)]],
}


@BOTH_PASSES
def test_kl_is_the_k3_estimator_added_to_the_loss(
    model_folder: Path, tmp_path: Path, packed_rows: int | None
) -> None:
    trainer = make_trainer(model_folder, tmp_path, packed_rows=packed_rows, kl=0.1)
    loss, gradient = loss_and_gradient(trainer, **OFF_REFERENCE)
    assert loss == pytest.approx(0.1 * 0.19314718, abs=TOLERANCE)
    # Half of the slope for each of the two outputs.
    assert gradient == [pytest.approx([0.025], abs=TOLERANCE)] * 2


def test_kl_with_trls_bias_correction_is_another_number(model_folder: Path, tmp_path: Path) -> None:
    # Multiplied by the ratio 2: 0.1 * 2 * 0.19314718. The paper's estimator has no such factor.
    trainer = make_trainer(model_folder, tmp_path, kl=0.1, trl={"use_bias_correction_kl": True})
    loss, _ = loss_and_gradient(trainer, **OFF_REFERENCE)
    assert loss == pytest.approx(0.2 * 0.19314718, abs=TOLERANCE)


def one_token(advantage: float, ratio: float) -> dict[str, Any]:
    """Two equal outputs of one token with this advantage and ratio to the old policy."""
    return {
        "logprobs": [[-1.0], [-1.0]],
        "advantages": [advantage, advantage],
        "mask": [[1], [1]],
        "old_per_token_logps": [[-1.0 - math.log(ratio)], [-1.0 - math.log(ratio)]],
    }


@BOTH_PASSES
@pytest.mark.parametrize(
    ("advantage", "ratio", "loss", "slope"),
    [
        (1.0, 10.0, -10.0, -10.0),  # inside [-9, 11]: -r A, slope -r A
        (1.0, 12.0, -11.0, 0.0),  # above: min(12, 11) is constant
        (-1.0, 12.0, 12.0, 12.0),  # above, negative advantage: min(-12, -11) = -12, not clipped
        (-1.0, 0.01, 0.01, 0.01),  # epsilon 10 never binds below
    ],
)
def test_ratio_is_clipped_at_epsilon_ten(
    model_folder: Path, tmp_path: Path, packed_rows: int | None,
    advantage: float, ratio: float, loss: float, slope: float,
) -> None:  # fmt: skip
    trainer = make_trainer(model_folder, tmp_path, packed_rows=packed_rows)
    result, gradient = loss_and_gradient(trainer, **one_token(advantage, ratio))
    assert result == pytest.approx(loss, rel=TOLERANCE, abs=TOLERANCE)
    assert gradient == [pytest.approx([slope / 2], rel=TOLERANCE, abs=TOLERANCE)] * 2
    assert trainer._metrics["train"]["ratio_max"][-1] == pytest.approx(ratio, rel=TOLERANCE)


def test_a_smaller_epsilon_is_another_number(model_folder: Path, tmp_path: Path) -> None:
    # Inside [0.8, 1.2] the ratio 10 counts as 1.2; below it, with A = -1, 0.01 counts as 0.8.
    trainer = make_trainer(model_folder, tmp_path, epsilon=0.2)
    assert loss_and_gradient(trainer, **one_token(1.0, 10.0))[0] == pytest.approx(-1.2)
    assert loss_and_gradient(trainer, **one_token(-1.0, 0.01))[0] == pytest.approx(0.8)


def advantages(trainer: FactoryGrpoTrainer, group: int) -> list[float]:
    rows = [{"prompt": "q"} for _ in range(group)]
    return trainer._generate_and_score_completions(rows)["advantages"].tolist()


SCORES = (1.0, 0.0, 0.0, 0.0)


def test_advantage_is_the_reward_centred_and_scaled_within_its_group(
    model_folder: Path, tmp_path: Path
) -> None:
    # mean 1/4; sample variance (9/16 + 3 * 1/16) / 3 = 1/4, std 1/2.
    # 0.75 / 0.5001 = 1.49970006 and -0.25 / 0.5001 = -0.49990002.
    trainer = make_trainer(model_folder, tmp_path, scores=SCORES, group=4)
    expected = [1.49970006, -0.49990002, -0.49990002, -0.49990002]
    assert advantages(trainer, 4) == pytest.approx(expected, abs=TOLERANCE)


def test_equal_rewards_have_no_advantage(model_folder: Path, tmp_path: Path) -> None:
    trainer = make_trainer(model_folder, tmp_path, scores=(1.0,) * 4, group=4)
    assert advantages(trainer, 4) == [0.0] * 4


def test_advantage_without_scaling_is_another_number(model_folder: Path, tmp_path: Path) -> None:
    trainer = make_trainer(
        model_folder, tmp_path, scores=SCORES, group=4, trl={"scale_rewards": "none"}
    )
    expected = [0.75, -0.25, -0.25, -0.25]
    assert advantages(trainer, 4) == pytest.approx(expected, abs=TOLERANCE)


def test_reward_weights_count_before_the_group_is_scaled(
    model_folder: Path, tmp_path: Path
) -> None:
    # Twice the rewards: mean 1/2, std 1; 1.5 / 1.0001 = 1.49985001.
    weighted = totals([{"accuracy": score} for score in SCORES], {"accuracy": 2.0})
    trainer = make_trainer(model_folder, tmp_path, scores=weighted, group=4)
    assert advantages(trainer, 4)[0] == pytest.approx(1.49985001, abs=TOLERANCE)


def test_the_papers_settings_reach_trl(model_folder: Path, tmp_path: Path) -> None:
    config = GrpoConfig(kind="grpo", model="-", problems="-", steps=400)
    result = training_arguments(
        config, Context(0, Machine(device="cpu"), tmp_path), rows=32 * config.group
    )
    assert (result.beta, result.epsilon, result.epsilon_high) == (0.001, 10.0, 10.0)
    assert (result.learning_rate, result.temperature, result.num_generations) == (3e-6, 1.0, 16)
    assert (result.loss_type, result.scale_rewards) == ("grpo", "group")
    assert result.use_bias_correction_kl is False
    assert result.generation_batch_size == 8192
    assert result.per_device_train_batch_size * result.gradient_accumulation_steps == 512
    assert (result.sync_ref_model, result.ref_model_sync_steps) == (True, 400)
    assert result.ref_model_mixup_alpha == 1.0
