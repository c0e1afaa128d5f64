"""The sft stage: a model learns to write the completions of a set of traces.

Cold start, the fine-tuning on rejection-sampled traces, and distillation into a student are this
one stage with other inputs.
"""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from factory.artifacts import Inputs
from factory.chat import PromptConfig
from factory.context import Context, Metrics
from factory.cost.context import CostContext, Model, StageCost
from factory.cost.flows import Answers, prompt_tokens
from factory.cost.formulas import DecodeLoad
from factory.cost.work import training_work
from factory.errors import DataError, RecipeError
from factory.jsonl import recover_rows
from factory.records import AddedLater, ModelRef, Record, TracesRef
from factory.stages.small import CONTEXT, ROWS
from factory.stages.stage import (
    Fields,
    Stage,
    StageConfig,
    never_served,
    no_files,
    no_origins,
    no_rows,
    nothing_missing,
    register,
)

if TYPE_CHECKING:
    from factory.training.sft_rows import Row


COUNTED = ("rows", "tokens", "completion_tokens", "dropped_rows", "dropped_tokens", "dropped_share")
"""Figures of `lengths.json` that become metrics of the artifact."""


class LoraConfig(Record):
    """Low-rank adapters (arXiv 2106.09685), merged into the full weights when saved."""

    rank: int = Field(default=16, ge=1)
    """Columns of an adapter's matrices."""
    alpha: float = Field(default=32.0, gt=0)
    """The update is scaled by alpha / rank."""
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Names of the adapted layers; `all-linear` is every linear layer but the head."""


class SftConfig(StageConfig):
    """Supervised fine-tuning; the defaults are those of R1's distillation."""

    kind: Literal["sft"]
    model: ModelRef
    traces: TracesRef
    learning_rate: float = Field(default=1e-4, gt=0)
    """1e-4 for R1-Distill-Qwen-1.5B, down to 2e-5 at 70B (arXiv 2501.12948 v2, distillation)."""
    epochs: int = Field(default=3, ge=1)
    """2 to 3 in the paper, for the cold start, the 800k set and the distillation alike."""
    batch: int = Field(default=64, ge=1)
    """Traces an optimizer step, over all processes: 64 in the paper's distillation, 128 in its
    SFT of V3-Base. The last batch is filled up from one more shuffle of the rows."""
    context: int = Field(default=32768, ge=2)
    """Tokens a row may have, prompt included; 32768 in the paper. The model's own limit counts
    where it is lower. Longer rows are dropped whole, never cut."""
    max_dropped_share: float = Field(default=0.02, ge=0, le=1)
    """Share of rows that may be dropped before the stage refuses; ours."""
    packing: bool = False
    """Rows of a micro-batch laid end to end in one sequence, blind to each other, instead of
    padded: the same gradient. Pays with varlen attention kernels on GPUs; on CPUs the mask of one
    long sequence costs more than the little padding of rows sorted by length."""
    longest_first: Annotated[bool, AddedLater()] = False
    """The batch that needs most memory changes places with the first, so that one that is too
    large fails within a step and not within a night. What the batches hold stays."""
    final_learning_rate_share: float = Field(default=0.1, ge=0, le=1)
    """The cosine's last step; one tenth in the paper (arXiv 2501.12948 v2, distillation)."""
    warmup_fraction: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps with a rising rate; the paper states none, 0.03 is open-r1's."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Not stated by the paper; TRL's default."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Not stated by the paper; TRL's default."""
    adam_betas: tuple[float, float] = (0.9, 0.999)
    """Not stated by the paper; torch's default."""
    lora: LoraConfig | None = None
    """None trains all weights, as the paper does."""
    prompt: PromptConfig = PromptConfig()
    """What the student is asked; the default is its chat template without a system message."""
    completions: Literal["canonical", "verbatim"] = "canonical"
    """`canonical` writes reasoning and answer in the one well-formed way; `verbatim` takes the
    text as it was sampled, well-formed or not."""
    add_tokens: Annotated[bool, AddedLater()] = False
    """Gives the marks of `prompt.form` token ids of their own where they have none; each starts as
    the mean of the pieces that it was. False writes them with the tokens that are there."""
    trl: dict[str, JsonValue] = Field(default_factory=dict)
    """Further arguments of trl.SFTConfig, by its own names."""

    @model_validator(mode="after")
    def _can_learn_new_tokens(self) -> "SftConfig":
        if self.add_tokens and self.prompt.form is None:
            raise ValueError("add_tokens adds the marks of prompt.form, and there is none")
        if self.add_tokens and self.lora is not None:
            raise ValueError("add_tokens with lora: adapters do not train embeddings")
        return self


def validate(config: SftConfig) -> list[str]:
    """What is wrong with the `trl` mapping, one line a problem. Imports TRL if it is not empty."""
    if not config.trl:
        return []
    from factory.training.sft import passthrough_problems

    return passthrough_problems(config.trl)


