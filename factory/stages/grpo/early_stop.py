"""Ending a run whose held-out score falls while its reward rises, with its best weights."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from factory.core.ranks import this_rank
from factory.core.records import Record
from factory.stages.grpo.trends import Alarm
from factory.stages.grpo.watch import Watcher
from factory.trainers.unchanged import remember, require_unchanged, sums
from factory.trainers.weights import fill, gathered


class Stopped(Record):
    """Why a run ended early, and whose weights it gave back: the content of `stopped.json`."""

    step: int
    """Updates done when it ended."""
    weights_step: int
    """Updates behind the weights that were given back: the best measurement before the alarm."""
    alarm: Alarm


class EarlyStop(TrainerCallback):
    """Ends training at the watch's alarm, and keeps the weights of its best measurement.

    Weights are written before each measurement, and go once another one is better: at most two
    sets lie in `folder`. An alarm ends the run after the update whose rollout raised it. A resumed
    run meets the same measurements, and ends at the same step with the same weights.
    """

    def __init__(self, watcher: Watcher, folder: Path) -> None:
        self.watcher = watcher
        self.folder = folder
        self.has_stopped = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Of a resumed run the watch knows the earlier measurements from its first rollout on only.
        if self.watcher.is_due(state.global_step):
            self._write(state.global_step, kwargs["model"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.watcher.alarm is not None:
            control.should_training_stop = self.has_stopped = True
            return
        self._keep(state.global_step, kwargs["model"])

    def _keep(self, step: int, model: torch.nn.Module) -> None:
        """Write the weights of a step that is about to be measured, and drop those of no use."""
        if not self.watcher.is_due(step):
            return
        best = self._best_step()
        for path in self.folder.glob("watched-*.safetensors"):
            if path != self._path(best) and this_rank().is_first:
                path.unlink()
                sums(path).unlink(missing_ok=True)
        self._write(step, model)

    def _write(self, step: int, model: torch.nn.Module) -> None:
        tensors = {name: gathered(p.detach()).contiguous() for name, p in model.named_parameters()}
        if this_rank().is_first:
            save_file(tensors, self._path(step))
            remember(self._path(step))

    def _best_step(self) -> int | None:
        """The first of the best measurements so far, as the alarm counts them."""
        rows = self.watcher.rows
        return max(rows, key=lambda row: sum(row.correct)).step if rows else None

    def _path(self, step: int | None) -> Path:
        return self.folder / f"watched-{step}.safetensors"

    def go_back(self, model: torch.nn.Module, step: int) -> Stopped | None:
        """Give the model the weights of the best measurement, if there was an alarm."""
        alarm = self.watcher.alarm
        if alarm is None:
            return None
        require_unchanged(self._path(alarm.best_step))
        kept = load_file(self._path(alarm.best_step))
        for name, parameter in model.named_parameters():
            fill(parameter, kept[name])
        return Stopped(step=step, weights_step=alarm.best_step, alarm=alarm)
