"""TRL's SFTTrainer as the factory runs it: whole batches, exact resume, loss on completions."""

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, TrainerCallback

from factory.core.context import Context
from factory.core.errors import EngineError, RecipeError, is_out_of_memory
from factory.core.machine import Machine
from factory.core.records import Problem
from factory.cpu.attention import TWO_PRODUCTS
from factory.cpu.completion_loss import completion_loss
from factory.cpu.packed import COVERED
from factory.models.parts import causal_model, head_of
from factory.sampling.ends import training_ends
from factory.stages.sft.config import SftConfig
from factory.stages.sft.heads import Head, head_of_logits
from factory.stages.sft.watching import open_watch
from factory.trainers.adapters import open_policy
from factory.trainers.arguments import trainer_arguments
from factory.trainers.checkpoints import CompleteCheckpoints
from factory.trainers.lora import keeps_adapters, peft_config
from factory.trainers.lowmem import optimizer_fields
from factory.trainers.rows import IGNORED, plan_order, step_count
from factory.trainers.running import run_trainer
from factory.trainers.saving import save_model
from factory.trainers.stored_rows import StoredRows
from factory.trainers.telemetry import Logs, Telemetry
from factory.trainers.tokens import Pieces, grow_embeddings
from factory.trainers.trl_hooks import SFTConfig as TrlConfig
from factory.trainers.trl_hooks import SFTTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OURS = {
    "max_length": "context",
    "num_train_epochs": "epochs",
    "lr_scheduler_type": "final_learning_rate_share",
    "lr_scheduler_kwargs": "final_learning_rate_share",
    "warmup_steps": "warmup_fraction",
    "warmup_ratio": "warmup_fraction",
    "adam_beta1": "adam_betas",
    "adam_beta2": "adam_betas",
    "packing_strategy": "packing",
    "padding_free": "packing",
    "chat_template_path": "prompt",
    "eos_token": "model",
    "pad_token": "model",
}
"""TRL's name for what the stage's config calls otherwise."""
REFUSED = {
    "trust_remote_code": "code from a model folder is never run",
    "model_init_kwargs": "the model is opened by the factory",
    "dataset_text_field": "rows come from the traces",
    "completion_only_loss": "the loss is on completions, always",
    "assistant_only_loss": "the loss is on completions, always",
    "auto_find_batch_size": "set micro_batch in the machine file",
    "resume_from_checkpoint": "resume is automatic",
    "load_best_model_at_end": "set watch.keep instead",
    "eval_packing": "set watch instead",
    "project": "nothing is reported to services",
}


class CompletionTrainer(SFTTrainer):
    """SFTTrainer with an exact cosine, and a faster head where TRL's is the plain one.

    On a CPU, TRL 1.16 meets the head at every position, the prompt's included, and once more in
    the backward pass; here only scored positions meet it, once. The loss is the same number.
    """

    args: TrlConfig

    def __init__(self, *args: Any, share: Callable[[int, int], float], **kwargs: Any) -> None:
        self._share = share
        self._head: Head | None = None
        self._correct = self._scored = self._tokens = 0
        super().__init__(*args, **kwargs)

    def create_scheduler(
        self, num_training_steps: int, optimizer: Optimizer | None = None
    ) -> LambdaLR:
        """The learning rate of each step, as a share of the highest."""
        if self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(
                cast(Optimizer, optimizer or self.optimizer),
                lambda step: self._share(step, num_training_steps),
            )
        return self.lr_scheduler

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Mean negative log-likelihood over the scored tokens of the whole batch."""
        if self._head is None:
            self._head = head_of_logits(self, inputs["input_ids"][:1, :32])
        if return_outputs or self._head == "fused":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"][:, 1:]
        scored = labels != IGNORED
        base = causal_model(self.accelerator.unwrap_model(model))
        tokens = {name: value for name, value in inputs.items() if name != "labels"}
        count = scored.sum() if num_items_in_batch is None else num_items_in_batch
        if self._head == "own":
            logits = model(**tokens, use_cache=False).logits[:, :-1][scored].float()
            negative = torch.nn.functional.cross_entropy(logits, labels[scored], reduction="sum")
            correct = (logits.argmax(-1) == labels[scored]).sum()
        else:
            hidden = base.base_model(**tokens, use_cache=False).last_hidden_state[:, :-1]
            loss = completion_loss(hidden[scored], head_of(base).weight, labels[scored])
            negative, correct = loss.negative_log_likelihood, loss.correct
        self._count(inputs, correct, scored)
        return negative / torch.as_tensor(count).clamp(min=1)

    def _count(
        self, inputs: Mapping[str, torch.Tensor], correct: torch.Tensor, scored: torch.Tensor
    ) -> None:
        self._correct += int(correct)
        self._scored += int(scored.sum())
        mask = inputs.get("attention_mask")
        self._tokens += int(inputs["input_ids"].numel() if mask is None else mask.sum())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's own figures under its own names; accuracy over tokens, not over micro-batches.

        As TRL counts them, `num_tokens` are those of all steps of this process.
        """
        if self._scored:
            logs["mean_token_accuracy"] = self._correct / self._scored
            logs["num_tokens"] = self._tokens
            self._correct = self._scored = 0
        super().log(logs, start_time)


