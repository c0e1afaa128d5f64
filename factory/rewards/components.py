"""Rewards as a recipe names them: their weights at a step, their values, the weighted sum."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field, JsonValue, model_validator

from factory.core.records import AddedLater, Record, RewardModelRef
from factory.core.registry import Named
from factory.grading.judge import JudgeSettings
from factory.rewards.reward import REWARDS, GradedCompletion, component, settings_of


class RewardConfig(Record):
    """One reward component, its weight in the total, and when it counts."""

    name: Annotated[str, Named("rewards"), AfterValidator(REWARDS.check)]
    """accuracy, format, language, overlong, repetition, helpful, safety, judge, or a plug-in's."""
    weight: float = Field(default=1.0, allow_inf_nan=False, ge=-1e6, le=1e6)
    """R1 adds accuracy, format and language with equal weights (arXiv 2501.12948 v2, 2.2, 3.2)."""
    start_step: int = Field(default=1, ge=1, le=10**7)
    """First update that it counts for. R1 used its preference rewards in the last 400 of 1,700
    steps only (v2, 3.2.2): 1301."""
    end_step: int | None = Field(default=None, ge=1, le=10**7)
    """Last update that it counts for; None: to the end."""
    ramp_steps: int = Field(default=0, ge=0, le=10**7)
    """Updates over which the weight rises evenly from nothing, from `start_step` on."""
    model: Annotated[RewardModelRef | None, AddedLater()] = None
    """The reward model, of `helpful` one that learned from pairs, of `safety` from labels."""
    settings: Annotated[dict[str, JsonValue], AddedLater()] = Field(default_factory=dict)
    """Of a reward that takes any, by its own names."""
    judge: Annotated[JudgeSettings | None, AddedLater()] = None
    """Of `judge`: who is asked about answers to general prompts, and how: a model on a server, or
    one with weights, which every rank then holds beside what it trains."""

    @model_validator(mode="after")
    def _has_its_model(self) -> "RewardConfig":
        for is_needed, value, what in (
            (self.is_learned, self.model, "model: the reward model that gives it"),
            (REWARDS[self.name].is_judged, self.judge, "judge: {model: ...}"),
        ):
            if is_needed != (value is not None):
                raise ValueError(f"{self.name} {'needs' if is_needed else 'takes no'} {what}")
        return self

    @model_validator(mode="after")
    def _has_its_settings(self) -> "RewardConfig":
        settings_of(self.name, self.settings)
        return self

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> "RewardConfig":
        if self.end_step is not None and self.end_step < self.start_step:
            raise ValueError(f"end_step {self.end_step} is before start_step {self.start_step}")
        return self

    @property
    def is_learned(self) -> bool:
        """Whether a reward model gives it; all others are functions."""
        return REWARDS[self.name].learns_from is not None

    @property
    def is_plugin(self) -> bool:
        """Whether it is a user's function, which runs in a process that can be killed."""
        return REWARDS.row(self.name).origin.kind != "factory"

    def weight_at(self, step: int) -> float:
        """The weight for the rollout that is first used for update `step`, counted from 1.

        0 before `start_step` and after `end_step`; with n ramp steps weight * k / (n + 1) at the
        k-th counted update while k <= n.
        """
        if step < self.start_step or (self.end_step is not None and step > self.end_step):
            return 0.0
        counted = step - self.start_step + 1
        return self.weight * min(1.0, counted / (self.ramp_steps + 1))


def rule_components(completion: GradedCompletion) -> dict[str, float]:
    """What every rule of the factory gives a completion, whether or not it is rewarded: rollouts
    and telemetry show them all. One that does not apply is missing."""
    rules = [
        row.name
        for row in REWARDS.rows()
        if row.origin.kind == "factory" and row.value.function is not None
    ]
    values = {name: component(name, completion, None) for name in rules}
    return {name: value for name, value in values.items() if value is not None}


def totals(
    components: Sequence[Mapping[str, float]], weights: Mapping[str, float]
) -> list[float | None]:
    """The reward of each completion: the sum of weight times component, None where none applies.

    This one number is trained on, compared and kept. A component that does not apply is missing and
    adds nothing. Summed in float32 over the components in the order of `weights`, as TRL adds up.
    """
    import torch

    values = torch.tensor(
        [[row.get(name, math.nan) for name in weights] for row in components], dtype=torch.float32
    ).view(len(components), len(weights))
    sums = (values * torch.tensor([*weights.values()], dtype=torch.float32)).nansum(dim=1)
    applies = [any(name in row for name in weights) for row in components]
    return [float(total) if counts else None for total, counts in zip(sums, applies, strict=True)]
