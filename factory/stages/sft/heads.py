"""How a model's logits come from its hidden states, seen on the first rows it trains on."""

from typing import TYPE_CHECKING, Any, Literal

import torch

from factory.core.errors import RecipeError
from factory.models.parts import causal_model, head_of, trained_model

if TYPE_CHECKING:
    from factory.trainers.trl_hooks import SFTTrainer

Head = Literal["plain", "fused", "own"]
SAME = 1e-4, 3e-2
"""Of the largest logit, in float32 and in bfloat16: two ways to round differ by less."""
CHANGES = (
    "final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier",
    "output_multiplier",
)  # fmt: skip
"""What TRL reads from a config. A cap hardly shows on the small logits of an untrained model."""


@torch.no_grad()
def head_of_logits(trainer: "SFTTrainer", ids: torch.Tensor) -> Head:
    """How the loss meets the head: `plain` where logits are float32 hidden @ weight.T on a CPU,
    `fused` as TRL does, which knows some scales and caps by their names in the config, or `own`:
    through the model's own logits, where TRL's likelihoods of these ids are not the model's.

    Ranks do not look: each may hold a part of the model, under FSDP one alone too. RecipeError
    where a loss is stated that only TRL has and TRL's is wrong.
    """
    settings: Any = trainer.args
    in_ranks = trainer.accelerator.num_processes > 1 or trainer.is_fsdp_enabled
    if in_ranks or ids.shape[1] < 2:
        return "fused"
    model = causal_model(trained_model(trainer))
    was_training = model.training
    model.eval()
    logits = model(input_ids=ids, use_cache=False).logits.float()
    fused: Any = model(input_ids=ids, labels=ids, fused_lm_head=True)
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    model.train(was_training)
    is_exact = model.dtype != torch.bfloat16 and not settings.bf16
    near = SAME[0 if is_exact else 1] * logits.abs().max()
    is_nll = settings.loss_type == "nll" and not trainer.aux_loss_enabled
    if is_nll and trainer.label_smoother is None and _may_be_plain(trainer):
        plain = hidden @ head_of(model).weight.T
        if (plain - logits).abs().max() <= near:
            return "plain"
    own = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    if (own - fused.log_probs).abs().max() <= near or trainer.label_smoother is not None:
        return "fused"
    if not is_nll:
        raise RecipeError(
            "sft: this model does more to its logits than TRL knows of, so that only the plain "
            "loss is right for it: leave out trl.loss_type and losses of routers"
        )
    return "own"


def _may_be_plain(trainer: "SFTTrainer") -> bool:
    """What speaks against it before any pass."""
    model = trained_model(trainer)
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    return (
        trainer.args.device.type == "cpu"
        and not trainer.args.bf16
        and type(head) is torch.nn.Linear
        and head.bias is None
        and all(getattr(config, name, None) is None for name in CHANGES)
    )
