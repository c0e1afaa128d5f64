"""The pretrain stage: its row, its settings, its trainer and what only they use."""

from factory.stages.pretrain.run import STAGE

__all__ = ["STAGE"]