def run(config: SftConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Fine-tune `model` on `traces`; fills `out` with the model, telemetry.jsonl, lengths.json.

    Afterwards the saved model answers a few training questions; a note says if it does not stop.

    Goes on from the last complete checkpoint in the context's scratch folder; the result is the
    same to the byte as that of an undisturbed run, on CPU. RecipeError where the batch cannot be
    cut into micro-batches, DataError where too many rows are longer than the limit.
    """
    from transformers import AutoTokenizer

    from factory.training import checkpoints, sft
    from factory.training.sft_rows import tokenise
    from factory.training.tokens import add_tokens

    problems = validate(config)
    if problems:
        raise RecipeError("; ".join(problems))
    folder = inputs["model"].path
    micro_batch = micro_batch_rows(config.batch, context)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    marks = config.prompt.form.marks if config.prompt.form and config.add_tokens else ()
    pieces = add_tokens(tokenizer, marks)
    verbatim = config.completions == "verbatim"
    traces = inputs["traces"].traces()
    rows = tokenise(traces, config.prompt, tokenizer, verbatim=verbatim)
    limit = sft.row_limit(folder, config.context)
    kept, report = _keep_whole_rows(rows, limit, config, out=out, context=context)
    sft.train(
        config, kept, folder=folder, tokenizer=tokenizer, micro_batch=micro_batch,
        out=out, context=context, pieces=pieces,
    )  # fmt: skip
    if not checkpoints.is_first_rank():
        return {}  # the first rank may be writing the files below
    shutil.copyfile(sft.telemetry_path(context), out / "telemetry.jsonl")
    steps = recover_rows(sft.telemetry_path(context))
    return {
        **{name: float(report[name]) for name in COUNTED},
        "steps": float(len(steps)),
        "loss_first": steps[0]["loss"],
        "loss_last": steps[-1]["loss"],
        "token_accuracy": steps[-1]["token_accuracy"],
        "stopped_share": _stopped_share(out, kept, context),
    }


def _stopped_share(out: Path, rows: list["Row"], context: Context) -> float:
    """Share of answers that end by themselves; a note where it is low."""
    from factory.training.stopping import MIN_STOPPED, stopped_share

    share = stopped_share(out, rows, context.machine)
    if share < MIN_STOPPED:
        context.note(
            f"sft: only {share:.0%} of greedy answers to training questions end by themselves: it "
            "has not learned to stop; train longer, or look at its answers with factory chat"
        )
    return share


def micro_batch_rows(batch: int, context: Context) -> int:
    """Rows a forward pass on one process; RecipeError unless they divide the batch evenly."""
    machine = context.machine
    share, rest = divmod(batch, machine.processes)
    micro_batch = min(machine.micro_batch, share)
    if rest or share % max(1, micro_batch):
        raise RecipeError(
            f"batch: {batch} rows cannot be cut into micro-batches of {machine.micro_batch} on "
            f"{machine.processes} process(es); make batch a multiple of "
            f"{machine.micro_batch * machine.processes}, or lower the machine's micro_batch"
        )
    return micro_batch


def _keep_whole_rows(
    rows: list["Row"], limit: int, config: SftConfig, *, out: Path, context: Context
) -> tuple[list["Row"], dict]:
    """The rows within the limit; reports before any training, refuses above the stated share."""
    from factory.training import checkpoints
    from factory.training.sft_rows import length_report, split_by_length

    report = length_report(rows, limit)
    if checkpoints.is_first_rank():
        text = json.dumps(report, indent=2) + "\n"
        (out / "lengths.json").write_text(text, encoding="utf-8")
    told = (
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
            f"sft: {told}: a share of {report['dropped_share']:.3f}, above max_dropped_share "
            f"{config.max_dropped_share}; {remedy}, select shorter traces, or allow a higher share"
        )
    if report["dropped_rows"]:
        context.note(f"sft: {told}: they are dropped")
    return split_by_length(rows, limit)[0], report


REPEATED_QUESTIONS = 8
"""Of `training.stopping`: questions that a fine-tuned model is asked again."""


def estimate(config: SftConfig, cost: CostContext) -> tuple[StageCost, Model]:
    model = cost.model()
    traces: Answers = cost.read("traces")
    prompt = prompt_tokens(config.prompt, traces.question, model.shape).tokens
    length = min(prompt + traces.completion, config.context)
    steps = math.ceil(traces.rows / config.batch) * config.epochs
    taken = training_work(
        cost, model, tokens=steps * config.batch * length, length=length, steps=steps,
        rows=min(cost.machine.micro_batch, config.batch), is_lora=bool(config.lora),
    )  # fmt: skip
    c, n = traces.completion, REPEATED_QUESTIONS
    few = DecodeLoad(n, n, 0, prompt, c, c, block=n, at_once=n)
    return replace(taken, seconds=taken.seconds + cost.draw_seconds(model, few)), model


def small(fields: Fields) -> Fields:
    return {
        **fields,
        "epochs": 1,
        "batch": ROWS,
        "context": min(fields["context"], CONTEXT),
        "max_dropped_share": 0.5,
        "completions": "verbatim",
    }


STAGE = register(
    Stage(
        kind="sft",
        config=SftConfig,
        produces="model",
        version=2,
        run=run,
        packages=("torch", "transformers", "trl", "peft"),
        preload=("factory.training.sft",),
        trains=True,
        is_single=False,
        external_files=no_files,
        uses=no_rows,
        check=validate,
        missing=nothing_missing,
        is_served=never_served,
        memory_settings=("micro_batch",),
        estimate=estimate,
        completions=None,
        tokens="learned",
        small=small,
        visible=("model", "prompt", "completions", "add_tokens", "lora"),
        origins=no_origins,
    )
)
