"""How RL runs changed by themselves: the six plots of a model that teaches itself (R1v2 Figures 1,
6, 7, 8, 9), held-out measurements, alarms, and the moments of doubt."""

from collections.abc import Mapping, Sequence
from typing import Literal

from factory.core.artifacts import Artifact
from factory.core.blocks import (
    Block,
    Bullets,
    Code,
    Figure,
    Figures,
    Fold,
    Sample,
    Samples,
    Section,
    Table,
    Text,
)
from factory.core.jsonl import read_records
from factory.core.readable import figure, percent, plural, span
from factory.core.records import Record
from factory.evaluation.measured import WatchRow
from factory.report.build import Build, once
from factory.report.charts import BOTTOM, COLOURS, HEIGHT, LEFT, RIGHT, TOP, WIDTH, curves
from factory.report.curves import WINDOW, Series, TrainingRun, mean, training_runs
from factory.report.section import section
from factory.report.sections.training import UNFOLDED, Rollout, read_rollouts
from factory.report.shown import shown
from factory.report.svg import drawing, levels, nice_ticks, path, rounded, tag, text
from factory.rewards import doubts
from factory.stages.grpo.trends import Alarm, LengthFall, alarm, length_fall

AROUND = 240
"""Characters shown before a doubt, and twice as many after it."""
FIRST = "the first that was kept with a step done again"
MOST = "the one with the most steps done again, of those that end right where there are any"
INTRO = (
    "What each RL run became by itself, in the plots of the paper. Held-out figures are of "
    "problems that were never trained on, measured with the run's own sampler; the others are "
    "means over the rollouts that were trained on."
)
QUIET = (
    "No alarm: at no two measurements in a row did the reward rise while the held-out score fell."
)
HEADER = ("updates done", "n x k", "pass@1", "95 %", "cons@k", "tokens")

Key = tuple[str, str, str]


class Telling(Record):
    """A completion in which the model stops, doubts and does a step again."""

    rule: str
    """How it was picked."""
    step: int
    redone: int
    """Steps done again in it."""
    passage: str
    """What stands around the first doubt."""
    sample: Sample


class Evolution(Record):
    """How an RL run changed by itself: what was measured on the way, and what follows by rule."""

    stage: str
    start: str
    """The stage whose weights it started from."""
    language_weight: float
    """Of the language reward; 0 where it has none."""
    jumps: tuple[tuple[int, int], ...]
    """(first update, new tokens allowed from it on)."""
    measured: tuple[WatchRow, ...]
    alarm: Alarm | None
    length_fall: LengthFall | None
    telling: tuple[Telling, ...]


@section("evolution", after="training")
def evolution(build: Build) -> Section | None:
    rows = evolutions(build)
    ends = [block for _, blocks in shown(build, "evolution") for block in blocks]
    if not rows and not ends:
        return None
    parts = [
        _part(build, row, look="fold" if number < UNFOLDED else "closed")
        for number, row in enumerate(rows)
    ]
    return Section("Self-evolution", (Text(INTRO), *ends, *parts), facts=tuple(rows))


def _part(build: Build, row: Evolution, *, look: Literal["fold", "closed"]) -> Section:
    parts: list[Block] = []
    if row.alarm is not None:
        parts.append(Text(row.alarm.sentence, "worse"))
    elif row.measured:
        parts.append(Text(QUIET, "dim"))
    if row.length_fall is not None:
        fall = row.length_fall
        sentence = (
            f"Responses got shorter: {fall.longest:.0f} tokens up to step {fall.longest_step}, "
            f"{fall.last:.0f} at the end."
        )
        parts += [Text(sentence), Bullets(tuple(fall.causes))]
    table = (Table(HEADER, tuple(map(_measurement, row.measured)), numbers=tuple(range(6))),)
    instead = table if row.measured else ()
    parts.append(Figures(tuple(evolution_figures(build, row)), instead=instead))
    telling = [block for doubt in row.telling for block in _doubt(doubt)]
    if telling:
        parts.append(Fold("Where it stops, doubts and does a step again", tuple(telling)))
    return Section(row.stage, tuple(parts), note=f"from {row.start}", look=look)


