"""What a GRPO run takes: rollouts, their log-probs and scores, training on them."""

import math

from factory.cost import formulas
from factory.cost.context import ENGINE_BYTES, TRAINER_BYTES, CostContext, Model, StageCost
from factory.cost.flows import Questions
from factory.cost.formulas import DecodeLoad
from factory.cost.memory import Held, host_bytes
from factory.cost.memory import learned as learned_parameters
from factory.cost.shapes import Unpriced
from factory.cost.work import training_bytes
from factory.stages.grpo.config import GrpoConfig
from factory.stages.judged import judge_work
from factory.trainers.lowmem import held as held_by

PARITY_ROWS = 4
"""Of `rollouts`: completions drawn again at rollouts 1, 2, 4, 8, ..."""


def estimate(config: GrpoConfig, cost: CostContext) -> tuple[StageCost, Model]:
    model = cost.model()
    supply: Questions = cost.read("problems")
    _, question = supply.count_and_length("train", config.sources)
    loads = [
        _rollout(config, cost, model, question=question, update=update)
        for update in range(1, config.steps + 1, config.updates_per_rollout)
    ]
    held = held_by(cost, config.lora, config.optimizer)
    learned = learned_parameters(model.shape, held)
    updates = config.updates_per_rollout
    every = updates * math.ceil(cost.machine.checkpoint_steps / updates)
    saves = max(0, math.ceil(config.steps / every) - 1)
    seconds = (
        cost.start
        + sum(
            _rollout_seconds(config, cost, model, load, update=1 + number * updates)
            for number, load in enumerate(loads)
        )
        / cost.ranks
        + _parity_seconds(config, cost, model, loads[-1])
        + _watch_seconds(config, cost, model)
        + formulas.checkpoint_seconds(learned, saves)
        + model.file_bytes / formulas.DISK_BYTES_PER_SECOND
    )
    return StageCost(
        seconds,
        sum(load.tokens for load in loads),
        _grpo_memory(config, cost, model, loads[-1], held),
        model.file_bytes,
        2 * formulas.CHECKPOINT_BYTES * learned,
        is_assumed=cost.expected(config.max_new_tokens)[1],
        host=host_bytes(model.shape, held),
    ), model


def _rollout(
    config: GrpoConfig, cost: CostContext, model: Model, *, question: float, update: int
) -> DecodeLoad:
    """What is drawn for the rollout that is first used for an update."""
    limit = config.limit_at(update)
    prompts = config.prompts * config.updates_per_rollout
    return cost.decode_load(
        model, config.prompt, question=question, prompts=prompts, rows=prompts * config.group,
        completion=cost.expected(limit)[0], limit=limit, training=True,
    )  # fmt: skip


def _rollout_seconds(
    config: GrpoConfig, cost: CostContext, model: Model, load: DecodeLoad, *, update: int
) -> float:
    """Of drawing a rollout, of its log-probs (the reference's, and the old policy's where several
    updates share it), of its scores by reward models, and of training on it. On the flat row of
    the packed pass each prompt stands once."""
    size, speed = model.shape.size(4), cost.speed
    row = load.frame + load.own + load.completion
    flat = load.prompts * (load.frame + load.own) + load.tokens
    passes = (config.kl > 0) + (config.updates_per_rollout > 1)
    training = formulas.train_seconds(
        size, speed, tokens=flat, context=row, share=speed.rl,
        passes=load.prompts / cost.machine.micro_groups,
    )  # fmt: skip
    judge = _judge_work(config, cost, update)
    return (
        cost.draw_seconds(model, load)
        + (0.0 if judge is None else judge.seconds - cost.start)
        + passes * formulas.pass_seconds(size, speed, flat, row)
        + _preference_seconds(config, cost, model, update, row)
        + training * (formulas.LORA_WORK if config.lora else 1.0)
    )


def _preference_seconds(
    config: GrpoConfig, cost: CostContext, model: Model, update: int, row: float
) -> float:
    """Of reward models over the answers to a rollout's general prompts."""
    models = sum(reward.model is not None for reward in config.rewards)
    rows = config.general_at(update) * config.group * config.updates_per_rollout
    return models * formulas.pass_seconds(model.shape.size(4), cost.speed, rows * row, row)


def _judge_work(config: GrpoConfig, cost: CostContext, update: int) -> StageCost | None:
    """Of a judge over the answers to a rollout's general prompts; None where a server does it."""
    settings = config.judge
    rows = config.general_at(update) * config.group * config.updates_per_rollout
    if settings is None or config.general is None or not rows:
        return None
    supply: Questions = cost.read("general.problems")
    _, question = supply.count_and_length("train", ())
    try:
        return judge_work(
            cost, config.judge_field, settings, question=question,
            completion=cost.expected(config.limit_at(update))[0], rows=rows,
        )  # fmt: skip
    except Unpriced:
        return None


def _parity_seconds(config: GrpoConfig, cost: CostContext, model: Model, load: DecodeLoad) -> float:
    """Of comparing engine and trainer at rollouts 1, 2, 4, 8, ..."""
    n, c = PARITY_ROWS, load.completion
    few = DecodeLoad(n, n, 0, load.frame + load.own, c, c, block=n, at_once=n)
    return config.rollouts.bit_length() * cost.draw_seconds(model, few)


def _watch_seconds(config: GrpoConfig, cost: CostContext, model: Model) -> float:
    """Of measuring the watched problems before, during and after the run."""
    watch = config.watch
    if watch is None:
        return 0.0
    problems, question = cost.read("watch.problems").count_and_length(
        "held_out", watch.sources, watch.limit
    )
    completion, _ = cost.expected(config.max_new_tokens)
    load = cost.decode_load(
        model, config.prompt, question=question, prompts=problems, rows=problems * watch.samples,
        completion=completion, limit=config.max_new_tokens, training=True,
    )  # fmt: skip
    return (1 + math.ceil(config.steps / watch.every)) * cost.draw_seconds(model, load) / cost.ranks


def _grpo_memory(
    config: GrpoConfig, cost: CostContext, model: Model, load: DecodeLoad, held: Held
) -> float:
    """Trainer with its reference, whole reward models on each rank, engine."""
    shape, prompt = model.shape, load.frame + load.own
    rewards = sum(reward.model is not None for reward in config.rewards)
    rows = cost.machine.train.micro_rows or cost.machine.micro_groups * config.group
    trainer = training_bytes(
        cost, shape, held, rows=rows, longest=prompt + config.largest_limit,
        length=load.completion + prompt / config.group, has_reference=config.kl > 0,
    )  # fmt: skip
    # The engine's libraries and the trainer's are half the same.
    libraries = (ENGINE_BYTES - TRAINER_BYTES / 2) * (not cost.on_gpu)
    engine = cost.engine_memory(model, load, training=True)
    judge = _judge_work(config, cost, config.steps)
    engine += 0.0 if judge is None else judge.memory
    return trainer + rewards * cost.engine_number * shape.parameters + engine + libraries
