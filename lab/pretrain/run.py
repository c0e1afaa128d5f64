"""The pretrain stage: a small model from random weights, on a corpus that is made as it is read.

It exists for the lab, whose base has to be known through and through: what it has seen, how often
that was wrong, and in which script.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from factory.core.artifacts import Artifact, Inputs
from factory.core.context import Context, Metrics
from factory.core.jsonl import recover_rows
from factory.cost.context import CostContext, Model, StageCost
from factory.cost.shapes import Shape
from factory.cost.work import training_work
from factory.stages.stage import (
    OWN_LICENCE,
    Fields,
    Origin,
    Stage,
    never_served,
    no_files,
    no_objection,
    no_rows,
    nothing_missing,
    register,
)
from lab.pretrain.config import SPARSE_SAVES, PretrainConfig
from lab.vocabulary import WORDS


def run(config: PretrainConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Train from random weights; fills `out` with the model and telemetry.jsonl.

    Goes on from the last complete checkpoint; on one CPU the result is the same to the byte as
    that of an undisturbed run. EngineError where the loss is not finite.
    """
    from lab.pretrain.trainer import train

    train(config, out, context)
    telemetry = context.scratch / "telemetry.jsonl"
    shutil.copyfile(telemetry, out / "telemetry.jsonl")
    rows = recover_rows(telemetry)
    return {
        "steps": float(len(rows)),
        "tokens": float(config.steps * config.batch * config.sequence),
        "loss_first": rows[0]["loss"],
        "loss_last": rows[-1]["loss"],
    }


def estimate(config: PretrainConfig, cost: CostContext) -> tuple[StageCost, Model]:
    model = Model(shape(config), 4)
    tokens = config.steps * config.batch * config.sequence
    return training_work(
        cost, model, tokens=tokens, length=config.sequence, steps=config.steps, rows=config.batch,
        save_steps=SPARSE_SAVES * cost.machine.checkpoint_steps, longest=config.sequence,
        held=cost.held(),
    ), model  # fmt: skip


def shape(config: PretrainConfig) -> Shape:
    """The shape of the model; its tokenizer has a token a word."""
    return Shape(
        len(WORDS), config.hidden, config.layers, config.heads, config.heads, config.feed_forward,
        is_tied=True, characters_per_token=2.2,
    )  # fmt: skip


def small(fields: Fields) -> Fields:
    return {**fields, "tokens": 2 * fields["batch"] * fields["sequence"]}


def origins(artifact: Artifact) -> list[Origin]:
    return [Origin("random weights", OWN_LICENCE)]


def unseen(config: Mapping[str, Any]) -> str:
    return "the corpus of {name}, which is made as it is read and not kept"


STAGE = register(
    Stage(
        kind="pretrain",
        config=PretrainConfig,
        produces="model",
        version=3,
        run=run,
        packages=("torch", "transformers"),
        preload=("lab.pretrain.trainer",),
        trains=True,
        is_single=True,
        external_files=no_files,
        uses=no_rows,
        check=no_objection,
        missing=nothing_missing,
        is_served=never_served,
        memory_settings=(),
        estimate=estimate,
        completions=None,
        tokens="none",
        small=small,
        visible=("hidden", "layers", "heads", "feed_forward", "sequence"),
        origins=origins,
        unseen=unseen,
        shows=None,
    )
)
