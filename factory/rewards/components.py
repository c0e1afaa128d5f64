"""Named reward components, each in [0, 1], and their weighted sum."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from factory.chat import Response
from factory.records import Record, Verdict
from factory.rewards.language import language_consistency

RewardName = Literal["accuracy", "format", "language"]


class RewardConfig(Record):
    """One reward component and its weight in the total."""

    name: RewardName
    weight: float = Field(default=1.0, allow_inf_nan=False)
    """R1 adds accuracy, format and language with equal weights (arXiv 2501.12948 v2, 2.2, 3.2)."""


def reward_components(
    verdict: Verdict, response: Response, *, language: str = "en"
) -> dict[str, float]:
    """Every component of one completion.

    accuracy: 1 if the verdict is correct and the response well-formed, else 0. The second
        condition matters where the verdict was lenient.
    format: 1 if the response is well-formed, else 0: all tags or nothing, so that no single tag
        is worth writing.
    language: share of target-language words in the reasoning (`language_consistency`); 0 if the
        response opens no reasoning, else dropping the tags would pay.
    """
    spoken = response.reasoning
    return {
        "accuracy": float(verdict.is_correct and response.is_well_formed),
        "format": float(response.is_well_formed),
        "language": 0.0 if spoken is None else language_consistency(spoken, language),
    }


def total_reward(components: Mapping[str, float], rewards: tuple[RewardConfig, ...]) -> float:
    """The weighted sum: sum of weight times component over `rewards`."""
    return sum(reward.weight * components[reward.name] for reward in rewards)
