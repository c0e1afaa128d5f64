"""One row a training step: what repeats goes into a file, what does not goes to the context.

The rows of `telemetry.jsonl` hold deterministic values only, so that the file of a run that was
killed and resumed is the same to the byte as that of an undisturbed one. Seconds and tokens per
second are sent to `context.metrics`.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from factory.core.context import Context
from factory.core.errors import EngineError
from factory.core.jsonl import append_rows

Logs = Mapping[str, float]


class Telemetry(TrainerCallback):
    """Writes a row for every logged step, and tells progress and timings to the context.

    `values` picks and names the deterministic figures of a row from the Trainer's logs; `timings`
    picks further figures that change from run to run. `headline` names the figures shown in the
    live progress; what `alarms` says of a row is told to the user. Set `logging_steps=1` and
    `logging_nan_inf_filter=False` in the training arguments: the filter would replace a loss that
    is not a number by an older one, silently.
    A loss or gradient norm that is not finite raises EngineError.
    """

    def __init__(
        self,
        path: Path,
        context: Context,
        *,
        values: Callable[[Logs], dict[str, float]],
        timings: Callable[[Logs], dict[str, float]] = lambda logs: {},
        headline: tuple[str, ...] = ("loss",),
        alarms: Callable[[Mapping[str, float | None]], Sequence[str]] = lambda row: (),
    ) -> None:
        self.path = path
        self.context = context
        self.values = values
        self.timings = timings
        self.headline = headline
        self.alarms = alarms
        self._last_log = 0.0
        self._tokens = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.context.progress(state.global_step, state.max_steps, unit="steps")
        self._tokens = float(state.num_input_tokens_seen)
        self._last_log = time.monotonic()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None or "loss" not in logs:
            return  # the summary that a Trainer logs after its last step
        _require_finite(logs, state.global_step)
        if not state.is_world_process_zero:
            return
        row = {"step": state.global_step, **_json_numbers(self.values(logs))}
        append_rows(self.path, [row])
        for text in self.alarms(row):
            self.context.note(text)
        figures = {name: row[name] for name in self.headline if row.get(name) is not None}
        self.context.progress(state.global_step, state.max_steps, unit="steps", **figures)
        self.context.metrics(state.global_step, **self._timings(logs))

    def _timings(self, logs: Logs) -> dict[str, float]:
        now = time.monotonic()
        seconds, self._last_log = now - self._last_log, now
        timings = {"seconds": round(seconds, 3), **self.timings(logs)}
        if "num_tokens" in logs:
            tokens, self._tokens = logs["num_tokens"] - self._tokens, logs["num_tokens"]
            timings["tokens_per_second"] = round(tokens / seconds, 1) if seconds > 0 else 0.0
        return timings


def _require_finite(logs: Logs, step: int) -> None:
    for name in ("loss", "grad_norm"):
        if not math.isfinite(logs.get(name, 0.0)):
            raise EngineError(
                f"training step {step}: {name} is {logs[name]}: the run diverged; "
                "lower learning_rate or max_grad_norm, or raise warmup_fraction"
            )


def _json_numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    """The values with what JSON cannot hold (nan, infinities) as null."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
