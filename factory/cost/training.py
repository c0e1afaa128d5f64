"""What stages take that train: sft, pretrain, reward_model, distill, grpo."""

import math
from dataclasses import replace

from factory.chat import PromptConfig
from factory.cost import formulas
from factory.cost.amounts import Answers, Questions, Texts, prompt_tokens
from factory.cost.formulas import Draw
from factory.cost.shapes import pretrain_shape
from factory.cost.site import ENGINE_BYTES, TRAINER_BYTES, Amount, Model, Site, Taken
from factory.plan import Step
from factory.stages.distill import DistillConfig
from factory.stages.grpo import GrpoConfig
from factory.stages.pretrain import PretrainConfig
from factory.stages.reward_model import RewardModelConfig
from factory.stages.sft import SftConfig

START_SECONDS = 3.0
"""Of a trainer: its imports done, the first step slower than the others; fitted."""
LORA_SHARE = 0.02
"""Of the parameters that adapters have; an assumption for every rank."""
ASKED = 8
"""Of `training.stopping`: questions that a fine-tuned model is asked again."""
PARITY_ROWS = 4
"""Of `training.rollouts`: completions drawn again at rollouts 1, 2, 4, 8, ..."""
SPARSE_SAVES = 50
"""Of `training.pretrain`: so many times fewer checkpoints."""


def sft(config: SftConfig, step: Step, site: Site) -> tuple[Taken, Amount]:
    model = site.model(step)
    traces: Answers = site.read(step, "traces")
    asked = prompt_tokens(config.prompt, traces.question, model.shape).tokens
    length = min(asked + traces.completion, config.context)
    steps = math.ceil(traces.rows / config.batch) * config.epochs
    tokens = steps * config.batch * length
    taken = _trained(
        site, model, tokens=tokens, length=length, steps=steps,
        rows=min(site.machine.micro_batch, config.batch), is_lora=bool(config.lora),
    )  # fmt: skip
    c, n = traces.completion, ASKED
    few = Draw(n, n, 0, asked, c, c, block=n, at_once=n)
    return replace(taken, seconds=taken.seconds + site.draw_seconds(model, few)), model


def _trained(
    site: Site, model: Model, *, tokens: float, length: float, steps: int, rows: float,
    is_lora: bool = False, save_steps: int | None = None,
) -> Taken:  # fmt: skip
    """Supervised training: passes, optimizer steps, checkpoints, the finished model."""
    size, speed = model.shape.size(4), site.speed
    parameters = model.shape.parameters
    learned, work = (LORA_SHARE * parameters, formulas.LORA_WORK) if is_lora else (parameters, 1.0)
    every = save_steps or site.machine.checkpoint_steps
    saves = max(0, math.ceil(steps / every) - 1)
    passes = tokens / (rows * length)
    seconds = (
        START_SECONDS
        + formulas.train_seconds(
            size, speed, tokens=tokens, context=length, passes=passes, share=speed.sft
        )
        * work
        / site.ranks
        + formulas.adam_seconds(speed, learned, steps)
        + formulas.checkpoint_seconds(learned, saves)
        + model.file_bytes / formulas.DISK_BYTES_PER_SECOND
    )
    memory = _state_bytes(site, parameters, learned) + formulas.activation_bytes(
        size, model.shape.vocabulary, rows=rows, length=length, recomputes=site.on_gpu
    )
    return Taken(
        seconds,
        tokens,
        memory + TRAINER_BYTES * (not site.on_gpu),
        model.file_bytes,
        scratch=2 * formulas.CHECKPOINT_BYTES * learned,
    )


def _state_bytes(site: Site, parameters: float, learned: float) -> float:
    """Weights in float32, and gradients and moments of those that learn, on one device. An
    accelerate config is taken to shard them over all ranks."""
    state = 4 * parameters + (formulas.STATE_BYTES - 4) * learned
    return state / (site.ranks if site.machine.accelerate_config else 1)


