"""The stage that draws traces: its row, its settings, and how it draws, in blocks or without."""

from factory.stages.generate.run import STAGE

__all__ = ["STAGE"]