def learning_rate_share(step: int, steps: int, *, warmup_fraction: float, final: float) -> float:
    """Learning rate of step `step` (from 0) of `steps`, as a share of the highest one.

        rising:   (step + 1) / (warm + 1)                       for step < warm
        falling:  final + (1 - final) (1 + cos(pi x)) / 2,  x = (step - warm) / (last - warm)

    with warm = ceil(warmup_fraction * steps) and last = steps - 1. Differs from transformers'
    cosine_with_min_lr: its first warm-up step trains at rate 0, and its minimum is what the step
    after the last would have; here the first step counts and the last one has the minimum.
    """
    warm = min(math.ceil(warmup_fraction * steps), steps - 1)
    if step < warm:
        return (step + 1) / (warm + 1)
    done = min(1.0, (step - warm) / max(1, steps - 1 - warm))
    return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2


def passthrough_problems(arguments: Mapping[str, Any]) -> list[str]:
    """What is wrong with the recipe's `trl` mapping, one line a problem."""
    fields = {name for name, field in TrlConfig.__dataclass_fields__.items() if field.init}
    shared = trainer_arguments(Context(0, Machine(), Path()), rows=1, steps=1)
    fixed = {*_CONFIG_FIELDS, *_OWN, *shared} - {"gradient_checkpointing"}
    problems = []
    for name in sorted(arguments):
        if name in OURS:
            problems.append(f"trl.{name}: set the stage's own key {OURS[name]} instead")
        elif name in REFUSED:
            problems.append(f"trl.{name}: not allowed: {REFUSED[name]}")
        elif name.startswith(("hub_", "push_to_hub", "eval_", "do_", "logging_", "fsdp")):
            problems.append(f"trl.{name}: not allowed: outputs and launch belong to the factory")
        elif name not in fields:
            problems.append(f"trl.{name}: unknown; the names are those of trl.SFTConfig")
        elif name in fixed:
            problems.append(f"trl.{name}: not allowed: the recipe or the machine file sets it")
    return problems


_CONFIG_FIELDS = ("learning_rate", "weight_decay", "max_grad_norm", "packing")
_OWN = {
    "train_sampling_strategy": "sequential",
    "dataset_kwargs": {"skip_prepare_dataset": True},
    "dataloader_num_workers": 0,
    "remove_unused_columns": False,
    "eval_strategy": "no",
}
"""What TRL is told because rows are planned and tokenised before."""


def training_arguments(
    config: SftConfig, context: Context, *, micro_batch: int, steps: int
) -> TrlConfig:
    """The whole of TRL's configuration; RecipeError where it refuses a passed-through value."""
    accumulation = config.batch // (micro_batch * context.machine.processes)
    fields = {
        **_OWN,
        **trainer_arguments(context, rows=micro_batch, accumulation=accumulation, steps=steps),
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "adam_beta1": config.adam_betas[0],
        "adam_beta2": config.adam_betas[1],
        "max_length": None,
        "padding_free": config.packing,
        **optimizer_fields(config.optimizer),
        **config.trl,
    }
    try:
        return TrlConfig(**fields)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"trl: refused by trl.SFTConfig: {error}") from error


