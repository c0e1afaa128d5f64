"""Whether the reference of the KL term is the model that training starts from."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from factory.errors import EngineError

if TYPE_CHECKING:
    from trl import GRPOTrainer

KL_BOUNDS = {"float32": 1e-6, "16 bits": 2e-3}
"""Largest mean KL of a token, nats, between two models that should be one.

Both are asked for the same tokens in the same batches: they round alike, and 0 is usual. 16 bits:
gaps of 0.05 nats on average, the bound of the parity check, are 0.05^2 pi / 4 of KL where they are
normal. A reference that was never loaded is several nats away.
"""


def require_reference(trainer: "GRPOTrainer", batch: Mapping[str, Tensor]) -> None:
    """EngineError unless policy and reference agree about the first rollout, before any update.

    `batch` is what TRL made of the rollout. The policy is asked as the reference was, without
    dropout. Adapters on a model with dropout are left out: TRL draws dropout for their reference.
    """
    if trainer.ref_model is None and _has_dropout(trainer.model):
        return
    own = policy_logprobs(trainer, batch)
    mask = batch["completion_mask"].bool()
    worst = mean_kl(own[mask], batch["ref_per_token_logps"][mask])
    largest = trainer.accelerator.gather(worst.to(trainer.accelerator.device)).max().item()
    dtype = "float32" if trainer.accelerator.mixed_precision == "no" else "16 bits"
    if not largest <= KL_BOUNDS[dtype]:
        raise EngineError(
            f"step 1: the KL between policy and reference is {largest:.3g} before any update; it "
            f"must be 0 (at most {KL_BOUNDS[dtype]} in {dtype}): the reference is not the model "
            f"that training starts from; {_remedy(trainer)}"
        )


def require_loaded_reference(trainer: "GRPOTrainer") -> None:
    """EngineError where a resumed run has a reference that nothing can check any more."""
    if trainer.ref_model is not None and _is_loaded_by_the_first_rank(trainer):
        raise EngineError(
            "the KL reference was loaded by the first rank alone, and after an update its KL "
            f"tells nothing; {_remedy(trainer)}"
        )


@torch.no_grad()
def policy_logprobs(trainer: "GRPOTrainer", batch: Mapping[str, Tensor]) -> Tensor:
    """Log-probs (rows, completion tokens) under the policy, computed as those of the reference."""
    model = trainer.model
    was_training = model.training
    model.eval()
    try:
        return trainer._get_per_token_logps_and_entropies(
            model,
            torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
            torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
            batch["completion_ids"].shape[1],
            batch_size=trainer.args.per_device_train_batch_size,
        )[0]
    finally:
        model.train(was_training)


def mean_kl(own: Tensor, reference: Tensor) -> Tensor:
    """Mean of exp(d) - d - 1 over tokens, d = reference - own, in float64; shape (1,).

    TRL's estimator of KL(own || reference); 0 where there is no token. Source: Schulman's k3.
    """
    gaps = reference.double() - own.double()
    kl = torch.expm1(gaps) - gaps
    return (kl.sum() / max(1, kl.numel())).view(1)


def _remedy(trainer: "GRPOTrainer") -> str:
    if _is_loaded_by_the_first_rank(trainer):
        return (
            "the accelerate config says fsdp_cpu_ram_efficient_loading: true, with which ranks "
            "but the first never load it; write fsdp_cpu_ram_efficient_loading: false there"
        )
    return "look at what changed either of them after it was loaded, or set kl: 0 to train without"


def _is_loaded_by_the_first_rank(trainer: "GRPOTrainer") -> bool:
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    return bool(plugin is not None and plugin.cpu_ram_efficient_loading)


def _has_dropout(model: torch.nn.Module) -> bool:
    if any(isinstance(part, torch.nn.Dropout) and part.p > 0 for part in model.modules()):
        return True
    config = model.config.to_dict()  # attention may call the function instead
    return any(
        isinstance(value, int | float) and value > 0
        for name, value in config.items()
        if "dropout" in name or "pdrop" in name
    )
