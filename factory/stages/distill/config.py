"""The settings of distill."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from factory.core.records import AddedLater, ModelRef, ProblemsRef, SamplingConfig, TracesRef
from factory.stages.stage import StageConfig
from factory.text.chat import PromptConfig, stop_texts
from factory.trainers.lora import LoraConfig
from factory.trainers.lowmem import Optimizer


class DistillConfig(StageConfig):
    """On-policy distillation. The paper has none: numbers are GKD's, TRL's or ours."""

    kind: Literal["distill"]
    model: ModelRef
    """The student; its weights are trained."""
    teacher: ModelRef
    """Must read and write the student's tokens: distributions are compared id by id."""
    problems: ProblemsRef
    """Its train split is asked; the held-out one is never read. References are not needed."""
    sources: tuple[str, ...] = ()
    """Only problems of these sources; empty takes all."""
    prompt: PromptConfig = PromptConfig()
    """What student and teacher read, by the student's template."""
    on_policy_share: float = Field(default=1.0, gt=0, le=1)
    """GKD's lambda: so much of an update the student writes itself, rounded, at least one text;
    the rest are traces."""
    traces: TracesRef | None = None
    """Texts of others, for what `on_policy_share` leaves; written as `sft` writes them."""
    completions: Literal["canonical", "verbatim"] = "canonical"
    """How `traces` are written; as in `sft`."""
    beta: float = Field(default=1.0, ge=0, le=1)
    """Which divergence: 0 is forward KL, which covers all that the teacher might say; 1, TRL's
    default, is reverse KL, which avoids what it would not."""
    steps: int = Field(ge=1, le=10**7)
    """Updates."""
    prompts: int = Field(default=64, ge=1, le=10**6)
    """Texts an update, over all processes; ours, the batch of the paper's distillation."""
    learning_rate: float = Field(default=1e-6, ge=1e-12, le=1)
    """Constant; TRL's default."""
    temperature: float = Field(default=1.0, ge=0.01, le=4)
    """Of the student's samples and of both distributions; TRL's default."""
    max_new_tokens: int = Field(ge=1, le=10**7)
    """Of a text; longer traces are left out, and the log says how many."""
    optimizer: Annotated[Optimizer, AddedLater()] = "adamw"
    """`adamw_8bit` keeps Adam's moments in 8 bits (arXiv 2110.02861), by the extra `lowmem`."""
    lora: LoraConfig | None = None
    """None trains all weights."""

    @model_validator(mode="after")
    def _has_its_texts(self) -> "DistillConfig":
        if self.traces is None and self.own < self.prompts:
            raise ValueError(
                f"traces: on_policy_share {self.on_policy_share} leaves {self.prompts - self.own} "
                "texts of an update to traces; name some"
            )
        if self.traces is not None and self.own == self.prompts:
            raise ValueError(
                f"traces: on_policy_share {self.on_policy_share} leaves no text of an update to "
                "them; lower it, or leave them out"
            )
        return self

    @property
    def own(self) -> int:
        """Texts of an update that the student writes itself."""
        return max(1, round(self.on_policy_share * self.prompts))

    @property
    def sampling(self) -> SamplingConfig:
        return SamplingConfig(
            temperature=self.temperature,
            top_p=1.0,
            max_new_tokens=self.max_new_tokens,
            stop=stop_texts(self.prompt),
        )
