"""The settings of pretrain."""

from typing import Literal

from pydantic import Field, model_validator

from factory.core.records import Beta
from factory.stages.stage import StageConfig
from lab.corpus import CorpusConfig

SPARSE_SAVES = 50
"""So many times fewer checkpoints than of other trainers."""


class PretrainConfig(StageConfig):
    """A Llama-shaped language model and how long it is trained."""

    kind: Literal["pretrain"]
    corpus: CorpusConfig = CorpusConfig()
    """What the documents are like."""
    hidden: int = Field(default=128, ge=8, le=2**17)
    """Width; the defaults give 0.9 million parameters."""
    layers: int = Field(default=4, ge=1, le=1000)
    """How many."""
    heads: int = Field(default=4, ge=1, le=1024)
    """Query heads; each has a key-value head of its own."""
    feed_forward: int = Field(default=384, ge=8, le=2**20)
    """Width inside a layer's feed-forward part."""
    tokens: int = Field(default=10_000_000, ge=1, le=10**13)
    """How many tokens are trained on; none twice."""
    batch: int = Field(default=32, ge=1, le=10**6)
    """Sequences a step."""
    sequence: int = Field(default=128, ge=8, le=2**20)
    """Tokens a sequence; documents follow each other without padding."""
    matrix_learning_rate: float = Field(default=0.02, ge=1e-12, le=1)
    """Of Muon, for all matrices but the embedding. Falls linearly to zero after the warm-up."""
    learning_rate: float = Field(default=3e-3, ge=1e-12, le=1)
    """Of AdamW, for the embedding and the norms; falls likewise."""
    warmup_steps: int = Field(default=40, ge=0, le=10**7)
    """Steps over which both rates rise from zero."""
    weight_decay: float = Field(default=0.05, ge=0, le=10)
    """Of the matrices."""
    adam_betas: tuple[Beta, Beta] = (0.9, 0.95)
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
