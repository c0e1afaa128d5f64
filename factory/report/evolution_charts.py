"""The six plots of a model that teaches itself, as small multiples (R1v2 Figures 1, 6, 7, 8, 9)."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from factory.report.charts import (
    BOTTOM,
    COLOURS,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Panel,
    curves,
)
from factory.report.curves import WINDOW, mean
from factory.report.evolution import measured_series, relatives
from factory.report.records import Evolution, Report, Series, TrainingRun
from factory.report.svg import drawing, line, nice_ticks, path, tag, text
from factory.report.text import figure, percent, plural

Key = tuple[str, str, str]


def evolution_panels(report: Report, evolution: Evolution) -> list[Panel]:
    """The plots that the run has data for, in the paper's order."""
    runs = {run.stage: run for run in report.runs}
    run = runs[evolution.stage]
    made = [
        _held_out(evolution),
        _length(evolution, run),
        _reflection(run),
        _groups(evolution),
        _language(evolution, report.evolutions, runs),
        _against(evolution, run),
    ]
    return [panel for panel in made if panel is not None]


def _named(run: TrainingRun, name: str) -> Series | None:
    return next((series for series in run.series if series.name == name), None)


def _keys(named: Sequence[tuple[str, Series]], *, share: bool) -> tuple[Key, ...]:
    keys = []
    for position, (name, series) in enumerate(named):
        last = next((v for v in reversed(series.values) if v is not None), None)
        shown = figure(None) if last is None else percent(last) if share else figure(round(last, 2))
        keys.append((f"s{position % COLOURS}", name, shown))
    return tuple(keys)


def _held_out(evolution: Evolution) -> Panel | None:
    """Figure 1a: accuracy and consensus on held-out problems."""
    if not evolution.measured:
        return None
    row = evolution.measured[-1]
    found = measured_series(evolution)
    title = f"Held-out accuracy, {plural(row.n, 'problem')} x {row.samples}"
    named = [("pass@1", found["accuracy"]), (f"cons@{row.samples}", found["consensus"])]
    picture = curves([series for _, series in named], title, is_exact=True)
    return Panel(title, _keys(named, share=True), picture)


def _length(evolution: Evolution, run: TrainingRun) -> Panel | None:
    """Figure 1b: response length in training, a line where the limit jumps."""
    series = _named(run, "completion_length")
    if series is None:
        return None
    jumps = evolution.jumps
    title = "Response length, tokens"
    if jumps:
        told = ", ".join(f"{limit:,} from step {step:,}" for step, limit in jumps)
        title += f"; limit {told}"
    marks = [step for step, _ in jumps]
    last = mean(series.values[-WINDOW:])
    key = (("s0", "mean", figure(None if last is None else round(last, 1))),)
    return Panel(title, key, curves([series], title, marks_at=marks))


def _reflection(run: TrainingRun) -> Panel | None:
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
        series = _named(run, name)
        if series is not None:
            named.append((label, series))
    title = "Reflective words a response"
    return Panel(title, _keys(named, share=False), curves([s for _, s in named], title))


def _groups(evolution: Evolution) -> Panel | None:
    """Figure 8: accuracy by level or source."""
    if not evolution.measured:
        return None
    sizes = {name: group.n for row in evolution.measured for name, group in row.groups.items()}
    found = measured_series(evolution)
    named = [(f"{name} (n = {n})", found[f"group/{name}"]) for name, n in sorted(sizes.items())]
    title = "Held-out accuracy by difficulty or source"
    picture = curves([series for _, series in named], title, is_exact=True)
    return Panel(title, _keys(named, share=True), picture)


def _language(
    evolution: Evolution, others: Sequence[Evolution], runs: Mapping[str, TrainingRun]
) -> Panel | None:
    """Figure 7: how many words are in another language, beside runs from the same start."""
    named = []
    for one in relatives(evolution, others):
        series = _named(runs[one.stage], "language_mix_share")
        if series is not None:
            rewarded = "rewarded" if one.language_weight else "not rewarded"
            named.append((f"{one.stage} ({rewarded})", series))
    if not named or named[0][0].partition(" (")[0] != evolution.stage:
        return None
    title = "Words in another language"
    named = named[:COLOURS]
    return Panel(title, _keys(named, share=True), curves([s for _, s in named], title))


def _against(evolution: Evolution, run: TrainingRun) -> Panel | None:
    """Figure 6 as a path: held-out accuracy over the reward, from measurement to measurement.

    To the right and down is what the alarm looks for.
    """
    points = _path(evolution, run)
    if len(points) < 2:
        return None
    xs, ys = (nice_ticks(min(v), max(v)) for v in zip(*points, strict=True))
    across, up = (RIGHT - LEFT) / (xs[-1] - xs[0]), (BOTTOM - TOP) / (ys[-1] - ys[0])
    marks: list[Markup] = []
    for tick in ys:
        y = BOTTOM - up * (tick - ys[0])
        marks.append(line(LEFT, y, RIGHT, y, "grid"))
        label = figure(float(f"{tick:.6g}"))
        marks.append(text(LEFT - 6, y + 4, label, class_="tick", anchor="end"))
    for tick, anchor in ((xs[0], "start"), (xs[-1], "end")):
        x = LEFT + across * (tick - xs[0])
        label = f"reward {float(f'{tick:.6g}'):g}"
        marks.append(text(x, BOTTOM + 16, label, class_="tick", anchor=anchor))
    places = [(LEFT + across * (x - xs[0]), BOTTOM - up * (y - ys[0])) for x, y in points]
    dots = [tag("circle", cx=x, cy=y, r=2, class_="dot s0") for x, y in places]
    end = tag("circle", cx=places[-1][0], cy=places[-1][1], r=4, class_="mark strict")
    title = "Held-out accuracy over reward; the dot is the end"
    picture = drawing(WIDTH, HEIGHT, title, *marks, path(places, "curve s0"), *dots, end)
    return Panel(title, (("s0", "end", percent(points[-1][1])),), picture)


def _path(evolution: Evolution, run: TrainingRun) -> list[tuple[float, float]]:
    """(mean reward of the 8 rollouts before, held-out accuracy) of every measurement."""
    series = _named(run, "reward")
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
