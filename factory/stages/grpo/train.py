"""One GRPO run from its parts: model, engine, graders, trainer, checkpoints."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import PrinterCallback

from factory.core.artifacts import Artifact
from factory.core.context import Context
from factory.core.files import write_file
from factory.core.ranks import this_rank
from factory.core.records import Problem
from factory.core.seeds import derive
from factory.cost.roofline import measure_peaks, size_of
from factory.grading import GradingPool
from factory.models.parts import trained_model
from factory.sampling import open_sampler
from factory.sampling.ends import training_ends
from factory.stages.grpo.arguments import plain_rows, prompts_per_rank, training_arguments
from factory.stages.grpo.config import GrpoConfig
from factory.stages.grpo.early_stop import EarlyStop
from factory.stages.grpo.efficiency import Efficiency
from factory.stages.grpo.judge_rewards import judge_rewards
from factory.stages.grpo.pass_choice import FasterPass
from factory.stages.grpo.preference_rewards import PreferenceRewards
from factory.stages.grpo.rollouts import Rollouts, RolloutSettings
from factory.stages.grpo.trainer import FactoryGrpoTrainer, plain_pass_reason
from factory.stages.grpo.watch import Watcher
from factory.text.chat import render
from factory.text.templates import open_tokenizer
from factory.trainers.adapters import open_policy
from factory.trainers.checkpoints import CompleteCheckpoints
from factory.trainers.lora import keeps_adapters, peft_config
from factory.trainers.opening import require_room
from factory.trainers.phases import PhaseClock
from factory.trainers.questions import question_order
from factory.trainers.running import run_trainer
from factory.trainers.saving import save_model
from factory.trainers.telemetry import Logs, Telemetry

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


RENAMED = {
    "completions/mean_length": "completion_length",
    "clip_ratio/region_mean": "clipped_share",
}
"""TRL's names for figures that the telemetry calls otherwise."""

AS_THEY_ARE = (
    "loss", "grad_norm", "learning_rate", "reward", "reward_std", "kl", "entropy", "ratio_max",
    "accuracy", "ungradable_share", "canary_accuracy", "format_share", "truncated_share",
    "language_mix_share", "redone", "runs_on_share", "code_share", "bare_share",
)  # fmt: skip


def train(
    config: GrpoConfig,
    problems: Sequence[Problem],
    *,
    general: Sequence[Problem] = (),
    watched: Sequence[Problem] = (),
    model: Artifact,
    reward_models: Mapping[str, Path] = MappingProxyType({}),
    judge: Path | None = None,
    out: Path,
    context: Context,
) -> dict[str, float]:
    """Train the model of an artifact and write it to `out`; `watched` are measured on the way.

    Returns what there is to say of a run that an alarm ended, else nothing. `general` are prompts
    that only reward models and a judge rate, whose folders are `reward_models`, by component, and
    `judge`. Leaves
    telemetry.jsonl, rollouts.jsonl and (with a watch) watch.jsonl in scratch.
    """
    tokenizer = open_tokenizer(model.path)
    training_problems = [*problems, *general]
    prompts, watch_prompts = (
        [render(problem.prompt, config.prompt, tokenizer) for problem in part]
        for part in (training_problems, watched)
    )
    longest = _longest([*prompts, *watch_prompts], tokenizer)
    length = require_room(model.path, prompt=longest, completion=config.largest_limit)
    ends = training_ends(model.path, tokenizer, config.prompt)
    machine = context.machine
    policy = open_policy(model.path, config.lora, machine, ends=ends)
    with (
        GradingPool(machine.thread_count(), is_isolated=not machine.unsandboxed) as pool,
        judge_rewards(config.judge, judge, context) as judging,
    ):
        sampler = open_sampler(
            model.path, machine, max_length=length, training=True, notify=context.note, ends=ends
        )
        parts: dict[str, Any] = {
            "sampler": sampler, "tokenizer": tokenizer, "pool": pool, "folder": context.scratch,
        }  # fmt: skip
        try:
            rollouts = Rollouts(
                _settings(config, model, context),
                training_problems,
                prompts,
                clock=PhaseClock(),
                watcher=_watcher(config, watched, watch_prompts, context=context, parts=parts),
                preferences=_preferences(config, reward_models, context),
                judge=judging,
                **parts,
            )
            trainer = make_trainer(config, policy=policy, rollouts=rollouts, context=context)
            stopped = _trained(trainer, rollouts, context)
            # Before vLLM goes: it takes along the process group, by which shards are gathered.
            save_model(
                trainer, model.path, out, ends=ends, keeps_adapters=keeps_adapters(config.lora)
            )
        finally:
            sampler.close()
    return stopped


