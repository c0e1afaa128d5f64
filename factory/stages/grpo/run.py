"""The grpo stage: reinforcement learning from rule rewards with R1's objective.

DeepSeek-R1 (arXiv 2501.12948 v2), eq. 1 to 3, per question with G sampled outputs o_i:

    J = 1/G sum_i 1/|o_i| sum_t [ min(r_it A_i, clip(r_it, 1 - eps, 1 + eps) A_i) - beta KL_it ]
    KL_it = ref_it / pi_it - log(ref_it / pi_it) - 1       (k3 estimator, in the loss)
    A_i = (reward_i - mean) / (std + 1e-4)                 (mean and std of the G rewards)

The paper writes the ratio r of whole outputs but speaks of clipped tokens; DeepSeekMath, where
the objective comes from, writes it per token and divides by the output's length. We take that.
The paper's A_i has no 1e-4; a group with equal rewards gives zeros here.
"""

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from factory.core.artifacts import Artifact, Inputs
from factory.core.blocks import Block, Text
from factory.core.context import Context, Metrics
from factory.core.errors import DataError, RecipeError
from factory.core.jsonl import recover_rows
from factory.core.readable import count
from factory.core.records import Problem
from factory.grading import GRADING_PACKAGES
from factory.grading.judge import require_basis
from factory.problems.canaries import canaries
from factory.rewards.language import SCRIPTS
from factory.stages.chosen import chosen_problems
from factory.stages.grpo.config import GrpoConfig
from factory.stages.grpo.estimate import estimate
from factory.stages.grpo.passthrough import passthrough_problems
from factory.stages.judged import judge_blocks
from factory.stages.small import HELD_OUT, SAMPLES, TOKENS, small_judge
from factory.stages.stage import (
    Fields,
    Shows,
    register,
    training_stage,
)
from factory.trainers.lowmem import gaps

SUMMARY = 8
"""Rollouts behind a figure of the summary: one rollout alone is mostly noise."""


def check(config: GrpoConfig) -> list[str]:
    """What is wrong with `language` and `trl`, one line a problem."""
    problems = []
    if config.language not in SCRIPTS:
        problems.append(f"language: {config.language!r} is not one of {', '.join(sorted(SCRIPTS))}")
    return problems + passthrough_problems(config.trl)


