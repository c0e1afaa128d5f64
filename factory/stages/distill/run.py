"""The distill stage: on-policy distillation, beyond the paper.

R1's distillation is `sft` on a teacher's traces: the student only ever sees texts that it did not
write. Here it writes itself, and at every token of its text its next-token distribution is drawn
towards the teacher's: generalised knowledge distillation (GKD, arXiv 2306.13649, eq. 1), with
student s, teacher t and m = (1 - beta) s + beta t, averaged over the tokens of an update:

    D = beta KL(t || m) + (1 - beta) KL(s || m)      0 < beta < 1
    D = KL(t || s)  at beta = 0,  D = KL(s || t)  at beta = 1
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from factory.core.artifacts import Artifact, Inputs
from factory.core.context import Context, Metrics
from factory.core.jsonl import recover_rows
from factory.cost import formulas
from factory.cost.context import CostContext, Model, StageCost
from factory.cost.flows import Questions
from factory.cost.work import training_work
from factory.stages.chosen import chosen_problems
from factory.stages.distill.config import DistillConfig
from factory.stages.small import TOKENS
from factory.stages.stage import (
    Fields,
    register,
    training_stage,
)
from factory.trainers.lowmem import gaps, held

SUMMARY = 8
"""Updates behind a figure of the summary: one update alone is mostly noise."""


def run(config: DistillConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Train the student; fills `out` with the model and telemetry.jsonl.

    Goes on from the last checkpoint in the context's scratch folder; the result is the same to the
    byte as that of an undisturbed run, on CPU. RecipeError where the teacher's tokens are others;
    EngineError where engine and trainer disagree about log-probs, or a loss is not finite.
    """
    from factory.stages.distill.trainer import train
    from factory.trainers.checkpoints import is_first_rank

    problems = chosen_problems(inputs["problems"].file("train.jsonl"), config.sources)
    train(
        config, problems, traces=inputs["traces"].traces() if config.traces else (),
        student=inputs["model"].path, teacher=inputs["teacher"].path, out=out, context=context,
    )  # fmt: skip
    telemetry = context.scratch / "telemetry.jsonl"
    if not is_first_rank():
        return {}  # the first rank may be writing the file below
    shutil.copyfile(telemetry, out / "telemetry.jsonl")
    return _summary(config, recover_rows(telemetry))


def _summary(config: DistillConfig, rows: Sequence[Mapping[str, float]]) -> Metrics:
    """Counts, and figures of the first and the last updates, each a mean over up to SUMMARY."""
    lengths = [row["completion_length"] for row in rows]
    metrics = {
        "steps": float(len(rows)),
        "completions": float(len(rows) * config.own),
        "completion_tokens": float(round(sum(lengths) * config.own)),
    }
    for name in ("loss", "completion_length", "truncated_share"):
        values = [row[name] for row in rows]
        for end, part in (("first", values[:SUMMARY]), ("last", values[-SUMMARY:])):
            metrics[f"{name}_{end}"] = sum(part) / len(part)
    return metrics


def estimate(config: DistillConfig, cost: CostContext) -> tuple[StageCost, Model]:
    """Traces are taken to be as long as the student's own texts; every position meets the head of
    both models, forward and again in the backward pass."""
    model, teacher = cost.model(), cost.model("teacher")
    supply: Questions = cost.read("problems")
    _, question = supply.count_and_length("train", config.sources)
    completion, is_assumed = cost.expected(config.max_new_tokens)
    load = cost.decode_load(
        model, config.prompt, question=question, prompts=config.own, rows=config.own,
        completion=completion, limit=config.max_new_tokens, training=True,
    )  # fmt: skip
    length = load.frame + load.own + completion
    trained = training_work(
        cost, model, tokens=config.steps * config.prompts * length, length=length,
        steps=config.steps, longest=load.frame + load.own + config.max_new_tokens,
        rows=min(cost.machine.micro_batch, max(1, config.prompts // cost.ranks)),
        held=held(cost, config.lora, config.optimizer),
    )  # fmt: skip
    read = formulas.pass_seconds(teacher.shape.size(4), cost.speed, config.prompts * length, length)
    seconds = config.steps * (cost.draw_seconds(model, load) + read) / cost.ranks
    memory = (
        trained.memory
        + teacher.shape.parameters * cost.engine_number
        + cost.engine_memory(model, load, training=True)
    )
    return replace(
        trained, seconds=cost.start + trained.seconds + seconds,
        tokens=config.steps * load.tokens, memory=memory, is_assumed=is_assumed,
    ), model  # fmt: skip


def completions(artifact: Artifact) -> float:
    return artifact.manifest.metrics["completions"]


def small(fields: Fields) -> Fields:
    return {
        **fields,
        "sources": [],
        # Half an update's texts are traces as soon as any are.
        "on_policy_share": 0.5 if fields["traces"] else 1.0,
        "completions": "verbatim",
        "steps": 2,
        "prompts": 2,
        "max_new_tokens": 16 * TOKENS if fields["traces"] else TOKENS,
    }


STAGE = register(
    training_stage(
        DistillConfig,
        produces="model",
        version=2,
        run=run,
        packages=("torch", "transformers", "trl", "peft"),
        preload=("factory.stages.distill.trainer", "factory.sampling.blocks"),
        missing=gaps,
        memory_settings=("micro_batch", "engine_memory_gib", "gpu_memory_fraction_rl"),
        estimate=estimate,
        completions=completions,
        tokens="sampled",
        small=small,
        visible=("model", "prompt", "completions", "lora"),
    )
)
