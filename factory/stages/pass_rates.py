"""Stage `pass_rates`: how often a model solves each problem; the problems in a window of that.

What is always or never solved gives RL no signal and costs the same rollouts (DAPO, arXiv
2503.14476, section 3.2; Kimi k1.5, arXiv 2501.12599, 2.3.3, which also orders by difficulty).
Made once, the table serves every stage that reads problems.
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from factory.core.artifacts import Artifact, Inputs
from factory.core.blocks import Bar, Block, Cell, Table, Text
from factory.core.context import Context, Metrics
from factory.core.errors import DataError
from factory.core.jsonl import read_records, write_records
from factory.core.readable import count, percent
from factory.core.records import Problem, ProblemsRef, Record, Share, TracesRef
from factory.core.seeds import derive
from factory.cost.context import CostContext, StageCost
from factory.cost.flows import Questions
from factory.stages.stage import Fields, Shows, StageConfig, light_stage, register

BANDS = 10
"""Of the histogram in the report."""


class PassRatesConfig(StageConfig):
    """Writes pass_rates.jsonl, train.jsonl (the problems in the window) and held_out.jsonl (as it
    was)."""

    kind: Literal["pass_rates"]
    problems: ProblemsRef
    """Their train split is taken from."""
    traces: TracesRef
    """Graded answers to them, several a problem: of a `generate` stage with `samples`."""
    lowest: Share = 0.0
    """Problems solved less often are left out. 0 keeps those that were never solved too."""
    highest: Share = 1.0
    """Problems solved more often are left out. 1 keeps those that were always solved too."""
    least_samples: int = Field(default=1, ge=1, le=10**5)
    """Graded answers that a problem needs; others count as unsampled."""
    unsampled: Literal["drop", "keep"] = "drop"
    """What becomes of problems without enough graded answers."""
    order: Literal["as_given", "easy_first", "hard_first"] = "as_given"
    """How the problems are listed: `grpo` with `order: listed` asks them so. Those that were solved
    equally often come in an order of chance; unsampled ones last."""

    @model_validator(mode="after")
    def _is_a_window(self) -> "PassRatesConfig":
        if self.lowest > self.highest:
            raise ValueError(f"lowest ({self.lowest}) is above highest ({self.highest})")
        return self


class PassRate(Record):
    """How often a problem was solved: a line of pass_rates.jsonl."""

    problem_id: str
    samples: int
    """Graded answers; those that no grader could decide are not among them."""
    correct: int

    @property
    def rate(self) -> float:
        return self.correct / self.samples


def run(config: PassRatesConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Count, then keep what is in the window; DataError where nothing is."""
    table = pass_rates(inputs["traces"])
    problems = list(read_records(inputs["problems"].file("train.jsonl"), Problem))
    rates = {p.id: table[p.id] for p in problems if p.id in table}
    fates = [_fate(rates.get(problem.id), config) for problem in problems]
    kept = [p for p, fate in zip(problems, fates, strict=True) if fate == "kept"]
    counts = {name: float(fates.count(name)) for name in FATES}
    if not kept:
        counted = ", ".join(
            f"{count(n)} {name.replace('_', ' ')}" for name, n in counts.items() if n
        )
        raise DataError(
            f"pass_rates: no problem is left between {config.lowest:g} and {config.highest:g} "
            f"({counted or 'there were none'}); widen the window, or sample more answers"
        )
    write_records(out / "pass_rates.jsonl", (rates[p.id] for p in problems if p.id in rates))
    write_records(out / "train.jsonl", _listed(kept, rates, config, context.seed))
    held_out = read_records(inputs["problems"].file("held_out.jsonl"), Problem)
    measured = write_records(out / "held_out.jsonl", held_out)
    solved = [rate.rate for rate in rates.values()]
    return {
        **counts,
        "train": float(len(kept)),
        "held_out": float(measured),
        "mean_pass_rate": sum(solved) / len(solved) if solved else 0.0,
    }


def pass_rates(traces: Artifact) -> dict[str, PassRate]:
    """By problem id, over all traces that were graded."""
    samples: dict[str, int] = defaultdict(int)
    correct: dict[str, int] = defaultdict(int)
    for trace in traces.traces():
        if trace.verdict.outcome != "ungradable":
            samples[trace.problem_id] += 1
            correct[trace.problem_id] += trace.verdict.is_correct
    return {
        name: PassRate(problem_id=name, samples=number, correct=correct[name])
        for name, number in samples.items()
    }


FATES = ("kept", "too_hard", "too_easy", "unsampled")


def _fate(rate: PassRate | None, config: PassRatesConfig) -> str:
    if rate is None or rate.samples < config.least_samples:
        return "kept" if config.unsampled == "keep" else "unsampled"
    if rate.rate < config.lowest:
        return "too_hard"
    return "too_easy" if rate.rate > config.highest else "kept"


def _listed(
    problems: Sequence[Problem], rates: Mapping[str, PassRate], config: PassRatesConfig, seed: int
) -> list[Problem]:
    if config.order == "as_given":
        return list(problems)
    mixed = random.Random(derive(seed, "pass_rates")).sample(problems, len(problems))
    sign = -1 if config.order == "easy_first" else 1
    return sorted(
        mixed, key=lambda p: (p.id not in rates, sign * rates[p.id].rate if p.id in rates else 0.0)
    )


def estimate(config: PassRatesConfig, cost: CostContext) -> tuple[StageCost, Questions]:
    questions: Questions = cost.read("problems")
    traces = cost.read("traces")
    number = sum(questions.train.values()) + sum(questions.held_out.values())
    return StageCost(0.1 + 5e-5 * (traces.rows + number), disk=1000.0 * number), questions


def small(fields: Fields) -> Fields:
    """A random model solves nothing."""
    return {**fields, "lowest": 0.0, "highest": 1.0, "least_samples": 1, "unsampled": "keep"}


def shown(artifact: Artifact) -> Sequence[Block]:
    """What became of the problems, and how often they were solved."""
    metrics = artifact.manifest.metrics
    rates = list(read_records(artifact.file("pass_rates.jsonl"), PassRate))
    bands = [0] * BANDS
    for rate in rates:
        bands[min(BANDS - 1, int(rate.rate * BANDS))] += 1
    fates = ", ".join(
        f"{count(metrics[name])} {name.replace('_', ' ')}" for name in FATES if metrics.get(name)
    )
    rows = tuple(
        (
            f"{percent(band / BANDS, 0)} to {percent((band + 1) / BANDS, 0)}",
            count(number),
            Cell(bar=Bar((("problems", float(number)),), count(number), float(len(rates) or 1))),
        )
        for band, number in enumerate(bands)
    )
    return [
        Text(f"{artifact.manifest.name}: {fates}."),
        Table(("answers that are right", "problems", ""), rows, numbers=(1,)),
    ]


STAGE = register(
    light_stage(
        PassRatesConfig,
        produces="problems",
        version=1,
        run=run,
        estimate=estimate,
        small=small,
        shows=Shows("stages", shown),
    )
)