def _measurement(row: WatchRow) -> tuple[str, ...]:
    return (
        str(row.step),
        f"{row.n} x {row.samples}",
        percent(row.accuracy),
        span(row.low, row.high),
        percent(row.consensus),
        figure(round(row.completion_length, 1)),
    )


def _doubt(doubt: Telling) -> tuple[Block, ...]:
    sentence = f"Step {doubt.step}: {doubt.rule}; {plural(doubt.redone, 'step')} done again."
    return Text(sentence), Code(doubt.passage, "quote"), Samples((doubt.sample,))


@once
def evolutions(build: Build) -> list[Evolution]:
    """One entry for every sealed stage that logged a reward, in plan order."""
    return [_evolution(build, run) for run in training_runs(build) if run.named("reward")]


def _evolution(build: Build, run: TrainingRun) -> Evolution:
    rows = _table(run.series)
    artifact, step = run.artifact, build.by_name[run.stage]
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
        alarm=alarm(measured, rewards),  # pyright: ignore[reportArgumentType] - has what it reads
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
    doubting = [(row, marks) for row, marks in marked if marks]
    if not doubting:
        return []
    first = min(doubting, key=lambda pair: pair[0].step)
    most = max(doubting, key=lambda pair: (pair[0].trace.verdict.is_correct, len(pair[1])))
    chosen = [(FIRST, first), *([(MOST, most)] if most is not first else [])]
    return [_passage(rule, row, marks) for rule, (row, marks) in chosen]


def _passage(rule: str, row: Rollout, marks: Sequence[int]) -> Telling:
    thoughts = row.trace.reasoning or ""
    start = max(0, marks[0] - AROUND)
    end = marks[0] + 2 * AROUND
    passage = thoughts[start:end]
    return Telling(
        rule=rule,
        step=row.step,
        redone=len(marks),
        passage=("… " if start else "") + passage + (" …" if end < len(thoughts) else ""),
        sample=Sample.of(f"step {row.step}", row.trace),
    )


def relatives(evolution: Evolution, others: Sequence[Evolution]) -> list[Evolution]:
    """Runs from the same start, this one first, then those that differ in the language reward."""
    same = [run for run in others if run.start == evolution.start and run is not evolution]
    rewarded = bool(evolution.language_weight)
    return [evolution, *sorted(same, key=lambda run: bool(run.language_weight) == rewarded)]


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


def evolution_figures(build: Build, evolution: Evolution) -> list[Figure]:
    """The plots that the run has data for, in the paper's order."""
    runs = {run.stage: run for run in training_runs(build)}
    run = runs[evolution.stage]
    figures = [
        _held_out(evolution),
        _length(evolution, run),
        _reflection(run),
        _groups(evolution),
        _language(evolution, evolutions(build), runs),
        _against(evolution, run),
    ]
    return [figure for figure in figures if figure is not None]


def _keys(named: Sequence[tuple[str, Series]], *, share: bool) -> tuple[Key, ...]:
    keys = []
    for position, (name, series) in enumerate(named):
        last = next((v for v in reversed(series.values) if v is not None), None)
        shown = figure(None) if last is None else percent(last) if share else figure(round(last, 2))
        keys.append((f"s{position % COLOURS}", name, shown))
    return tuple(keys)


def _held_out(evolution: Evolution) -> Figure | None:
    """Figure 1a: accuracy and consensus on held-out problems."""
    if not evolution.measured:
        return None
    row = evolution.measured[-1]
    measured = measured_series(evolution)
    title = f"Held-out accuracy, {plural(row.n, 'problem')} x {row.samples}"
    named = [("pass@1", measured["accuracy"]), (f"cons@{row.samples}", measured["consensus"])]
    picture = curves([series for _, series in named], title, is_exact=True)
    return Figure(title, picture, _keys(named, share=True))


def _length(evolution: Evolution, run: TrainingRun) -> Figure | None:
    """Figure 1b: response length in training, a line where the limit jumps."""
    series = run.named("completion_length")
    if series is None:
        return None
    jumps = evolution.jumps
    title = "Response length, tokens"
    if jumps:
        limits = ", ".join(f"{limit:,} from step {step:,}" for step, limit in jumps)
        title += f"; limit {limits}"
    marks = [step for step, _ in jumps]
    last = mean(series.values[-WINDOW:])
    key = (("s0", "mean", figure(None if last is None else round(last, 1))),)
    return Figure(title, curves([series], title, marks_at=marks), key)


