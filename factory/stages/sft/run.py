"""The sft stage: a model learns to write the completions of a set of traces.

Cold start, the fine-tuning on rejection-sampled traces, and distillation into a student are this
one stage with other inputs.
"""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from factory.core.artifacts import Inputs
from factory.core.context import Context, Metrics
from factory.core.errors import DataError, RecipeError
from factory.core.jsonl import recover_rows
from factory.cost.context import CostContext, Model, StageCost
from factory.cost.flows import Answers, prompt_tokens
from factory.cost.formulas import DecodeLoad
from factory.cost.work import training_work
from factory.stages.sft.config import SftConfig
from factory.stages.sft.watched import shown, watch_seconds, watched_problems
from factory.stages.small import CONTEXT, HELD_OUT, ROWS, TOKENS
from factory.stages.stage import (
    Fields,
    Shows,
    register,
    training_stage,
)
from factory.text.templates import open_tokenizer
from factory.trainers.arguments import micro_batch_rows
from factory.trainers.lowmem import gaps, held

if TYPE_CHECKING:
    from factory.trainers.stored_rows import StoredRows


COUNTED = ("rows", "tokens", "completion_tokens", "dropped_rows", "dropped_tokens", "dropped_share")
"""Figures of `lengths.json` that become metrics of the artifact."""


def validate(config: SftConfig) -> list[str]:
    """What is wrong with the `trl` mapping, one line a problem. Imports TRL if it is not empty."""
    if not config.trl:
        return []
    from factory.stages.sft.trainer import passthrough_problems

    return passthrough_problems(config.trl)


