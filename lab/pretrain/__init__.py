"""The pretrain stage: its row, its settings, its trainer and what only they use."""

from lab.pretrain.run import STAGE

__all__ = ["STAGE"]