def make_trainer(
    config: SftConfig,
    rows: StoredRows,
    *,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    micro_batch: int,
    context: Context,
    callbacks: Sequence[TrainerCallback] = (),
) -> CompletionTrainer:
    """The trainer with all its callbacks, ready to `train`."""
    order = plan_order(
        rows.tokens.tolist(),
        epochs=config.epochs,
        batch=config.batch,
        micro_batch=micro_batch,
        level=config.packing,
        seed=context.seed,
        longest_first=config.longest_first,
    )
    steps = step_count(len(rows), epochs=config.epochs, batch=config.batch)
    trainer = CompletionTrainer(
        model=model,
        args=training_arguments(config, context, micro_batch=micro_batch, steps=steps),
        train_dataset=rows.in_order(order),
        processing_class=tokenizer,
        peft_config=peft_config(config.lora),
        callbacks=[
            CompleteCheckpoints(),
            Telemetry(telemetry_path(context), context, values=telemetry_values),
            *callbacks,
        ],
        share=lambda step, total: learning_rate_share(
            step,
            total,
            warmup_fraction=config.warmup_fraction,
            final=config.final_learning_rate_share,
        ),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def telemetry_path(context: Context) -> Path:
    return context.scratch / "telemetry.jsonl"


def telemetry_values(logs: Logs) -> dict[str, float]:
    """The deterministic figures of a step; `loss` is the mean over the batch's scored tokens."""
    return {
        "loss": logs["loss"],
        "learning_rate": logs["learning_rate"],
        "grad_norm": logs["grad_norm"],
        "token_accuracy": logs["mean_token_accuracy"],
    }


def train(
    config: SftConfig,
    rows: StoredRows,
    *,
    folder: Path,
    tokenizer: "PreTrainedTokenizerBase",
    micro_batch: int,
    out: Path,
    context: Context,
    pieces: Pieces = MappingProxyType({}),
    watched: Sequence[Problem] = (),
) -> dict[str, float]:
    """Fine-tune the model in `folder` on the rows and write it to `out` in its own dtype.

    Returns what there is to say of `watched`, the problems that are measured on the way. `pieces`
    are the tokens that `tokenizer` has beyond the model's own, and what they were before.

    Where memory runs out, a single process goes on from its last checkpoint with micro-batches of
    half the rows and twice as many of them a step. What shares a batch, and the loss as a mean over
    the whole batch, do not depend on how it is cut. EngineError where one row is too much.
    """
    ends = training_ends(folder, tokenizer, config.prompt)
    figures: dict[str, float] = {}

    def attempt() -> None:
        model = open_policy(folder, config.lora, context.machine)
        _fit_to_texts(model, tokenizer, pieces)

        def save(target: Path) -> None:
            save_model(
                trainer, folder, target, new_tokens=tuple(pieces), ends=ends,
                keeps_adapters=keeps_adapters(config.lora),
            )  # fmt: skip

        with open_watch(config, watched, folder, tokenizer, save, context) as watch:
            trainer = make_trainer(
                config, rows, model=model, tokenizer=tokenizer, micro_batch=micro_batch,
                context=context, callbacks=[watch] if watch else [],
            )  # fmt: skip
            run_trainer(trainer, context)
            if watch is None:
                save(out)
            elif trainer.is_world_process_zero():
                figures.update(watch.finish(out))

    share = config.batch // context.machine.processes
    while not _fits(attempt, context.machine):
        if micro_batch == 1:
            raise EngineError(
                "sft: out of memory with one row at a time: lower context, train adapters (lora), "
                "or take a larger machine"
            )
        smaller = half_micro_batch(share, micro_batch)
        context.note(
            f"sft: out of memory with {micro_batch} rows a pass: goes on with {smaller}, "
            f"{share // smaller} passes a step instead of {share // micro_batch}; set micro_batch: "
            f"{smaller} in the machine file"
        )
        micro_batch = smaller
    return figures


def half_micro_batch(share: int, micro_batch: int) -> int:
    """The most rows up to half of `micro_batch` that divide a process's share of the batch."""
    return next(rows for rows in range(micro_batch // 2, 0, -1) if share % rows == 0)


def _fits(attempt: Callable[[], None], machine: Machine) -> bool:
    """Whether memory was enough for the attempt; where not, all that it took is given back."""
    try:
        attempt()
    except (MemoryError, RuntimeError) as error:
        # One of several ranks must not go on alone.
        if machine.processes > 1 or not is_out_of_memory(error):
            raise
    else:
        return True
    # Only here, since the error's traceback held the trainer.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False


def _fit_to_texts(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", pieces: Pieces
) -> None:
    """Give the model its attention, and a row for every new token."""
    # Of other types attention may do more than this one knows of (sinks, capped scores). On GPUs
    # and for many scores it is transformers' "sdpa".
    if model.config.model_type in COVERED:
        model.set_attn_implementation(TWO_PRODUCTS)
    if pieces:
        grow_embeddings(model, tokenizer, pieces)