def pretrain(config: PretrainConfig, step: Step, site: Site) -> tuple[Taken, Amount]:
    model = Model(pretrain_shape(config), 4)
    tokens = config.steps * config.batch * config.sequence
    taken = _trained(
        site, model, tokens=tokens, length=config.sequence, steps=config.steps, rows=config.batch,
        save_steps=SPARSE_SAVES * site.machine.checkpoint_steps,
    )  # fmt: skip
    return taken, model


def reward_model(config: RewardModelConfig, step: Step, site: Site) -> tuple[Taken, Amount]:
    model = site.model(step)
    known: Texts = site.read(step, "pairs" if config.pairs else "labels")
    whole = (
        known.characters / model.shape.characters_per_token
        + 2 * prompt_tokens(PromptConfig(), 0, model.shape).tokens
    )
    length = min(whole, config.context)
    learned = known.rows * (1 - config.held_out_share)
    steps = math.ceil(learned / config.batch) * config.epochs
    taken = _trained(
        site, model, tokens=steps * config.batch * known.responses * length, length=length,
        steps=steps, rows=known.responses * min(site.machine.micro_batch, config.batch),
    )  # fmt: skip
    scored = known.rows * known.responses * length
    scoring = formulas.pass_seconds(model.shape.size(4), site.speed, scored, length)
    return replace(taken, seconds=taken.seconds + scoring), model


def distill(config: DistillConfig, step: Step, site: Site) -> tuple[Taken, Amount]:
    """Traces are taken to be as long as the student's own texts; every position meets the head of
    both models, forward and again in the backward pass."""
    model, teacher = site.model(step), site.model(step, "teacher")
    asked: Questions = site.read(step, "problems")
    _, question = asked.asked("train", config.sources)
    completion, is_assumed = site.expected(step, config.max_new_tokens)
    draw = site.draw(
        model, config.prompt, question=question, prompts=config.own, rows=config.own,
        completion=completion, limit=config.max_new_tokens, training=True,
    )  # fmt: skip
    length = draw.frame + draw.own + completion
    rows = min(site.machine.micro_batch, config.prompts)
    trained = _trained(
        site, model, tokens=config.steps * config.prompts * length, length=length,
        steps=config.steps, rows=rows, is_lora=bool(config.lora),
    )  # fmt: skip
    read = formulas.pass_seconds(teacher.shape.size(4), site.speed, config.prompts * length, length)
    seconds = config.steps * (site.draw_seconds(model, draw) + read) / site.ranks
    memory = (
        trained.memory
        + teacher.shape.parameters * site.engine_number
        + site.engine_memory(model, draw, training=True)
    )
    return replace(
        trained, seconds=site.start + trained.seconds + seconds,
        tokens=config.steps * draw.tokens, memory=memory, is_assumed=is_assumed,
    ), model  # fmt: skip


def grpo(config: GrpoConfig, step: Step, site: Site) -> tuple[Taken, Amount]:
    model = site.model(step)
    asked: Questions = site.read(step, "problems")
    _, question = asked.asked("train", config.sources)
    draws = [
        _rollout(config, site, model, step, question=question, update=update)
        for update in range(1, config.steps + 1, config.updates_per_rollout)
    ]
    learned = LORA_SHARE * model.shape.parameters if config.lora else model.shape.parameters
    updates = config.updates_per_rollout
    every = updates * math.ceil(site.machine.checkpoint_steps / updates)
    saves = max(0, math.ceil(config.steps / every) - 1)
    seconds = (
        site.start
        + sum(
            _rollout_seconds(config, site, model, draw, update=1 + number * updates)
            for number, draw in enumerate(draws)
        )
        / site.ranks
        + _parity_seconds(config, site, model, draws[-1])
        + _watch_seconds(config, site, model, step)
        + formulas.checkpoint_seconds(learned, saves)
        + model.file_bytes / formulas.DISK_BYTES_PER_SECOND
    )
    return Taken(
        seconds,
        sum(draw.tokens for draw in draws),
        _grpo_memory(config, site, model, draws[-1], learned),
        model.file_bytes,
        2 * formulas.CHECKPOINT_BYTES * learned,
        site.expected(step, config.max_new_tokens)[1],
    ), model


