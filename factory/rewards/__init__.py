"""Verdict and response to named reward components, each in [0, 1], and their weighted sum."""

from factory.rewards.components import RewardConfig, reward_components, total_reward
from factory.rewards.language import language_consistency
from factory.rewards.text import REFLECTIVE_WORDS, reflective_words, repetition

__all__ = [
    "REFLECTIVE_WORDS",
    "RewardConfig",
    "language_consistency",
    "reflective_words",
    "repetition",
    "reward_components",
    "total_reward",
]
