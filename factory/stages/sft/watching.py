"""Held-out problems measured while a model is fine-tuned, and which of its weights are given back.

Every measurement asks saved weights, in an engine of their own, with a seed a request: training
sees nothing of it, and a run with a watch trains on the same bytes as one without.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from factory.core.context import Context
from factory.core.files import write_file
from factory.core.ranks import this_rank
from factory.core.records import Problem, Record, SamplingConfig
from factory.evaluation.measured import WatchRow
from factory.evaluation.paired import ALPHA, paired
from factory.evaluation.statistics import clusters
from factory.grading import GradingPool
from factory.sampling import open_sampler
from factory.stages.sft.config import SftConfig
from factory.text.chat import render, with_stops
from factory.trainers.opening import require_room
from factory.trainers.unchanged import remember, require_unchanged
from factory.trainers.watch import Measurer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Save = Callable[[Path], None]
"""Writes the present weights as a model's folder; every rank calls it."""


class Chosen(Record):
    """Whose weights were given back, and why: the content of `chosen.json`."""

    step: int
    """Updates behind them."""
    last_step: int
    best_step: int
    """The first of the best measurements."""
    p_value: float
    """Of the best against the last on the same problems, times how many could have been the best;
    1 where the last is the best."""
    reason: str


def chosen(rows: Sequence[WatchRow], problems: Sequence[Problem]) -> Chosen:
    """The last weights, unless earlier ones are better beyond what chance explains.

    The best of m measurements looks better than the last by luck alone. So the best earlier one is
    taken only where the paired test (`evaluation.paired`) of it against the last, its p-value times
    the number of earlier ones (Bonferroni), is below 0.05.
    """
    *earlier, last = rows
    best = max(rows, key=lambda row: (sum(row.correct), -row.step))
    steps = {"last_step": last.step, "best_step": best.step}
    if not earlier or sum(best.correct) == sum(last.correct):
        return Chosen(step=last.step, p_value=1.0, reason="no measurement is better", **steps)
    shares = [[count / row.samples for count in row.correct] for row in (best, last)]
    groups = clusters([problem.id for problem in problems])
    test = paired(*shares, samples=last.samples, groups=groups)
    p_value = min(1.0, test.p_value * len(earlier))
    points = (
        f"step {best.step} against {last.step}: {100 * test.difference.value:+.1f} points "
        f"[{100 * test.difference.low:+.1f}, {100 * test.difference.high:+.1f}], "
        f"p {p_value:.3g} over {len(earlier)} earlier measurements (n = {last.n})"
    )
    if p_value < ALPHA:
        return Chosen(step=best.step, p_value=p_value, reason=f"better: {points}", **steps)
    return Chosen(step=last.step, p_value=p_value, reason=f"may be chance: {points}", **steps)


class SftWatch(TrainerCallback):
    """Saves and measures the weights every so many updates, and after the last."""

    def __init__(
        self,
        config: SftConfig,
        problems: Sequence[Problem],
        *,
        model: Path,
        tokenizer: "PreTrainedTokenizerBase",
        save: Save,
        pool: GradingPool,
        context: Context,
    ) -> None:
        watch = config.watch
        if watch is None:
            raise ValueError("SftWatch without a watch in the recipe")
        self._settings, self._problems, self._keep_weights = watch, problems, save
        self._context = context
        self._folder = context.scratch
        prompts = [render(problem.prompt, config.prompt, tokenizer) for problem in problems]
        longest = max(map(len, tokenizer(prompts, add_special_tokens=False)["input_ids"]))
        self._length = require_room(model, prompt=longest, completion=watch.max_new_tokens)
        sampling = SamplingConfig(
            temperature=watch.temperature, top_p=watch.top_p, max_new_tokens=watch.max_new_tokens
        )
        parts: dict[str, Any] = {"sampler": None, "tokenizer": tokenizer, "pool": pool}
        self._watcher = Measurer(
            problems, prompts, every=watch.every, samples=watch.samples,
            sampling=with_stops(sampling, config.prompt), prompt=config.prompt, language="en",
            seed=context.seed, folder=context.scratch, notify=context.note, **parts,
        )  # fmt: skip

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if this_rank().is_first:
            self._watcher.resume(state.global_step + 1)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        step = state.global_step
        if self._watcher.is_due(step) or step >= state.max_steps:
            self._measure(step, kwargs["model"])

    def _measure(self, step: int, model: Any) -> None:
        before = {name: getattr(model.config, name) for name in ("use_cache", "dtype")}
        folder = self._path(step)
        if this_rank().is_first:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        self._keep_weights(folder)
        # What is saved names them as a model that is used has them.
        for name, value in before.items():
            setattr(model.config, name, value)
        if not this_rank().is_first:
            return  # it waits for the first rank in the next update
        remember(folder)
        machine = self._context.machine.model_copy(update={"engine": "transformers"})
        self._watcher.sampler = open_sampler(folder, machine, max_length=self._length)
        try:
            self._watcher.measure(step, limit=self._settings.max_new_tokens)
        finally:
            self._watcher.sampler.close()
        best = max(self._watcher.rows, key=lambda row: (sum(row.correct), -row.step)).step
        for row in self._watcher.rows:
            if row.step not in (best, step) and not self._settings.checkpoints:
                shutil.rmtree(self._path(row.step), ignore_errors=True)

    def finish(self, out: Path) -> dict[str, float]:
        """Fill `out` with the weights that are given back, watch.jsonl, chosen.json and, where they
        are kept, the weights of every measurement; returns figures. For the first rank alone."""
        rows = self._watcher.rows
        choice = chosen(rows, self._problems)
        if self._settings.keep == "last":
            choice = choice.model_copy(update={"step": rows[-1].step})
        for step in {row.step for row in rows} if self._settings.checkpoints else {choice.step}:
            require_unchanged(self._path(step))
        shutil.copytree(self._path(choice.step), out, dirs_exist_ok=True)
        shutil.copyfile(self._watcher.path, out / self._watcher.path.name)
        write_file(out / "chosen.json", choice.model_dump_json(indent=2) + "\n")
        if self._settings.checkpoints:
            for row in rows:
                shutil.copytree(self._path(row.step), out / "checkpoints" / f"step-{row.step}")
        if choice.step != choice.last_step:
            self._context.note(f"sft: weights of step {choice.step} are kept: {choice.reason}")
        return {"weights_step": float(choice.step)}

    def _path(self, step: int) -> Path:
        return self._folder / f"watched-{step}"


@contextmanager
def open_watch(
    config: SftConfig,
    problems: Sequence[Problem],
    folder: Path,
    tokenizer: "PreTrainedTokenizerBase",
    save: Save,
    context: Context,
) -> Iterator[SftWatch | None]:
    """What measures the problems during a run; None without any."""
    if config.watch is None:
        yield None
        return
    machine = context.machine
    with GradingPool(machine.thread_count(), is_isolated=not machine.unsandboxed) as pool:
        yield SftWatch(
            config, problems, model=folder, tokenizer=tokenizer, save=save, pool=pool,
            context=context,
        )  # fmt: skip
