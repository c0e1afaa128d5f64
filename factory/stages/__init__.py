"""The table of stages. Importing it is light: engines and trainers load inside `run`."""

from factory.stages import (
    distill,
    evaluate,
    generate,
    grpo,
    judge,
    labels,
    mix,
    model,
    pairs,
    pretrain,
    problems,
    review,
    reward_model,
    rewrite,
    select,
    sft,
    written,
)
from factory.stages.stage import Stage, StageConfig

STAGES: dict[str, Stage] = {
    "model": model.STAGE,
    "pretrain": pretrain.STAGE,
    "problems": problems.STAGE,
    "written": written.STAGE,
    "generate": generate.STAGE,
    "judge": judge.STAGE,
    "select": select.STAGE,
    "rewrite": rewrite.STAGE,
    "review": review.STAGE,
    "mix": mix.STAGE,
    "sft": sft.STAGE,
    "pairs": pairs.STAGE,
    "labels": labels.STAGE,
    "reward_model": reward_model.STAGE,
    "distill": distill.STAGE,
    "grpo": grpo.STAGE,
    "evaluate": evaluate.STAGE,
}

__all__ = ["STAGES", "Stage", "StageConfig"]
