"""Verdict and response to named reward components, their schedule, and their weighted sum."""

from factory.rewards.components import RewardConfig, rule_components, totals
from factory.rewards.language import language_consistency
from factory.rewards.pool import PluginRewards
from factory.rewards.reward import REWARDS, GradedCompletion, reward
from factory.rewards.text import (
    REFLECTIVE_WORDS,
    doubts,
    holds_code,
    redone_steps,
    reflective_words,
    repetition,
)

__all__ = [
    "REFLECTIVE_WORDS",
    "REWARDS",
    "GradedCompletion",
    "PluginRewards",
    "RewardConfig",
    "doubts",
    "holds_code",
    "language_consistency",
    "redone_steps",
    "reflective_words",
    "repetition",
    "reward",
    "rule_components",
    "totals",
]