def _trained(trainer: FactoryGrpoTrainer, rollouts: Rollouts, context: Context) -> dict[str, float]:
    """Train to the end or to an alarm; what there is to say of the latter."""
    rollouts.clock.take()
    run_trainer(trainer, context)
    early = _early_stop(trainer)
    if early is None or not early.has_stopped:
        rollouts.watch(trainer)
    return {} if early is None else _go_back(early, trainer, context)


def _go_back(early: EarlyStop, trainer: FactoryGrpoTrainer, context: Context) -> dict[str, float]:
    """Take the best weights if there was an alarm, and say so."""
    stopped = early.go_back(trained_model(trainer), trainer.state.global_step)
    if stopped is None:
        return {}
    context.note(f"grpo: ended after step {stopped.step}, weights of step {stopped.weights_step}")
    text = stopped.model_dump_json() + "\n"
    if this_rank().is_first:
        write_file(context.scratch / "stopped.json", text)
    return {"stopped_step": float(stopped.step), "weights_step": float(stopped.weights_step)}


def _early_stop(trainer: FactoryGrpoTrainer) -> EarlyStop | None:
    callbacks = trainer.callback_handler.callbacks
    return next((callback for callback in callbacks if isinstance(callback, EarlyStop)), None)


def _watcher(
    config: GrpoConfig,
    problems: Sequence[Problem],
    prompts: Sequence[str],
    *,
    context: Context,
    parts: dict[str, Any],
) -> Watcher | None:
    watch = config.watch
    if watch is None:
        return None
    return Watcher(
        problems,
        prompts,
        every=watch.every,
        samples=watch.samples,
        sampling=config.sampling_at(1).model_copy(
            update={"temperature": watch.temperature, "top_p": watch.top_p}
        ),
        prompt=config.prompt,
        language=config.language,
        seed=context.seed,
        notify=context.note,
        **parts,
    )