def _rollout(
    config: GrpoConfig, site: Site, model: Model, step: Step, *, question: float, update: int
) -> Draw:
    """What is drawn for the rollout that is first used for an update."""
    limit = config.limit_at(update)
    prompts = config.prompts * config.updates_per_rollout
    return site.draw(
        model, config.prompt, question=question, prompts=prompts, rows=prompts * config.group,
        completion=site.expected(step, limit)[0], limit=limit, training=True,
    )  # fmt: skip


def _rollout_seconds(
    config: GrpoConfig, site: Site, model: Model, draw: Draw, *, update: int
) -> float:
    """Of drawing a rollout, of its log-probs (the reference's, and the old policy's where several
    updates share it), of its scores by reward models, and of training on it. On the flat row of
    the packed pass each prompt stands once."""
    size, speed = model.shape.size(4), site.speed
    row = draw.frame + draw.own + draw.completion
    flat = draw.prompts * (draw.frame + draw.own) + draw.tokens
    passes = (config.kl > 0) + (config.updates_per_rollout > 1)
    training = formulas.train_seconds(
        size, speed, tokens=flat, context=row, share=speed.rl,
        passes=draw.prompts / site.machine.micro_groups,
    )  # fmt: skip
    return (
        site.draw_seconds(model, draw)
        + passes * formulas.pass_seconds(size, speed, flat, row)
        + _preference_seconds(config, site, model, update, row)
        + training * (formulas.LORA_WORK if config.lora else 1.0)
    )


def _preference_seconds(
    config: GrpoConfig, site: Site, model: Model, update: int, row: float
) -> float:
    """Of reward models over the answers to a rollout's general prompts."""
    models = sum(reward.model is not None for reward in config.rewards)
    rows = config.general_at(update) * config.group * config.updates_per_rollout
    return models * formulas.pass_seconds(model.shape.size(4), site.speed, rows * row, row)


def _parity_seconds(config: GrpoConfig, site: Site, model: Model, draw: Draw) -> float:
    """Of comparing engine and trainer at rollouts 1, 2, 4, 8, ..."""
    n, c = PARITY_ROWS, draw.completion
    few = Draw(n, n, 0, draw.frame + draw.own, c, c, block=n, at_once=n)
    return config.rollouts.bit_length() * site.draw_seconds(model, few)


def _watch_seconds(config: GrpoConfig, site: Site, model: Model, step: Step) -> float:
    """Of measuring the watched problems before, during and after the run."""
    watch = config.watch
    if watch is None:
        return 0.0
    problems, question = site.read(step, "watch.problems").asked(
        "held_out", watch.sources, watch.limit
    )
    completion, _ = site.expected(step, config.max_new_tokens)
    draw = site.draw(
        model, config.prompt, question=question, prompts=problems, rows=problems * watch.samples,
        completion=completion, limit=config.max_new_tokens, training=True,
    )  # fmt: skip
    return (1 + math.ceil(config.steps / watch.every)) * site.draw_seconds(model, draw) / site.ranks


def _grpo_memory(config: GrpoConfig, site: Site, model: Model, draw: Draw, learned: float) -> float:
    """Trainer, reference and reward models in float32, engine, and a micro-batch."""
    parameters, size = model.shape.parameters, model.shape.size(4)
    rewards = sum(reward.model is not None for reward in config.rewards)
    held = rewards + (config.kl > 0 and not config.lora)
    rows = site.machine.micro_groups * config.group
    return (
        _state_bytes(site, parameters, learned)
        + held * 4 * parameters
        + site.engine_memory(model, draw, training=True)
        + formulas.activation_bytes(
            size, model.shape.vocabulary, rows=rows, recomputes=site.on_gpu,
            length=draw.completion + (draw.frame + draw.own) / config.group,
        )
        + (ENGINE_BYTES + TRAINER_BYTES / 2) * (not site.on_gpu)
    )  # fmt: skip
