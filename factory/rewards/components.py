"""Named reward components, their weights at a step, and their weighted sum."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from factory.chat import Response
from factory.records import AddedLater, Record, RewardModelRef, Verdict
from factory.rewards.language import language_consistency
from factory.rewards.text import repetition

RewardName = Literal[
    "accuracy", "format", "language", "overlong", "repetition", "helpful", "safety"
]
LEARNED = ("helpful", "safety")
"""Components that a reward model gives; all others are rules."""
OVERLONG_SHARE = 0.2
"""Part of the length limit over which the overlong penalty rises: DAPO's 4,096 of 20,480 tokens."""


class RewardConfig(Record):
    """One reward component, its weight in the total, and when it counts."""

    name: RewardName
    weight: float = Field(default=1.0, allow_inf_nan=False)
    """R1 adds accuracy, format and language with equal weights (arXiv 2501.12948 v2, 2.2, 3.2)."""
    start_step: int = Field(default=1, ge=1)
    """First update that it counts for. R1 used its preference rewards in the last 400 of 1,700
    steps only (v2, 3.2.2): 1301."""
    end_step: int | None = Field(default=None, ge=1)
    """Last update that it counts for; None: to the end."""
    ramp_steps: int = Field(default=0, ge=0)
    """Updates over which the weight rises evenly from nothing, from `start_step` on."""
    model: Annotated[RewardModelRef | None, AddedLater()] = None
    """The reward model, of `helpful` one that learned from pairs, of `safety` from labels."""

    @model_validator(mode="after")
    def _has_its_model(self) -> "RewardConfig":
        if (self.name in LEARNED) != (self.model is not None):
            needed = "needs" if self.name in LEARNED else "takes no"
            raise ValueError(f"{self.name} {needed} model: the reward model that gives it")
        return self

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> "RewardConfig":
        if self.end_step is not None and self.end_step < self.start_step:
            raise ValueError(f"end_step {self.end_step} is before start_step {self.start_step}")
        return self

    def weight_at(self, step: int) -> float:
        """The weight for the rollout that is first used for update `step`, counted from 1.

        0 before `start_step` and after `end_step`; with n ramp steps weight * k / (n + 1) at the
        k-th counted update while k <= n.
        """
        if step < self.start_step or (self.end_step is not None and step > self.end_step):
            return 0.0
        counted = step - self.start_step + 1
        return self.weight * min(1.0, counted / (self.ramp_steps + 1))


def reward_components(
    verdict: Verdict,
    response: Response,
    *,
    text: str,
    tokens: int,
    limit: int,
    language: str = "en",
    is_open: bool = False,
) -> dict[str, float]:
    """Every rule's component of one completion of `tokens` tokens, where `limit` are allowed.

    accuracy: 1 if the verdict is correct and the response well-formed, else 0. The second
        condition matters where the verdict was lenient. Missing for an open problem (`is_open`),
        which no rule decides.
    format: 1 if the response is well-formed, else 0: all tags or nothing, so that no single tag
        is worth writing.
    language: share of target-language words in the reasoning (`language_consistency`); 0 if the
        response opens no reasoning, else dropping the tags would pay.
    overlong: a penalty in [-1, 0], see `overlong`.
    repetition: a penalty in (-1, 0], minus the share of repeated word 4-grams of the completion.
    """
    spoken = response.reasoning
    accuracy = {"accuracy": float(verdict.is_correct and response.is_well_formed)}
    return {
        **({} if is_open else accuracy),
        "format": float(response.is_well_formed),
        "language": 0.0 if spoken is None else language_consistency(spoken, language),
        "overlong": overlong(tokens, limit),
        "repetition": 0.0 - repetition(text),
    }


def overlong(tokens: int, limit: int) -> float:
    """DAPO's soft penalty of long completions (arXiv 2503.14476, eq. 13), in [-1, 0].

    0 up to limit - cache, then falling evenly to -1 at the limit, with cache = 0.2 * limit.
    """
    cache = OVERLONG_SHARE * limit
    return min(0.0, max(-1.0, (limit - cache - tokens) / cache))


def total_reward(
    components: Mapping[str, float], rewards: tuple[RewardConfig, ...], *, step: int
) -> float:
    """The weighted sum for update `step`: sum of weight times component over `rewards`.

    A component that does not apply to the completion is missing and adds nothing.
    """
    return sum(
        reward.weight_at(step) * components[reward.name]
        for reward in rewards
        if reward.name in components
    )
