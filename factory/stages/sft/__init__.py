"""The sft stage: its row, its settings, its trainer and what only they use."""

from factory.stages.sft.run import STAGE

__all__ = ["STAGE"]
