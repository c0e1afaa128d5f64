"""R1's settings in TRL's words: the stage's config and the machine to arguments of GRPOConfig."""

import math
from typing import Any

from factory.core.context import Context
from factory.core.errors import RecipeError
from factory.core.machine import Machine
from factory.core.ranks import this_rank
from factory.stages.grpo.config import GrpoConfig
from factory.trainers.arguments import largest_divisor, share_of_rank, trainer_arguments
from factory.trainers.lowmem import optimizer_fields
from factory.trainers.trl_hooks import GRPOConfig as TrlConfig


def mathematics(config: GrpoConfig) -> dict[str, Any]:
    """TRL arguments of R1's eq. 1 to 3 as `config` states them.

    TRL 1.16's own defaults differ from the paper: loss_type dapo, beta 0, epsilon 0.2, a KL
    multiplied by the ratio (use_bias_correction_kl), and a soft update of the reference
    (ref_model_mixup_alpha 0.6).
    """
    return {
        "beta": config.kl,
        "epsilon": config.epsilon,
        "epsilon_high": config.epsilon if config.epsilon_high is None else config.epsilon_high,
        "delta": None,
        "loss_type": config.loss_type,
        "scale_rewards": "group",
        "multi_objective_aggregation": "sum_then_normalize",
        "importance_sampling_level": "token",
        "use_bias_correction_kl": False,
        "mask_truncated_completions": False,
        "sync_ref_model": config.kl > 0 and config.reference_refresh_steps > 0,
        "ref_model_sync_steps": max(1, config.reference_refresh_steps),
        "ref_model_mixup_alpha": 1.0,
        "num_iterations": 1,
        "num_generations": config.group,
        "max_completion_length": config.largest_limit,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": 0,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": config.warmup_steps,
        **optimizer_fields(config.optimizer, plain="adamw_torch"),
        "adam_beta1": config.adam_betas[0],
        "adam_beta2": config.adam_betas[1],
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        **config.trl,
    }


def training_arguments(config: GrpoConfig, context: Context, *, rows: int) -> TrlConfig:
    """The whole of TRL's configuration; RecipeError where TRL refuses a passed-through value.

    `rows` completions, a divisor of a rank's, make one of TRL's batches on each rank.
    """
    accumulation = prompts_per_rank(config) * config.group // rows
    # TRL does not save the rows that a rollout phase still holds: inside one there is no state to
    # go on from exactly.
    phase = config.updates_per_rollout
    fields = {
        **trainer_arguments(
            context,
            rows=rows,
            accumulation=accumulation,
            steps=config.steps,
            save_every=math.ceil(context.machine.checkpoint_steps / phase) * phase,
        ),
        "steps_per_generation": accumulation * phase,
        "shuffle_dataset": False,  # the rows lie in the order in which they are asked
        "use_vllm": False,  # our Sampler holds the engine, vLLM or another
        "remove_unused_columns": False,
        **mathematics(config),
    }
    try:
        return TrlConfig(**fields)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"trl: refused by trl.GRPOConfig: {error}") from error


def prompts_per_rank(config: GrpoConfig) -> int:
    """Questions an update on each rank; RecipeError if they do not divide evenly."""
    ranks = this_rank().count
    if ranks > 1 and config.dynamic_sampling is not None:
        raise RecipeError(
            f"dynamic_sampling: draws for one process, found {ranks}; set processes: 1 in the "
            "machine file or leave it out"
        )
    return share_of_rank(config.prompts, "questions")


def plain_rows(config: GrpoConfig, machine: Machine) -> int:
    """The most completions that a forward pass of TRL's own may take: whole groups, or as many
    rows as the machine says; a divisor of a rank's share."""
    share, limit = prompts_per_rank(config), machine.train.micro_rows
    if limit:
        return largest_divisor(share * config.group, limit)
    return config.group * largest_divisor(share, machine.micro_groups)
