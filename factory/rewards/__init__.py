"""Verdict and response to named reward components, their schedule, and their weighted sum."""

from factory.rewards.components import (
    LEARNED,
    RewardConfig,
    overlong,
    reward_components,
    total_reward,
)
from factory.rewards.language import language_consistency
from factory.rewards.text import (
    REFLECTIVE_WORDS,
    doubts,
    holds_code,
    redone_steps,
    reflective_words,
    repetition,
)

__all__ = [
    "LEARNED",
    "REFLECTIVE_WORDS",
    "RewardConfig",
    "doubts",
    "holds_code",
    "language_consistency",
    "overlong",
    "redone_steps",
    "reflective_words",
    "repetition",
    "reward_components",
    "total_reward",
]
