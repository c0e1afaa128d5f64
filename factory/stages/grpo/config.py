"""The settings of grpo."""

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from factory.core.records import (
    AddedLater,
    Beta,
    ModelRef,
    OtherSettings,
    ProblemsRef,
    Record,
    SamplingConfig,
    Temperature,
)
from factory.grading.judge import JudgeSettings
from factory.rewards import RewardConfig
from factory.stages.stage import StageConfig
from factory.text.chat import PromptConfig, stop_texts
from factory.trainers.lora import LoraConfig
from factory.trainers.lowmem import Optimizer


class LengthJump(Record):
    """How long a completion may be from an update on."""

    from_step: int = Field(ge=1, le=10**7)
    """First update whose rollout it holds for; inside a rollout phase, from the next one on."""
    max_new_tokens: int = Field(ge=1, le=10**7)
    """The limit from then on."""


class Watch(Record):
    """A small held-out set, measured during the run with its sampler and never trained on."""

    problems: ProblemsRef
    """Its held-out split is asked, with the stage's prompt."""
    sources: tuple[str, ...] = ()
    """Only problems of these sources; empty takes all."""
    every: int = Field(ge=1, le=10**7)
    """Updates between measurements, in whole rollout phases. Also measured: the model before the
    first update and after the last."""
    samples: int = Field(default=4, ge=1, le=10**5)
    """k, completions a problem; 16 in R1v2, Figure 1."""
    limit: int | None = Field(default=64, ge=1, le=10**9)
    """How many problems, in turn of every level or source; None takes all."""
    temperature: Temperature = 0.6
    """R1's evaluation (R1v2 D.1)."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """R1's evaluation (R1v2 D.1)."""
    stops: Annotated[bool, AddedLater()] = False
    """Whether an alarm (the reward rises while the held-out score falls) ends the run; the stage
    then gives back the weights of the best measurement and says so in stopped.json. Of R1, whose
    reward rose under the helpful model while its score on Codeforces fell (R1v2 B.5), the paper
    reports no rule: it kept that phase short."""


class GeneralPrompts(Record):
    """Prompts without a right answer, asked beside the problems (R1v2 3.2.2)."""

    problems: ProblemsRef
    """Of kind open; its train split is asked."""
    share: float = Field(default=0.5, gt=0, le=1)
    """Of the questions of every update, rounded; not stated by the paper."""
    start_step: int = Field(default=1, ge=1, le=10**7)
    """First update that asks them, inside a rollout phase from the next one on. R1 did so in the
    last 400 of 1,700 steps (R1v2 3.2.2): 1301, with the same start of its preference rewards."""


class DynamicSampling(Record):
    """Replaces groups whose rewards are all equal (DAPO, arXiv 2503.14476, eq. 11)."""

    max_rounds: int = Field(ge=0, le=10**4)
    """Times that further questions are drawn for what is still missing; then the batch is filled
    with groups without a signal. Eq. 11 draws until it is full."""
    rest_steps: int = Field(default=0, ge=0, le=10**7)
    """Updates for which a question rests once all its samples were correct twice in a row. 0:
    none rests. Not in the paper."""


