"""How RL runs changed by themselves: held-out measurements, alarms, and the moments of doubt."""

from collections.abc import Mapping, Sequence

from factory.artifacts import Artifact
from factory.jsonl import read_records
from factory.report.records import Evolution, Series, Step, Telling, TrainingRun
from factory.report.stories import Rollout, read_rollouts, sample_of
from factory.rewards import doubts
from factory.stages.grpo.trends import WatchRow, alarm, length_fall

AROUND = 240
"""Characters shown before a doubt, and twice as many after it."""

FIRST = "the first that was kept with a step done again"
MOST = "the one with the most steps done again, of those that end right where there are any"


def evolutions(steps: Sequence[Step], runs: Sequence[TrainingRun]) -> list[Evolution]:
    """One entry for every sealed RL stage, in plan order."""
    by_stage = {run.stage: run for run in runs}
    return [
        _evolution(step, step.artifact, by_stage[step.name])
        for step in steps
        if step.stage == "grpo" and step.artifact is not None and step.name in by_stage
    ]


def _evolution(step: Step, artifact: Artifact, run: TrainingRun) -> Evolution:
    rows = _table(run.series)
    measured: list[WatchRow] = []
    if "watch.jsonl" in artifact.manifest.files:
        measured = list(read_records(artifact.file("watch.jsonl"), WatchRow))
    rewards = [(row["step"], row["reward"]) for row in rows if row.get("reward") is not None]
    config = step.config or artifact.manifest.config
    return Evolution(
        stage=step.name,
        start=step.inputs.get("model", ""),
        language_weight=sum(
            reward.get("weight", 1.0)
            for reward in config.get("rewards", ())
            if reward["name"] == "language"
        ),
        jumps=tuple(
            (jump["from_step"], jump["max_new_tokens"]) for jump in config.get("length_jumps", ())
        ),
        measured=tuple(measured),
        alarm=alarm(measured, rewards),  # type: ignore[arg-type]
        length_fall=length_fall(rows),
        telling=tuple(_telling(artifact)),
    )


def _table(series: Sequence[Series]) -> list[dict[str, float | None]]:
    """The rows of a telemetry from its columns."""
    rows: dict[int, dict[str, float | None]] = {}
    for column in series:
        for step, value in zip(column.steps, column.values, strict=True):
            rows.setdefault(step, {"step": step})[column.name] = value
    return [rows[step] for step in sorted(rows)]


def _telling(artifact: Artifact) -> list[Telling]:
    """The first kept completion with a step done again, and the one with most of them."""
    marked = [(row, doubts(row.trace.reasoning or "")) for row in read_rollouts(artifact)]
    places = [(row, found) for row, found in marked if found]
    if not places:
        return []
    first = min(places, key=lambda one: one[0].step)
    most = max(places, key=lambda one: (one[0].trace.verdict.is_correct, len(one[1])))
    chosen = [(FIRST, first), *([(MOST, most)] if most is not first else [])]
    return [_told(rule, row, found) for rule, (row, found) in chosen]


def _told(rule: str, row: Rollout, found: Sequence[int]) -> Telling:
    thoughts = row.trace.reasoning or ""
    start = max(0, found[0] - AROUND)
    end = found[0] + 2 * AROUND
    passage = thoughts[start:end]
    return Telling(
        rule=rule,
        step=row.step,
        redone=len(found),
        passage=("… " if start else "") + passage + (" …" if end < len(thoughts) else ""),
        sample=sample_of(f"step {row.step}", row.trace),
    )


def relatives(evolution: Evolution, others: Sequence[Evolution]) -> list[Evolution]:
    """Runs from the same start, this one first, then those that differ in the language reward."""
    same = [one for one in others if one.start == evolution.start and one is not evolution]
    rewarded = bool(evolution.language_weight)
    return [evolution, *sorted(same, key=lambda one: bool(one.language_weight) == rewarded)]


def measured_series(evolution: Evolution) -> Mapping[str, Series]:
    """Held-out figures over the updates done, by name; groups as `group/<name>`."""
    rows = evolution.measured
    columns = {
        name: [getattr(row, name) for row in rows]
        for name in ("accuracy", "consensus", "completion_length")
    }
    for name in sorted({name for row in rows for name in row.groups}):
        columns[f"group/{name}"] = [
            row.groups[name].accuracy if name in row.groups else None for row in rows
        ]
    steps = tuple(row.step for row in rows)
    return {
        name: Series(name=name, steps=steps, values=tuple(values))
        for name, values in columns.items()
    }
