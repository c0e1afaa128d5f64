"""The stages, a file each. Importing them is light: engines and trainers load inside `run`."""

from factory.stages.stage import STAGES, Stage, StageConfig

__all__ = ["STAGES", "Stage", "StageConfig"]
