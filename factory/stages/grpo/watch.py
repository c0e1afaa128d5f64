"""Held-out problems measured during an RL run, with an alarm where its reward parts from them."""

from pathlib import Path
from typing import Any

from factory.core.jsonl import recover_rows
from factory.evaluation.measured import WatchRow
from factory.stages.grpo.trends import Alarm, alarm
from factory.trainers.watch import ALONE, Measurer, Ranks


class Watcher(Measurer):
    """Also compares what it measures with the rewards of the run."""

    def __init__(self, *args: Any, folder: Path, **parts: Any) -> None:
        super().__init__(*args, folder=folder, **parts)
        self.telemetry = folder / "telemetry.jsonl"
        self.alarm: Alarm | None = None
        """Set, on every rank alike, once the reward rose while the held-out score fell."""

    def measure(self, step: int, *, limit: int, ranks: Ranks = ALONE) -> WatchRow:
        """The measurement; then whether reward and held-out score part."""
        row = super().measure(step, limit=limit, ranks=ranks)
        was_quiet = self.alarm is None
        # Only the first rank's telemetry is sure to hold the step that has just ended.
        raised = alarm(self.rows, rewards(self.telemetry)) if ranks.own == 0 else None
        self.alarm = ranks.gather([raised])[0]
        if self.alarm is not None and was_quiet and ranks.own == 0:
            self.notify(self.alarm.sentence)
        return row


def rewards(telemetry: Path) -> list[tuple[int, float]]:
    """(step, mean reward) of every rollout so far."""
    rows = recover_rows(telemetry)
    return [(row["step"], row["reward"]) for row in rows if row.get("reward") is not None]
