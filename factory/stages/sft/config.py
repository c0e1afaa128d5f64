"""The settings of sft."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from factory.core.records import AddedLater, Beta, ModelRef, OtherSettings, TracesRef
from factory.stages.sft.watch_config import SftWatch
from factory.stages.stage import StageConfig
from factory.text.chat import PromptConfig
from factory.trainers.lora import LoraConfig
from factory.trainers.lowmem import Optimizer


class SftConfig(StageConfig):
    """Supervised fine-tuning; the defaults are those of R1's distillation."""

    kind: Literal["sft"]
    model: ModelRef
    traces: TracesRef
    learning_rate: float = Field(default=1e-4, ge=1e-12, le=1)
    """1e-4 for R1-Distill-Qwen-1.5B, down to 2e-5 at 70B (arXiv 2501.12948 v2, distillation)."""
    epochs: int = Field(default=3, ge=1, le=10**4)
    """2 to 3 in the paper, for the cold start, the 800k set and the distillation alike."""
    batch: int = Field(default=64, ge=1, le=10**6)
    """Traces an optimizer step, over all processes: 64 in the paper's distillation, 128 in its
    SFT of V3-Base. The last batch is filled up from one more shuffle of the rows."""
    context: int = Field(default=32768, ge=2, le=2**27)
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
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    """Not stated by the paper; TRL's default."""
    max_grad_norm: float = Field(default=1.0, ge=1e-9, le=1e9)
    """Not stated by the paper; TRL's default."""
    adam_betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Not stated by the paper; torch's default."""
    optimizer: Annotated[Optimizer, AddedLater()] = "adamw"
    """`adamw_8bit` keeps Adam's moments in 8 bits (arXiv 2110.02861), by the extra `lowmem`."""
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
    watch: Annotated[SftWatch | None, AddedLater()] = None
    """Held-out problems measured during the run; none by default."""
    trl: OtherSettings = Field(default_factory=dict)
    """Further arguments of trl.SFTConfig, by its own names."""

    @model_validator(mode="after")
    def _can_learn_new_tokens(self) -> "SftConfig":
        if self.add_tokens and self.prompt.form is None:
            raise ValueError("add_tokens adds the marks of prompt.form, and there is none")
        if self.add_tokens and self.lora is not None:
            raise ValueError("add_tokens with lora: adapters do not train embeddings")
        return self
