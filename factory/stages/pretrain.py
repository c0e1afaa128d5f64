"""The pretrain stage: a small model from random weights, on a corpus that is made as it is read.

It exists for the lab, whose base has to be known through and through: what it has seen, how often
that was wrong, and in which script.
"""

import shutil
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from factory.artifacts import Artifact, Inputs
from factory.context import Context, Metrics
from factory.cost.context import CostContext, Model, StageCost
from factory.cost.shapes import Shape
from factory.cost.work import training_work
from factory.jsonl import recover_rows
from factory.stages.stage import (
    OWN_LICENCE,
    Fields,
    Origin,
    Stage,
    StageConfig,
    never_served,
    no_files,
    no_objection,
    no_rows,
    nothing_missing,
    register,
)
from factory.world.corpus import CorpusConfig
from factory.world.vocabulary import WORDS


class PretrainConfig(StageConfig):
    """A Llama-shaped language model and how long it is trained."""

    kind: Literal["pretrain"]
    corpus: CorpusConfig = CorpusConfig()
    """What the documents are like."""
    hidden: int = Field(default=128, ge=8)
    """Width; the defaults give 0.9 million parameters."""
    layers: int = Field(default=4, ge=1)
    """How many."""
    heads: int = Field(default=4, ge=1)
    """Query heads; each has a key-value head of its own."""
    feed_forward: int = Field(default=384, ge=8)
    """Width inside a layer's feed-forward part."""
    tokens: int = Field(default=10_000_000, ge=1)
    """How many tokens are trained on; none twice."""
    batch: int = Field(default=32, ge=1)
    """Sequences a step."""
    sequence: int = Field(default=128, ge=8)
    """Tokens a sequence; documents follow each other without padding."""
    matrix_learning_rate: float = Field(default=0.02, gt=0)
    """Of Muon, for all matrices but the embedding. Falls linearly to zero after the warm-up."""
    learning_rate: float = Field(default=3e-3, gt=0)
    """Of AdamW, for the embedding and the norms; falls likewise."""
    warmup_steps: int = Field(default=40, ge=0)
    """Steps over which both rates rise from zero."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Of the matrices."""
    adam_betas: tuple[float, float] = (0.9, 0.95)
    """Of AdamW."""

    @model_validator(mode="after")
    def _heads_fit(self) -> "PretrainConfig":
        if self.hidden % (2 * self.heads):
            raise ValueError(
                f"hidden {self.hidden} must be a multiple of twice the {self.heads} heads"
            )
        return self

    @property
    def steps(self) -> int:
        return max(1, self.tokens // (self.batch * self.sequence))


def run(config: PretrainConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Train from random weights; fills `out` with the model and telemetry.jsonl.

    Goes on from the last complete checkpoint; on one CPU the result is the same to the byte as
    that of an undisturbed run. EngineError where the loss is not finite.
    """
    from factory.training.pretrain import train

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


SPARSE_SAVES = 50
"""Of `training.pretrain`: so many times fewer checkpoints."""


def estimate(config: PretrainConfig, cost: CostContext) -> tuple[StageCost, Model]:
    model = Model(shape(config), 4)
    tokens = config.steps * config.batch * config.sequence
    return training_work(
        cost, model, tokens=tokens, length=config.sequence, steps=config.steps, rows=config.batch,
        save_steps=SPARSE_SAVES * cost.machine.checkpoint_steps,
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


STAGE = register(
    Stage(
        kind="pretrain",
        config=PretrainConfig,
        produces="model",
        version=3,
        run=run,
        packages=("torch", "transformers"),
        preload=("factory.training.pretrain",),
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
    )
)