class GrpoConfig(StageConfig):
    """Group relative policy optimisation; the defaults are R1's first RL stage."""

    kind: Literal["grpo"]
    model: ModelRef
    problems: ProblemsRef
    """Its train split is asked; the held-out one is never read."""
    sources: tuple[str, ...] = ()
    """Only problems of these sources; empty takes all."""
    order: Annotated[Literal["shuffled", "listed"], AddedLater()] = "shuffled"
    """`listed` asks the problems in the order of their file, pass after pass: a curriculum, where
    a `pass_rates` stage has ordered them."""
    general: Annotated[GeneralPrompts | None, AddedLater()] = None
    """Where reward models decide: `accuracy` is for the problems, `helpful` and `safety` are for
    these prompts, all other components for both."""
    prompt: PromptConfig = PromptConfig()
    """How the problems are asked, by the watch too."""
    canaries: Annotated[int, AddedLater()] = Field(default=0, ge=0, le=10**6)
    """Problems asked a second time with a reference that no honest answer gives: a reward on one
    raises an alarm. Ours."""
    rewards: tuple[RewardConfig, ...] = Field(
        default=(RewardConfig(name="accuracy"), RewardConfig(name="format")), min_length=1
    )
    """Components with their weights. R1-Zero adds accuracy and format with the same weight; R1's
    RL stages add language consistency (R1v2 2.2 and 3.2.1)."""
    max_ungradable: Annotated[float, AddedLater()] = Field(default=0.01, ge=0.0, le=1.0)
    """Share of the latest 2,000 answers that their graders may leave ungradable, which then earn
    nothing; of a single rollout a tenth may be in any case."""
    language: str = "en"
    """What the language component wants the reasoning to be written in."""
    steps: int = Field(ge=1, le=10**7)
    """Policy updates; R1-Zero took 10,400 (R1v2 2.1)."""
    prompts: int = Field(default=32, ge=1, le=10**6)
    """Questions an update; 32 in R1v2 2.1."""
    group: int = Field(default=16, ge=2, le=10**4)
    """Samples a question, G; 16 in R1v2 2.1."""
    updates_per_rollout: int = Field(default=16, ge=1, le=10**5)
    """Updates that share one rollout phase: the paper draws 8,192 outputs and splits them into 16
    mini-batches of 512 (R1v2 2.1). 1 is on-policy: every update sees fresh samples."""
    learning_rate: float = Field(default=3e-6, ge=1e-12, le=1)
    """Constant after the warm-up; 3e-6 in R1v2 2.1."""
    warmup_steps: int = Field(default=0, ge=0, le=10**7)
    """Updates with a rising rate: k / (n + 1) of it at update k of n. Not stated by the paper."""
    kl: float = Field(default=0.001, ge=0, le=1e3)
    """KL weight beta of eq. 1; 0.001 in R1v2 2.1. 0 needs no reference model."""
    epsilon: float = Field(default=10.0, ge=1e-9, le=1e6)
    """Clip range of the ratio; 10 in R1's first RL stage (R1v2 3.2.1), not stated for R1-Zero.
    The interval [-9, 11] never binds below, and above only where the advantage is positive."""
    epsilon_high: float | None = Field(default=None, ge=1e-9, le=1e6)
    """Upper clip range; None takes `epsilon`, as eq. 1 does."""
    temperature: float = Field(default=1.0, ge=0.01, le=4)
    """Of the samples and of the policy in the loss; 1.0 in R1v2 2.1, 0.7 in R1's second RL stage
    (R1v2 3.2.2)."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Not stated by the paper; below 1 the samples are not the policy's own."""
    max_new_tokens: int = Field(default=32768, ge=1, le=10**7)
    """32,768 in R1v2 2.1."""
    length_jumps: Annotated[tuple[LengthJump, ...], AddedLater()] = ()
    """Later limits instead of `max_new_tokens`, in order: R1-Zero's became 65,536 at step 8,200
    (R1v2 2.1). Engine, overlong penalty and the constant of `dr_grpo` reckon with them: the engine
    and `dr_grpo` with the largest, the penalty with the one that holds."""
    reference_refresh_steps: int = Field(default=400, ge=0, le=10**7)
    """The reference becomes a copy of the policy every N steps: 400 in R1v2 2.1. 0: never."""
    loss_type: Literal["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"] = (
        "grpo"
    )
    """How token losses become one number, by TRL's name; `grpo` is eq. 1's mean per output."""
    adam_betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Not stated by the paper; torch's default."""
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    """Not stated by the paper; TRL's default."""
    max_grad_norm: float = Field(default=1.0, ge=1e-9, le=1e9)
    """Not stated by the paper; TRL's default."""
    dynamic_sampling: DynamicSampling | None = None
    """None takes every group as it comes, as R1 does."""
    watch: Annotated[Watch | None, AddedLater()] = None
    """Held-out problems to measure on the way; also logs closer figures and more rollouts."""
    optimizer: Annotated[Optimizer, AddedLater()] = "adamw"
    """`adamw_8bit` keeps Adam's moments in 8 bits (arXiv 2110.02861), by the extra `lowmem`."""
    lora: LoraConfig | None = None
    """None trains all weights, as the paper does."""
    trl: OtherSettings = Field(default_factory=dict)
    """Further arguments of trl.GRPOConfig, by its own names."""

    @model_validator(mode="after")
    def _is_possible(self) -> "GrpoConfig":
        names = [reward.name for reward in self.rewards]
        if len(set(names)) < len(names):
            raise ValueError(f"rewards: {names} names a component twice; give it one weight")
        learned = [reward.name for reward in self.rewards if reward.is_learned]
        if learned and self.general is None:
            raise ValueError(f"general: {learned} reward answers to general prompts; give some")
        if self.judge is not None and self.general is None:
            raise ValueError("general: a judge rewards answers to general prompts; give some")
        if self.general is not None and self.dynamic_sampling is not None:
            raise ValueError("dynamic_sampling: replaces problems only; not with general prompts")
        if self.lora and self.kl > 0 and self.reference_refresh_steps:
            raise ValueError(
                "reference_refresh_steps: adapters keep the starting model as the reference; "
                "with lora and kl > 0 set it to 0"
            )
        if self.watch is not None and self.watch.every % self.updates_per_rollout:
            raise ValueError(
                f"watch.every: {self.watch.every} is inside a rollout phase; it must be a multiple "
                f"of updates_per_rollout {self.updates_per_rollout}"
            )
        steps = [jump.from_step for jump in self.length_jumps]
        if steps != sorted(set(steps)):
            raise ValueError(f"length_jumps: from_step {steps} must rise")
        return self

    @property
    def judge(self) -> JudgeSettings | None:
        """The judge that gives one of the rewards."""
        return next((reward.judge for reward in self.rewards if reward.judge), None)

    @property
    def judge_field(self) -> str:
        """The path of its model's field."""
        return next(f"rewards.{i}.judge.model" for i, r in enumerate(self.rewards) if r.judge)

    @property
    def largest_limit(self) -> int:
        """The most new tokens that any update allows."""
        return max([self.max_new_tokens, *(jump.max_new_tokens for jump in self.length_jumps)])

    def limit_at(self, step: int) -> int:
        """New tokens allowed in the rollout that is first used for update `step`, from 1."""
        limit = self.max_new_tokens
        for jump in self.length_jumps:
            if step >= jump.from_step:
                limit = jump.max_new_tokens
        return limit

    @property
    def rollouts(self) -> int:
        """Rollout phases of the whole run."""
        return math.ceil(self.steps / self.updates_per_rollout)

    def general_at(self, step: int) -> int:
        """General prompts among the questions of an update whose rollout begins with `step`."""
        if self.general is None or step < self.general.start_step:
            return 0
        return round(self.general.share * self.prompts)

    def sampling_at(self, step: int) -> SamplingConfig:
        """How the rollout that is first used for update `step` is drawn."""
        return SamplingConfig(
            temperature=self.temperature,
            top_p=self.top_p,
            max_new_tokens=self.limit_at(step),
            stop=stop_texts(self.prompt),
        )
