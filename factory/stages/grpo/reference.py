"""Whether the reference of the KL term is the model that training starts from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from factory.core.errors import EngineError
from factory.models.parts import trained_model
from factory.trainers.checkpoints import output_folder
from factory.trainers.running import gathered_over_ranks
from factory.trainers.trl_hooks import GivenLogprobsTrainer
from factory.trainers.weights import fill, gathered

KL_BOUNDS = {"float32": 1e-6, "16 bits": 2e-3}
"""Largest mean KL of a token, nats, between two models that should be one.

Both are asked for the same tokens in the same batches: they round alike, and 0 is usual. 16 bits:
gaps of 0.05 nats on average, the bound of the parity check, are 0.05^2 pi / 4 of KL where they are
normal. A reference that was never loaded is several nats away.
"""


@dataclass(frozen=True)
class ScoredBatch:
    """A batch, and what the reference gave its completions."""

    input_ids: Tensor
    attention_mask: Tensor
    completion_length: int
    logprobs: Tensor


class KeptReference(TrainerCallback):
    """Keeps a refreshed reference in each checkpoint, and gives it back to a resumed run.

    It has to stand before the callback that marks checkpoints as complete.
    """

    def __init__(self, trainer: GivenLogprobsTrainer) -> None:
        self.trainer = trainer

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        trainer = self.trainer
        refreshed = trainer.args.sync_ref_model and (
            state.global_step >= trainer.args.ref_model_sync_steps
        )
        if trainer.ref_model is None or not refreshed:
            return
        reference = trainer.accelerator.unwrap_model(trainer.ref_model)
        tensors = {
            name: gathered(p.detach()).contiguous() for name, p in reference.named_parameters()
        }
        if args.should_save:
            save_file(tensors, _file(args, state))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:
            return
        require_loaded_reference(self.trainer)
        path = _file(args, state)
        if self.trainer.ref_model is None or not path.exists():
            return
        model = self.trainer.accelerator.unwrap_model(self.trainer.ref_model)
        reference = dict(model.named_parameters())
        for name, tensor in load_file(path).items():
            fill(reference[name], tensor)


def _file(args: TrainingArguments, state: TrainerState) -> Path:
    """Of the weights of a reference that was refreshed, in the checkpoint of this step."""
    return output_folder(args) / f"checkpoint-{state.global_step}" / "reference.safetensors"


def require_reference(trainer: GivenLogprobsTrainer, batch: ScoredBatch) -> None:
    """EngineError unless policy and reference agree about the first rollout, before any update.

    The policy is asked as the reference was, without dropout. Adapters on a model with dropout are
    left out: TRL draws dropout for their reference.
    """
    if trainer.ref_model is None and _has_dropout(trained_model(trainer)):
        return
    own = policy_logprobs(trainer, batch)
    mask = batch.attention_mask[:, -batch.completion_length :].bool()
    worst = mean_kl(own[mask], batch.logprobs[mask])
    largest = gathered_over_ranks(trainer, worst).max().item()
    dtype = "float32" if trainer.accelerator.mixed_precision == "no" else "16 bits"
    if not largest <= KL_BOUNDS[dtype]:
        raise EngineError(
            f"step 1: the KL between policy and reference is {largest:.3g} before any update; it "
            f"must be 0 (at most {KL_BOUNDS[dtype]} in {dtype}): the reference is not the model "
            f"that training starts from; {_remedy(trainer)}"
        )


def require_loaded_reference(trainer: GivenLogprobsTrainer) -> None:
    """EngineError where a resumed run has a reference that nothing can check any more."""
    if trainer.ref_model is not None and _is_loaded_by_the_first_rank(trainer):
        raise EngineError(
            "the KL reference was loaded by the first rank alone, and after an update its KL "
            f"tells nothing; {_remedy(trainer)}"
        )


@torch.no_grad()
def policy_logprobs(trainer: GivenLogprobsTrainer, batch: ScoredBatch) -> Tensor:
    """Log-probs (rows, completion tokens) under the policy, computed as those of the reference."""
    model = trained_model(trainer)
    was_training = model.training
    model.eval()
    try:
        return trainer.batch_logprobs(
            model, batch.input_ids, batch.attention_mask, batch.completion_length,
            batch_size=trainer.args.per_device_train_batch_size,
        )[0]  # fmt: skip
    finally:
        model.train(was_training)


def mean_kl(own: Tensor, reference: Tensor) -> Tensor:
    """Mean of exp(d) - d - 1 over tokens, d = reference - own, in float64; shape (1,).

    TRL's estimator of KL(own || reference); 0 where there is no token. Source: Schulman's k3.
    """
    gaps = reference.double() - own.double()
    kl = torch.expm1(gaps) - gaps
    return (kl.sum() / max(1, kl.numel())).view(1)


def _remedy(trainer: GivenLogprobsTrainer) -> str:
    if _is_loaded_by_the_first_rank(trainer):
        return (
            "the accelerate config says fsdp_cpu_ram_efficient_loading: true, with which ranks "
            "but the first never load it; write fsdp_cpu_ram_efficient_loading: false there"
        )
    return "look at what changed either of them after it was loaded, or set kl: 0 to train without"


def _is_loaded_by_the_first_rank(trainer: GivenLogprobsTrainer) -> bool:
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    return bool(plugin is not None and plugin.cpu_ram_efficient_loading)


def _has_dropout(model: PreTrainedModel) -> bool:
    if any(isinstance(part, torch.nn.Dropout) and part.p > 0 for part in model.modules()):
        return True
    # Attention may call the function instead.
    return any(
        isinstance(value, int | float) and value > 0
        for name, value in model.config.to_dict().items()
        if "dropout" in name or "pdrop" in name
    )
