"""TRL's RewardTrainer as the factory runs it: pairs by TRL's own loss, safety labels by another."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import PrinterCallback, Trainer

from factory.core.context import Context
from factory.core.seeds import derive
from factory.stages.reward_model.config import RewardModelConfig
from factory.stages.reward_model.rows import LabelRow, PairRow, Row
from factory.text.templates import open_tokenizer
from factory.trainers.arguments import trainer_arguments
from factory.trainers.checkpoints import CompleteCheckpoints
from factory.trainers.rows import plan_order, step_count
from factory.trainers.running import run_trainer
from factory.trainers.saving import save_model
from factory.trainers.scoring import open_classifier, padded
from factory.trainers.telemetry import Logs, Telemetry
from factory.trainers.trl_hooks import RewardConfig as TrlConfig
from factory.trainers.trl_hooks import RewardTrainer, disable_dropout_in_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel


FIGURES = ("loss", "learning_rate", "grad_norm", "accuracy", "margin", "mean_reward")


class PairTrainer(RewardTrainer):
    """RewardTrainer as it is: -log sigmoid(chosen - rejected), Bradley and Terry's likelihood."""

    # A micro-batch's loss is its mean, so the Trainer has to divide by how many there are.
    loss_is_scaled_for_ga = False


class LabelTrainer(Trainer):
    """transformers' Trainer for single labelled texts: binary cross-entropy on the score."""

    def __init__(self, *args: Any, model: "PreTrainedModel", **kwargs: Any) -> None:
        disable_dropout_in_model(model)  # as RewardTrainer does
        super().__init__(*args, model=model, **kwargs)
        # As above, in the words of transformers before 5.19.
        self.model_accepts_loss_kwargs = False
        self.figures: dict[str, list[float]] = defaultdict(list)
        """Of the micro-batches since the last log."""
        self.tokens = 0

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """-(y log p + (1 - y) log(1 - p)), p = sigmoid(score), y = 1 for safe; mean of a batch."""
        wanted = inputs["is_safe"]
        outputs = model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
        )
        scores = outputs.logits[:, 0].float()
        loss = binary_cross_entropy_with_logits(scores, wanted)
        self.figures["accuracy"].append(((scores > 0) == wanted.bool()).float().mean().item())
        self.figures["mean_reward"].append(scores.mean().item())
        self.tokens += int(inputs["attention_mask"].sum())
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The Trainer's figures and those of the micro-batches, each a mean."""
        logs |= {name: sum(values) / len(values) for name, values in self.figures.items()}
        logs["num_tokens"] = float(self.tokens)
        self.figures.clear()
        super().log(logs, start_time)


def collate_labels(padding: int) -> Any:
    """A collator of rows with `ids` and `is_safe`."""

    def collate(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        wanted = torch.tensor([float(row["is_safe"]) for row in rows])
        return {**padded([row["ids"] for row in rows], padding), "is_safe": wanted}

    return collate


def training_arguments(
    config: RewardModelConfig, context: Context, *, micro_batch: int, steps: int
) -> TrlConfig:
    """The whole of TRL's configuration."""
    accumulation = config.batch // (micro_batch * context.machine.processes)
    return TrlConfig(
        **trainer_arguments(context, rows=micro_batch, accumulation=accumulation, steps=steps),
        train_sampling_strategy="sequential",
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=0,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        adam_beta1=config.adam_betas[0],
        adam_beta2=config.adam_betas[1],
        max_length=None,  # longer rows are dropped, and counted, before
        eval_strategy="no",
        remove_unused_columns=False,  # the collators want them all
    )


def make_trainer(
    config: RewardModelConfig,
    rows: Sequence[Row],
    *,
    folder: Path,
    model: "PreTrainedModel",
    micro_batch: int,
    context: Context,
) -> PairTrainer | LabelTrainer:
    """The trainer with its data in order and all its callbacks, ready to `train`."""
    order = plan_order(
        [row.tokens for row in rows],
        epochs=config.epochs,
        batch=config.batch,
        micro_batch=micro_batch,
        level=False,
        seed=context.seed,
    )
    steps = step_count(len(rows), epochs=config.epochs, batch=config.batch)
    shared = {
        "model": model,
        "args": training_arguments(config, context, micro_batch=micro_batch, steps=steps),
        "processing_class": open_tokenizer(folder),
        "callbacks": [
            CompleteCheckpoints(),
            Telemetry(
                context.scratch / "telemetry.jsonl",
                context,
                values=telemetry_values,
                headline=("loss", "accuracy"),
            ),
        ],
    }
    trainer: PairTrainer | LabelTrainer
    pairs = [row for row in rows if isinstance(row, PairRow)]
    labels = [row for row in rows if isinstance(row, LabelRow)]
    if pairs:
        data = [{"chosen_ids": r.chosen_ids, "rejected_ids": r.rejected_ids} for r in pairs]
        trainer = PairTrainer(train_dataset=Dataset.from_list(data).select(order), **shared)
    else:
        data = [{"ids": r.ids, "is_safe": r.is_safe} for r in labels]
        padding = model.config.get_text_config().pad_token_id
        trainer = LabelTrainer(
            train_dataset=Dataset.from_list(data).select(order),
            data_collator=collate_labels(padding),
            **shared,
        )
    trainer.remove_callback(PrinterCallback)
    return trainer


def telemetry_values(logs: Logs) -> dict[str, float]:
    """The deterministic figures of a step; `accuracy` and `margin` are those of its batch, before
    the update, `margin` for pairs only."""
    return {name: logs[name] for name in FIGURES if name in logs}


def train(
    config: RewardModelConfig,
    rows: Sequence[Row],
    *,
    folder: Path,
    micro_batch: int,
    out: Path,
    context: Context,
) -> None:
    """Train the model in `folder` with a score for a head, and write it to `out` in its dtype."""
    model = open_classifier(folder, torch.float32, seed=derive(context.seed, "reward head"))
    trainer = make_trainer(
        config, rows, folder=folder, model=model, micro_batch=micro_batch, context=context
    )
    run_trainer(trainer, context)
    save_model(trainer, folder, out)
