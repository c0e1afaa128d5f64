"""The grpo stage: its row, its settings, its trainer and what only they use."""

from factory.stages.grpo.run import STAGE

__all__ = ["STAGE"]