def make_trainer(
    config: GrpoConfig,
    *,
    policy: "PreTrainedModel",
    rollouts: Rollouts,
    context: Context,
) -> FactoryGrpoTrainer:
    """The trainer with its data in order and all its callbacks, ready to `train`."""
    arguments, packed_rows, is_measured = _placement(config, policy, context)
    faster_pass = FasterPass(context.scratch, context.note) if is_measured else None
    general = sum(problem.kind == "open" for problem in rollouts.problems)
    peaks = measure_peaks(arguments.device, torch.float32)
    context.note(
        f"grpo: this process multiplies at {peaks.flops_per_second / 1e9:.0f} GFLOP/s and reads "
        f"{peaks.bytes_per_second / 1e9:.0f} GB/s; shares of the roofline refer to that"
    )
    figures = Efficiency(
        size_of(policy),
        peaks,
        completions=arguments.generation_batch_size,
        group=config.group,
        rows_at_once=context.machine.block,
        updates=config.updates_per_rollout,
    )
    telemetry = Telemetry(
        context.scratch / "telemetry.jsonl",
        context,
        values=partial(telemetry_values, components=[r.name for r in config.rewards]),
        timings=lambda logs: (
            _timings(rollouts, figures, logs) | (faster_pass.take() if faster_pass else {})
        ),
        headline=("reward", "accuracy"),
        alarms=canary_alarms,
    )
    trainer = FactoryGrpoTrainer(
        model=policy,
        args=arguments,
        train_dataset=question_rows(config, len(rollouts.problems), context.seed, general=general),
        processing_class=rollouts.tokenizer,
        peft_config=peft_config(config.lora),
        reward_funcs=rollouts.reward,
        rollout_func=rollouts.sample,
        callbacks=[
            CompleteCheckpoints(config.updates_per_rollout),
            telemetry,
            *_stopping(config, rollouts, context),
        ],
        packed_rows=packed_rows,
        faster_pass=faster_pass,
        clock=rollouts.clock,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _stopping(config: GrpoConfig, rollouts: Rollouts, context: Context) -> list[EarlyStop]:
    if config.watch is None or not config.watch.stops or rollouts.watcher is None:
        return []
    return [EarlyStop(rollouts.watcher, context.scratch)]


def _placement(
    config: GrpoConfig, policy: "PreTrainedModel", context: Context
) -> tuple[Any, int | None, bool]:
    """TRL's arguments, the rows of a micro-batch, and whether a measurement chooses its pass.

    We cut the micro-batches, so TRL hands over the whole batch at once. No rows: TRL's own pass
    over the batches that TRL cuts.
    """
    machine = context.machine
    plain = training_arguments(config, context, rows=plain_rows(config, machine))
    reason = plain_pass_reason(policy, plain)
    if reason is None and machine.training_pass == "trl":
        reason = "the machine file says so"
    if reason is not None:
        context.note(f"grpo: TRL's own training pass, since {reason}")
        return plain, None, False
    rows = prompts_per_rank(config) * config.group
    packed = training_arguments(config, context, rows=rows)
    # On CPUs in float32 the packed pass was 2.8 to 6.6 times as fast as TRL's (docs/log.md).
    is_known = plain.use_cpu and not plain.bf16
    measured = {"measure"} if is_known else {"measure", "auto"}
    is_measured = machine.training_pass in measured
    return packed, machine.train.micro_rows or machine.micro_groups * config.group, is_measured


def question_rows(config: GrpoConfig, problems: int, seed: int, *, general: int = 0) -> Dataset:
    """Every question of the run in the order in which it is asked: resuming only skips rows.

    A row's prompt is the index of its problem, of which the last `general` are general prompts.
    """
    order = planned_questions(config, problems - general, general, seed)
    return Dataset.from_dict({"prompt": [str(index) for index in order]})


def planned_questions(config: GrpoConfig, problems: int, general: int, seed: int) -> list[int]:
    """Indices of the questions of all rollouts; general prompts come after the problems.

    Problems and general prompts are each drawn in whole passes of their own, so that adding the
    ones changes no order of the others.
    """
    updates = config.updates_per_rollout
    counts = [config.general_at(phase * updates + 1) for phase in range(config.rollouts)]
    most = config.rollouts * updates * config.prompts
    ruled = iter(question_order(problems, most, seed))
    if config.order == "listed":
        ruled = cycle(range(problems))
    free = iter(question_order(general, most, derive(seed, "general")) if general else ())
    order: list[int] = []
    for count in counts:
        for _ in range(updates):
            order += [next(ruled) for _ in range(config.prompts - count)]
            order += [problems + next(free) for _ in range(count)]
    return order


def telemetry_values(logs: Logs, *, components: Sequence[str]) -> dict[str, float]:
    """The deterministic figures of a step, from what TRL logs.

    A step that takes its rows from an earlier rollout has none of the rollout's figures. With
    the KL weight 0, `entropy` is that of rows with a signal, and missing where no row has one.
    """
    values = {name: logs[name] for name in AS_THEY_ARE if name in logs}
    values |= {ours: logs[theirs] for theirs, ours in RENAMED.items() if theirs in logs}
    if "frac_reward_zero_std" in logs:
        values["signal_share"] = 1.0 - logs["frac_reward_zero_std"]
    names = [f"rewards/{component}" for component in components]
    names += [name for name in logs if name.startswith(("words/", "drawn_", "judge/"))]
    return values | {name: logs[name] for name in names if name in logs}


def canary_alarms(row: Mapping[str, float | None]) -> list[str]:
    """What to say about a row of telemetry in which a canary was graded correct."""
    share = row.get("canary_accuracy")
    if not share:
        return []
    return [
        f"ALARM, update {row['step']:g}: {share:.0%} of the answers to canary problems were graded "
        "correct, whose references no honest answer gives: a grader is fooled or references leak; "
        "read rollouts.jsonl"
    ]


def _timings(rollouts: Rollouts, efficiency: Efficiency, logs: Logs) -> dict[str, float]:
    """Seconds by phase, rates and shares of the roofline, and the parity check if there was one."""
    seconds = rollouts.clock.take()
    timings = {f"seconds/{name}": round(value, 3) for name, value in seconds.items()}
    timings |= efficiency.of_step(seconds, rollouts.totals_drawn, logs)
    timings |= rollouts.parity
    rollouts.parity = {}
    return timings


def _settings(config: GrpoConfig, model: Artifact, context: Context) -> RolloutSettings:
    phases = {0, config.rollouts // 2, config.rollouts - 1}
    if config.watch is not None:
        phases |= set(range(0, config.rollouts, config.watch.every // config.updates_per_rollout))
    return RolloutSettings(
        prompt=config.prompt,
        rewards=config.rewards,
        sampling_at=config.sampling_at,
        group=config.group,
        language=config.language,
        seed=context.seed,
        dtype=context.machine.torch_dtype_name(on_gpu=context.machine.takes_gpu()),
        model=model.fingerprint,
        dynamic_sampling=config.dynamic_sampling,
        max_ungradable=config.max_ungradable,
        drawing=context.drawing,
        # Ranks that share an engine draw in one call of all.
        is_streamed=context.machine.rolls_out_full and context.machine.tensor_parallel_rl == 1,
        kept_steps=frozenset(phase * config.updates_per_rollout + 1 for phase in phases),
    )


def _preferences(
    config: GrpoConfig, models: Mapping[str, Path], context: Context
) -> PreferenceRewards | None:
    if not models:
        return None
    on_gpu = context.machine.takes_gpu()
    return PreferenceRewards(
        config.rewards,
        models,
        prefill=config.prompt.prefill,
        machine=context.machine,
        device=f"cuda:{this_rank().local}" if on_gpu else "cpu",
    )


def _longest(prompts: Sequence[str], tokenizer: "PreTrainedTokenizerBase") -> int:
    """Tokens of the longest prompt."""
    return max(map(len, tokenizer(list(prompts), add_special_tokens=False)["input_ids"]))
