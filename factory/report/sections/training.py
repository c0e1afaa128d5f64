"""What training stages logged, as curves, and the first and the last completion of RL."""

from typing import Literal

from pydantic import ConfigDict

from factory.core.artifacts import Artifact
from factory.core.blocks import Block, Cell, Figures, Fold, Sample, Samples, Section, Table, Text
from factory.core.jsonl import read_records
from factory.core.readable import figure
from factory.core.records import Record, Trace
from factory.report.build import Build
from factory.report.charts import TITLES, panels
from factory.report.curves import WINDOW, TrainingRun, mean, training_runs
from factory.report.section import section

UNFOLDED = 1
"""Runs of a section whose plots are shown at once; a recipe may have dozens."""
HEADER = ("quantity", "steps", "first 8 steps, mean", "last 8 steps, mean")
Look = Literal["fold", "closed"]


class Rollout(Record):
    """A line of rollouts.jsonl, as far as it is read."""

    model_config = ConfigDict(extra="ignore")

    step: int
    trace: Trace


@section("training", after="changes")
def training(build: Build) -> Section | None:
    runs = training_runs(build)
    if not runs:
        return None
    intro = (
        "Faint points are single steps, lines their mean over 8 steps. One step rests on few "
        "problems: read the line, not the points. Numbers beside a title are means of the last 8 "
        "steps"
    )
    intro += "; seconds are means over all steps." if any(run.seconds for run in runs) else "."
    parts = [
        _part(run, "fold" if number < UNFOLDED else "closed") for number, run in enumerate(runs)
    ]
    return Section("Training", (Text(intro), *parts))


def _part(run: TrainingRun, look: Look) -> Section:
    rows = []
    for series in (*run.series, *run.seconds):
        ends = (series.values[:WINDOW], series.values[-WINDOW:])
        title = TITLES.get(series.name, series.name)
        rows.append((title, str(len(series.steps)), *(figure(mean(end)) for end in ends)))
    table = Table(HEADER, tuple(rows), numbers=(1, 2, 3))
    parts: list[Block] = [Figures(tuple(panels(run)), instead=(table,))]
    kept = read_rollouts(run.artifact)
    if kept:
        ends = [kept[0], kept[-1]] if len(kept) > 1 else kept
        samples = Samples(tuple(Sample.of(f"step {row.step}", row.trace) for row in ends))
        parts.append(Fold("First and last rollout that was kept", (samples,), on_page_only=True))
    return Section(run.stage, tuple(parts), note=Cell(run.kind, look="kind model"), look=look)


def read_rollouts(artifact: Artifact) -> list[Rollout]:
    """The completions that an RL stage kept, in order; none of one that kept none."""
    if "rollouts.jsonl" not in artifact.manifest.files:
        return []
    return list(read_records(artifact.file("rollouts.jsonl"), Rollout))
