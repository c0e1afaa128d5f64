"""The settings of reward_model."""

from typing import Literal

from pydantic import Field, model_validator

from factory.core.records import Beta, LabelsRef, ModelRef, PairsRef
from factory.stages.stage import StageConfig


class RewardModelConfig(StageConfig):
    """Learns one score a text; the defaults are R1's (R1v2 3.1)."""

    kind: Literal["reward_model"]
    model: ModelRef
    """Where its weights start; the paper takes its own chat model, with a reward head."""
    pairs: PairsRef | None = None
    """What it learns from; see `labels`."""
    labels: LabelsRef | None = None
    """One of both: a helpful model, or a safety model."""
    learning_rate: float = Field(default=6e-6, ge=1e-12, le=1)
    """6e-6 in R1v2 3.1; falls linearly to zero, which is TRL's and not stated by the paper."""
    epochs: int = Field(default=1, ge=1, le=10**4)
    """1 in R1v2 3.1."""
    batch: int = Field(default=256, ge=1, le=10**6)
    """Pairs or labelled responses an optimizer step, over all processes; 256 in R1v2 3.1. The last
    batch is filled from one more shuffle."""
    context: int = Field(default=8192, ge=1, le=2**27)
    """Tokens of a text with its prompt in training; 8,192 in R1v2 3.1, with no limit when scoring.
    The model's own limit counts where it is lower. Longer ones are dropped whole, as pairs."""
    max_dropped_share: float = Field(default=0.02, ge=0, le=1)
    """Refuse to train if more than this share is dropped; ours."""
    held_out_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the prompts kept for the accuracy that the report shows; ours."""
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    """Not stated by the paper; TRL's default."""
    max_grad_norm: float = Field(default=1.0, ge=1e-9, le=1e9)
    """Not stated by the paper; TRL's default."""
    adam_betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Not stated by the paper; torch's default."""

    @model_validator(mode="after")
    def _learns_from_one(self) -> "RewardModelConfig":
        if (self.pairs is None) == (self.labels is None):
            given = "neither" if self.pairs is None else "both"
            raise ValueError(f"give either pairs or labels, found {given}")
        return self
