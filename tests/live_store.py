"""A store whose build is played: its files are written as a build writes them."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from report_example import trace

from factory.building.builds import FOLDER, KeptBuild, Outcome, PlannedStep

NAME = "20261130T101500000000-4711"
KINDS = {"base": "model", "zero": "grpo", "traces": "generate"}


class PlayedBuild:
    """base is sealed, zero is at work, traces wait."""

    def __init__(self, store: Path, *, say: str = "", recipe: str = "first") -> None:
        self.store = store
        self.recipe = recipe
        self.run = store / "zero-aaaaaaaaaaaa.run"
        self.scratch = self.run / "scratch"
        self.scratch.mkdir(parents=True)
        (store / "zero-aaaaaaaaaaaa.partial").mkdir()
        self.seal("base")
        self.say = say
        self.keep()
        (self.run / "estimate.json").write_text('{"seconds": 90.0}')
        waits = store / "traces-aaaaaaaaaaaa.run"
        waits.mkdir()
        (waits / "estimate.json").write_text('{"seconds": 30.0}')

    def seal(self, name: str) -> None:
        folder = self.store / f"{name}-aaaaaaaaaaaa"
        folder.mkdir()
        (folder / "manifest.json").write_text(json.dumps({"name": name, "seconds": 12.0}))

    def keep(self, outcome: Outcome | None = None, message: str = "") -> None:
        """Write what the store knows of the build."""
        build = KeptBuild(
            recipe=self.recipe, command="factory build first.yaml", process=4711,
            started=datetime.now(UTC).isoformat(timespec="seconds"), price_per_hour=3.0,
            ended=None if outcome is None else datetime.now(UTC).isoformat(timespec="seconds"),
            outcome=outcome, message=message,
            steps=tuple(
                PlannedStep(
                    name=name, kind=kind, produces="traces" if name == "traces" else "model",
                    inputs={}, folder=f"{name}-aaaaaaaaaaaa",
                )
                for name, kind in KINDS.items()
            ),
        )  # fmt: skip
        (self.store / FOLDER).mkdir(exist_ok=True)
        (self.store / FOLDER / f"{NAME}.json").write_text(build.model_dump_json())

    @contextmanager
    def running(self) -> Iterator[None]:
        """The lock that a build holds."""
        with (self.store / FOLDER / f"{NAME}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def event(self, **fields: object) -> None:
        with (self.run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(fields) + "\n")

    def step(self, number: int, total: int = 10) -> None:
        """One update of zero, with all that it leaves."""
        with (self.scratch / "telemetry.jsonl").open("a") as file:
            row = {"step": number, "reward": 0.1 * number, "kl": 0.01, "rewards/accuracy": 0.5}
            file.write(json.dumps(row) + "\n")
        with (self.scratch / "rollouts.jsonl").open("a") as file:
            answer = trace(number, 0, "correct", say=self.say).model_dump(mode="json")
            row = {"step": number, "trace": answer, "rewards": {"accuracy": 1.0}}
            file.write(json.dumps(row) + "\n")
        self.event(event="metrics", at=2.0 * number, step=number,
                   values={"tokens_per_second": 432.0, "roofline/train": 0.61})  # fmt: skip
        self.event(event="progress", at=2.0 * number, done=number, total=total, unit="steps",
                   figures={"reward": 0.1})  # fmt: skip