def run(config: GrpoConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Train; fills `out` with the model, telemetry.jsonl, rollouts.jsonl and, watched, watch.jsonl.

    Goes on from the last checkpoint in the context's scratch folder; the result is the same to
    the byte as that of an undisturbed run, on CPU. EngineError where engine and trainer disagree
    about log-probs, or a loss is not finite.
    """
    from factory.stages.grpo.train import train
    from factory.trainers.checkpoints import is_first_rank
    from factory.trainers.watch import spread

    objections = check(config)
    if objections:
        raise RecipeError("; ".join(objections))
    problems, general = _asked(config, inputs)
    problems += canaries(problems, config.canaries, context.seed)
    watched: list[Problem] = []
    if config.watch is not None:
        held_out = chosen_problems(
            inputs["watch.problems"].file("held_out.jsonl"), config.watch.sources
        )
        watched = spread(held_out, config.watch.limit)
    stopped = train(
        config, problems, general=general, watched=watched, model=inputs["model"], out=out,
        context=context,
        reward_models={
            reward.name: inputs[f"rewards.{index}.model"].path
            for index, reward in enumerate(config.rewards) if reward.is_learned
        },
        judge=inputs[config.judge_field].path if config.judge else None,
    )  # fmt: skip
    if not is_first_rank():
        return {}  # the first rank may be writing the files below
    names = ["telemetry.jsonl", "rollouts.jsonl"]
    names += ["asked.jsonl"] if config.dynamic_sampling else []
    names += ["watch.jsonl"] if config.watch else []
    names += ["stopped.json"] if (context.scratch / "stopped.json").exists() else []
    for name in names:
        shutil.copyfile(context.scratch / name, out / name)
    return _summary(config, recover_rows(context.scratch / "telemetry.jsonl")) | stopped


def _asked(config: GrpoConfig, inputs: Inputs) -> tuple[list[Problem], list[Problem]]:
    """The problems that rules reward, and the general prompts; DataError where one is the other."""
    problems = chosen_problems(inputs["problems"].file("train.jsonl"), config.sources)
    if any(problem.kind == "open" for problem in problems):
        raise DataError(
            f"{inputs['problems'].path}: has problems of kind open, which no rule rewards; name "
            "them under general"
        )
    if config.general is None:
        return problems, []
    general = chosen_problems(inputs["general.problems"].file("train.jsonl"), ())
    if any(problem.kind != "open" for problem in general):
        raise DataError(f"{inputs['general.problems'].path}: not all problems are of kind open")
    if config.judge is not None:
        require_basis(general, config.judge)
    return problems, general


def _summary(config: GrpoConfig, rows: Sequence[Mapping[str, float]]) -> Metrics:
    """Figures of the first and the last rollouts, each a mean over up to SUMMARY of them."""
    rollouts = [row for row in rows if "reward" in row]
    lengths = sum(row["completion_length"] for row in rollouts)
    completions = config.prompts * config.group * config.updates_per_rollout
    metrics = {"steps": float(len(rows)), "completion_tokens": float(round(lengths * completions))}
    for name in ("reward", "accuracy", "completion_length", "signal_share"):
        # A rollout of general prompts alone has no accuracy.
        values = [row[name] for row in rollouts if name in row]
        for end, part in (("first", values[:SUMMARY]), ("last", values[-SUMMARY:])):
            if part:
                metrics[f"{name}_{end}"] = sum(part) / len(part)
    for name in sorted({name for row in rows for name in row if name.startswith("judge/")}):
        metrics[name.removeprefix("judge/")] = sum(row.get(name, 0.0) for row in rows)
    if config.canaries:
        metrics["canary_alarms"] = float(sum(row.get("canary_accuracy", 0) > 0 for row in rows))
    return metrics


def completions(artifact: Artifact) -> float:
    config = artifact.manifest.config
    updates = config["updates_per_rollout"]
    rollouts = math.ceil(artifact.manifest.metrics["steps"] / updates)
    return rollouts * updates * config["prompts"] * config["group"]


def small(fields: Fields) -> Fields:
    # A reward that starts late starts at the last step, so that its start is rehearsed too.
    rewards = [
        {
            **reward,
            "start_step": min(reward["start_step"], 2),
            "end_step": None,
            "ramp_steps": 0,
            "judge": reward["judge"] and small_judge(reward["judge"]),
        }
        for reward in fields["rewards"]
    ]
    # So does the last jump of the length.
    jumps = [{"from_step": 2, "max_new_tokens": 2 * TOKENS}] if fields["length_jumps"] else []
    watch = fields["watch"]
    updates = min(fields["updates_per_rollout"], 2)
    if watch:
        most = {"samples": min(watch["samples"], SAMPLES), "limit": HELD_OUT}
        watch = {**watch, **most, "sources": [], "every": updates}
    general = fields["general"]
    return {
        **fields,
        "general": general and {**general, "start_step": min(general["start_step"], 3 - updates)},
        "rewards": rewards,
        "length_jumps": jumps,
        "watch": watch,
        "sources": [],
        "steps": 2,
        "prompts": 2,
        "group": 2,
        "updates_per_rollout": updates,
        "warmup_steps": min(fields["warmup_steps"], 1),
        "reference_refresh_steps": min(fields["reference_refresh_steps"], 1),
        "max_new_tokens": TOKENS,
    }


def shown(artifact: Artifact) -> Sequence[Block]:
    """A sentence where an alarm ended the run, and how a judge agreed with rules."""
    metrics = artifact.manifest.metrics
    agreed = judge_blocks(artifact)
    last, kept = metrics.get("stopped_step"), metrics.get("weights_step")
    if last is None or kept is None:
        return agreed
    text = (
        f"{artifact.manifest.name} was ended after step {count(last)} by the alarm of its watch; "
        f"its weights are those of step {count(kept)}, the best measurement before."
    )
    return [Text(text, "worse"), *agreed]


STAGE = register(
    training_stage(
        GrpoConfig,
        produces="model",
        version=4,
        run=run,
        packages=("torch", "transformers", "trl", "peft", "py3langid", *GRADING_PACKAGES),
        preload=("factory.stages.grpo.train", "factory.sampling.blocks"),
        check=check,
        missing=gaps,
        memory_settings=("micro_groups", "engine_memory_gib", "gpu_memory_fraction_rl"),
        estimate=estimate,
        completions=completions,
        tokens="sampled",
        small=small,
        visible=("model", "prompt", "lora"),
        shows=Shows("evolution", shown),
    )
)
