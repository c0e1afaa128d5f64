"""The distill stage: its row, its settings, its trainer and what only they use."""

from factory.stages.distill.run import STAGE

__all__ = ["STAGE"]
