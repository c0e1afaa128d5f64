"""What a recipe may hand on to TRL as it is, by name."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

OWN_NAMES = {
    "beta": "kl",
    "epsilon": "epsilon",
    "epsilon_high": "epsilon_high",
    "loss_type": "loss_type",
    "reward_weights": "rewards",
    "sync_ref_model": "reference_refresh_steps",
    "ref_model_sync_steps": "reference_refresh_steps",
    "ref_model_mixup_alpha": "reference_refresh_steps",
    "num_iterations": "updates_per_rollout",
    "steps_per_generation": "updates_per_rollout",
    "generation_batch_size": "updates_per_rollout",
    "num_generations": "group",
    "max_completion_length": "max_new_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "max_steps": "steps",
    "num_train_epochs": "steps",
    "learning_rate": "learning_rate",
    "warmup_steps": "warmup_steps",
    "warmup_ratio": "warmup_steps",
    "adam_beta1": "adam_betas",
    "adam_beta2": "adam_betas",
    "weight_decay": "weight_decay",
    "max_grad_norm": "max_grad_norm",
}
"""TRL's name for what the stage's config states itself, with its name there."""

PASSED = (
    "delta", "scale_rewards", "importance_sampling_level",
    "use_bias_correction_kl", "mask_truncated_completions", "top_entropy_quantile",
    "entropy_coef", "use_adaptive_entropy", "entropy_coef_min", "entropy_coef_max",
    "entropy_coef_delta", "entropy_target", "off_policy_mask_threshold", "sapo_temperature_neg",
    "sapo_temperature_pos", "vespo_k_pos", "vespo_k_neg", "vespo_lambda_pos", "vespo_lambda_neg",
    "gradient_checkpointing", "gradient_checkpointing_kwargs", "optim", "optim_args",
    "adam_epsilon", "lr_scheduler_type", "lr_scheduler_kwargs", "cast_lm_head_to_fp32",
    "disable_dropout", "router_aux_loss_coef",
)  # fmt: skip
"""What a recipe's `trl` mapping may set: the objective and the optimiser. Sampling, batches,
output and launch belong to the factory."""


def passthrough_problems(arguments: Mapping[str, Any]) -> list[str]:
    """What is wrong with a recipe's `trl` mapping, one line a problem.

    TRL is imported only to say what a name means that is not free: a plan takes no seconds.
    """
    problems = []
    for name in sorted(set(arguments) - set(PASSED)):
        if name in OWN_NAMES:
            problems.append(f"trl.{name}: set the stage's own key {OWN_NAMES[name]} instead")
        elif name in (all_names := trl_names()):
            problems.append(f"trl.{name}: not allowed: the factory sets it; free are {PASSED}")
        else:
            near = difflib.get_close_matches(name, all_names, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            problems.append(f"trl.{name}: trl.GRPOConfig has no such argument{hint}")
    return problems


def trl_names() -> set[str]:
    """Every argument of TRL's configuration."""
    from factory.trainers.trl_hooks import GRPOConfig

    return {field.name for field in dataclasses.fields(GRPOConfig)}
