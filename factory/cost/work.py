"""What work of one sort takes, whichever stage does it: reading lines, drawing, training."""

import math
from dataclasses import replace

from factory.core.records import SamplingConfig
from factory.cost import formulas
from factory.cost.context import ENGINE_BYTES, TRAINER_BYTES, CostContext, Model, StageCost
from factory.cost.filling import expected_filling
from factory.cost.flows import Answers
from factory.cost.formulas import DecodeLoad
from factory.cost.memory import Held, host_bytes, learned, total, training
from factory.cost.shapes import Shape
from factory.text.chat import PromptConfig

START_SECONDS = 3.0
"""Of a trainer: its imports done, the first step slower than the others; fitted."""


def line_work(answers: Answers, *, read: float = 0.0) -> tuple[StageCost, Answers]:
    """A stage without a model: it reads and writes lines of traces."""
    line = 500 + 2 * answers.question + 8 * answers.completion
    rows = max(read, answers.rows)
    return StageCost(0.01 + 5e-5 * rows, disk=rows * line), answers


def drawing_work(
    cost: CostContext, model: Model, load: DecodeLoad, *, is_assumed: bool
) -> StageCost:
    """A stage that does nothing but draw. A trace's line holds its question, its prompt, and its
    text twice (whole and in parts)."""
    letters = model.shape.characters_per_token
    line = 400 + letters * (load.frame + 2 * load.own + 2 * load.completion)
    filling = expected_filling(
        load.rows, mean=load.completion, limit=load.longest, rows=load.at_once,
        engines=cost.engines, block=None if cost.draws_full else load.block,
    )  # fmt: skip
    if cost.draws_full:
        # Each waits for the last of its own.
        share = {"rows": load.rows / cost.engines, "prompts": load.prompts / cost.engines}
        seconds = cost.draw_seconds(model, replace(load, **share, block=share["rows"]))
    else:
        seconds = cost.draw_seconds(model, load) / cost.engines
    return StageCost(
        cost.start + seconds,
        load.tokens,
        ENGINE_BYTES * (not cost.on_gpu) + cost.engine_memory(model, load),
        load.rows * line,
        is_assumed=is_assumed,
        filling=filling,
    )


def reading_work(
    cost: CostContext, path: str, sampling: SamplingConfig, *, question: float, extra: float,
    prompts: float, samples: int,
) -> StageCost:  # fmt: skip
    """A model (its reference's field path) that writes about texts: `question` in characters,
    `extra` are tokens of what it reads besides."""
    model = cost.model(path)
    limit = sampling.max_new_tokens
    completion, is_assumed = cost.expected(limit)
    load = cost.decode_load(
        model, PromptConfig(), prompts=prompts, rows=prompts * samples, completion=completion,
        question=question + extra * model.shape.characters_per_token, limit=limit,
    )  # fmt: skip
    return drawing_work(cost, model, load, is_assumed=is_assumed)


def training_work(
    cost: CostContext, model: Model, *, tokens: float, length: float, longest: float, steps: int,
    rows: float, held: Held, save_steps: int | None = None,
) -> StageCost:  # fmt: skip
    """Supervised training: passes, optimizer steps, checkpoints, the finished model.

    Time is that of rows of mean `length`, memory that of rows as long as any may be.
    """
    size, speed = model.shape.size(4), cost.speed
    count = learned(model.shape, held)
    every = save_steps or cost.machine.checkpoint_steps
    saves = max(0, math.ceil(steps / every) - 1)
    passes = tokens / (rows * length)
    seconds = (
        START_SECONDS
        + formulas.train_seconds(
            size, speed, tokens=tokens, context=length, passes=passes, share=speed.sft
        )
        * (formulas.LORA_WORK if held.adapters else 1.0)
        / cost.ranks
        + formulas.adam_seconds(speed, count / held.share, steps)
        + formulas.checkpoint_seconds(count, saves)
        + model.file_bytes / formulas.DISK_BYTES_PER_SECOND
    )
    return StageCost(
        seconds,
        tokens,
        training_bytes(cost, model.shape, held, rows=rows, length=length, longest=longest),
        model.file_bytes,
        scratch=2 * formulas.CHECKPOINT_BYTES * count,
        host=host_bytes(model.shape, held),
    )


def training_bytes(
    cost: CostContext, shape: Shape, held: Held, *, rows: float, length: float, longest: float,
    has_reference: bool = False,
) -> float:  # fmt: skip
    """Peak of a trainer without its engine: on a GPU at the longest row, on a CPU by the formulas
    that were fitted to rows of mean length."""
    if cost.on_gpu:
        return total(training(shape, held, rows=rows, tokens=longest, has_reference=has_reference))
    kept = formulas.activation_bytes(shape.size(4), shape.vocabulary, rows=rows, length=length)
    state = 4 * shape.parameters + (formulas.STATE_BYTES - 4) * learned(shape, held)
    reference = 4 * shape.parameters * (has_reference and not held.adapters)
    return state / held.share + reference / held.share + kept + TRAINER_BYTES