def _reflection(run: TrainingRun) -> Figure | None:
    """Figure 9: the ten reflective words together, `wait`, and steps done again."""
    words = [series for series in run.series if series.name.startswith("words/")]
    if not words:
        return None
    totals: dict[int, float] = {}
    for series in words:
        for step, value in zip(series.steps, series.values, strict=True):
            totals[step] = totals.get(step, 0.0) + (value or 0.0)
    steps = tuple(sorted(totals))
    together = Series(name="words", steps=steps, values=tuple(totals[step] for step in steps))
    named = [("ten words", together)]
    for label, name in (("wait", "words/wait"), ("steps done again", "redone")):
        series = run.named(name)
        if series is not None:
            named.append((label, series))
    title = "Reflective words a response"
    return Figure(title, curves([s for _, s in named], title), _keys(named, share=False))


def _groups(evolution: Evolution) -> Figure | None:
    """Figure 8: accuracy by level or source."""
    if not evolution.measured:
        return None
    sizes = {name: group.n for row in evolution.measured for name, group in row.groups.items()}
    measured = measured_series(evolution)
    named = [(f"{name} (n = {n})", measured[f"group/{name}"]) for name, n in sorted(sizes.items())]
    title = "Held-out accuracy by difficulty or source"
    picture = curves([series for _, series in named], title, is_exact=True)
    return Figure(title, picture, _keys(named, share=True))


def _language(
    evolution: Evolution, others: Sequence[Evolution], runs: Mapping[str, TrainingRun]
) -> Figure | None:
    """Figure 7: how many words are in another language, beside runs from the same start."""
    named = []
    for other in relatives(evolution, others):
        series = runs[other.stage].named("language_mix_share")
        if series is not None:
            rewarded = "rewarded" if other.language_weight else "not rewarded"
            named.append((f"{other.stage} ({rewarded})", series))
    if not named or named[0][0].partition(" (")[0] != evolution.stage:
        return None
    title = "Words in another language"
    named = named[:COLOURS]
    return Figure(title, curves([s for _, s in named], title), _keys(named, share=True))


def _against(evolution: Evolution, run: TrainingRun) -> Figure | None:
    """Figure 6 as a path: held-out accuracy over the reward, from measurement to measurement.

    To the right and down is what the alarm looks for.
    """
    points = _path(evolution, run)
    if len(points) < 2:
        return None
    xs, ys = (nice_ticks(min(v), max(v)) for v in zip(*points, strict=True))
    marks, up = levels(ys, rounded, left=LEFT, right=RIGHT, top=TOP, bottom=BOTTOM)
    across = (RIGHT - LEFT) / (xs[-1] - xs[0])
    for tick, anchor in ((xs[0], "start"), (xs[-1], "end")):
        x = LEFT + across * (tick - xs[0])
        label = f"reward {float(f'{tick:.6g}'):g}"
        marks.append(text(x, BOTTOM + 16, label, class_="tick", anchor=anchor))
    dots_at = [(LEFT + across * (x - xs[0]), BOTTOM - up * (y - ys[0])) for x, y in points]
    dots = [tag("circle", cx=x, cy=y, r=2, class_="dot s0") for x, y in dots_at]
    end = tag("circle", cx=dots_at[-1][0], cy=dots_at[-1][1], r=4, class_="mark strict")
    title = "Held-out accuracy over reward; the dot is the end"
    picture = drawing(WIDTH, HEIGHT, title, *marks, path(dots_at, "curve s0"), *dots, end)
    return Figure(title, picture, (("s0", "end", percent(points[-1][1])),))


def _path(evolution: Evolution, run: TrainingRun) -> list[tuple[float, float]]:
    """(mean reward of the 8 rollouts before, held-out accuracy) of every measurement."""
    series = run.named("reward")
    if series is None:
        return []
    rewards = [
        (step, value)
        for step, value in zip(series.steps, series.values, strict=True)
        if value is not None
    ]
    points = []
    for row in evolution.measured:
        before = [value for step, value in rewards if step <= row.step][-WINDOW:]
        # Before the first update there is none: the first rollouts were drawn by that model.
        before = before or [value for _, value in rewards[:1]]
        if before:
            points.append((sum(before) / len(before), row.accuracy))
    return points