def run(config: SftConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Fine-tune `model` on `traces`; fills `out` with the model, telemetry.jsonl, lengths.json.

    Afterwards the saved model answers a few training questions; a note says if it does not stop.

    Goes on from the last complete checkpoint in the context's scratch folder; the result is the
    same to the byte as that of an undisturbed run, on CPU. RecipeError where the batch cannot be
    cut into micro-batches, DataError where too many rows are longer than the limit.
    """

    from factory.stages.sft import trainer
    from factory.trainers.checkpoints import is_first_rank
    from factory.trainers.opening import row_limit
    from factory.trainers.rows import token_rows
    from factory.trainers.stored_rows import stored_rows
    from factory.trainers.tokens import add_tokens

    problems = validate(config)
    if problems:
        raise RecipeError("; ".join(problems))
    folder = inputs["model"].path
    micro_batch = micro_batch_rows(config.batch, context.machine)
    tokenizer = open_tokenizer(folder)
    marks = config.prompt.form.marks if config.prompt.form and config.add_tokens else ()
    pieces = add_tokens(tokenizer, marks)
    verbatim = config.completions == "verbatim"
    rows = stored_rows(
        context.scratch / "rows.arrow",
        token_rows(inputs["traces"].traces(), config.prompt, tokenizer, verbatim=verbatim),
        is_first=is_first_rank(), notify=context.note,
    )  # fmt: skip
    limit = row_limit(folder, config.context)
    kept, report = _keep_whole_rows(rows, limit, config, out=out, context=context)
    watched = trainer.train(
        config, kept, folder=folder, tokenizer=tokenizer, micro_batch=micro_batch,
        out=out, context=context, pieces=pieces, watched=watched_problems(config, inputs),
    )  # fmt: skip
    if not is_first_rank():
        return {}  # the first rank may be writing the files below
    shutil.copyfile(trainer.telemetry_path(context), out / "telemetry.jsonl")
    steps = recover_rows(trainer.telemetry_path(context))
    return {
        **{name: float(report[name]) for name in COUNTED},
        "steps": float(len(steps)),
        "loss_first": steps[0]["loss"],
        "loss_last": steps[-1]["loss"],
        "token_accuracy": steps[-1]["token_accuracy"],
        "stopped_share": _stopped_share(out, kept, context),
        **watched,
    }


def _stopped_share(out: Path, rows: "StoredRows", context: Context) -> float:
    """Share of answers that end by themselves; a note where it is low."""
    from factory.stages.sft.stopping import MIN_STOPPED, stopped_share

    share = stopped_share(out, rows, context.machine)
    if share < MIN_STOPPED:
        context.note(
            f"sft: only {share:.0%} of greedy answers to training questions end by themselves: it "
            "has not learned to stop; train longer, or look at its answers with factory chat"
        )
    return share


def _keep_whole_rows(
    rows: "StoredRows", limit: int, config: SftConfig, *, out: Path, context: Context
) -> tuple["StoredRows", dict]:
    """The rows within the limit; reports before any training, refuses above the stated share."""
    from factory.trainers.checkpoints import is_first_rank
    from factory.trainers.stored_rows import length_report

    report = length_report(rows, limit)
    if is_first_rank():
        text = json.dumps(report, indent=2) + "\n"
        (out / "lengths.json").write_text(text, encoding="utf-8")
    message = (
        f"{report['dropped_rows']} of {len(rows)} rows ({report['dropped_tokens']} tokens) are "
        f"longer than {limit} tokens; the longest has {report['quantiles']['1.0']}"
    )
    if report["dropped_share"] > config.max_dropped_share or not report["rows"]:
        remedy = "raise context"
        if limit < config.context:
            remedy = (
                "the model reads no more than that: give its model stage a longer context, e.g. "
                f"context: {{tokens: {config.context}, rope_theta: 300000}} for Qwen2.5-Math"
            )
        raise DataError(
            f"sft: {message}: a share of {report['dropped_share']:.3f}, above max_dropped_share "
            f"{config.max_dropped_share}; {remedy}, select shorter traces, or allow a higher share"
        )
    if report["dropped_rows"]:
        context.note(f"sft: {message}: they are dropped")
    return rows.within(limit), report


REPEATED_QUESTIONS = 8
"""Of `stopping`: questions that a fine-tuned model is asked again."""


def estimate(config: SftConfig, cost: CostContext) -> tuple[StageCost, Model]:
    model = cost.model()
    traces: Answers = cost.read("traces")
    prompt = prompt_tokens(config.prompt, traces.question, model.shape).tokens
    length = min(prompt + traces.completion, config.context)
    steps = math.ceil(traces.rows / config.batch) * config.epochs
    taken = training_work(
        cost, model, tokens=steps * config.batch * length, length=length, steps=steps,
        rows=min(cost.machine.micro_batch, max(1, config.batch // cost.ranks)),
        longest=config.context, held=held(cost, config.lora, config.optimizer),
    )  # fmt: skip
    c, n = traces.completion, REPEATED_QUESTIONS
    few = DecodeLoad(n, n, 0, prompt, c, c, block=n, at_once=n)
    seconds = taken.seconds + cost.draw_seconds(model, few)
    return replace(taken, seconds=seconds + watch_seconds(config, cost, model, steps)), model


def small(fields: Fields) -> Fields:
    watch = fields["watch"]
    small_watch = {"sources": [], "limit": HELD_OUT, "max_new_tokens": TOKENS}
    return {
        **fields,
        "epochs": 1,
        "batch": ROWS,
        "context": min(fields["context"], CONTEXT),
        "max_dropped_share": 0.5,
        "completions": "verbatim",
        "watch": watch and {**watch, **small_watch, "every": 1},
    }


STAGE = register(
    training_stage(
        SftConfig,
        produces="model",
        version=2,
        run=run,
        packages=("torch", "transformers", "trl", "peft"),
        preload=("factory.stages.sft.trainer",),
        check=validate,
        missing=gaps,
        memory_settings=("micro_batch",),
        estimate=estimate,
        tokens="learned",
        small=small,
        visible=("model", "prompt", "completions", "add_tokens", "lora"),
        shows=Shows("stages", shown),
    )
)
