"""The reward_model stage: its row, its settings, its trainer and what only they use."""

from factory.stages.reward_model.run import STAGE

__all__ = ["STAGE"]
