"""Curves of a training run as small multiples: which panels there are, and their drawing."""

from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup

from factory.core.blocks import Figure
from factory.core.readable import figure, plural
from factory.report.curves import WINDOW, Series, TrainingRun, mean, moving_mean
from factory.report.svg import drawing, levels, line, nice_ticks, path, rounded, tag, text

WIDTH, HEIGHT = 264, 152
LEFT, RIGHT, TOP, BOTTOM = 46, 258, 8, 132
COLOURS = 7
DENSE = 400
"""Points of one drawn line at most; a longer run is drawn as means of equal stretches."""

TITLES = {
    "reward": "Reward",
    "rewards": "Reward by component",
    "accuracy": "Accuracy",
    "held_out": "Held-out accuracy",
    "format_share": "Well-formed share",
    "reward_std": "Reward spread",
    "completion_length": "Response length, tokens",
    "kl": "KL to the reference",
    "entropy": "Entropy, nats a token",
    "signal_share": "Groups with signal",
    "truncated_share": "Cut at the length limit",
    "clipped_share": "Tokens with clipped ratio",
    "ratio_max": "Largest probability ratio",
    "language_mix_share": "Mixed-language share",
    "loss": "Loss",
    "token_accuracy": "Token accuracy",
    "grad_norm": "Gradient norm",
    "learning_rate": "Learning rate",
    "tokens_per_second": "Tokens a second",
    "generated_per_second": "Generated tokens a second",
    "trained_per_second": "Trained tokens a second",
    "mean_reward": "Mean reward of the model",
    "prompt_run_share": "Prompt tokens run, of all",
    "roofline": "Share of the roofline",
    "margin": "Reward margin, chosen over rejected",
    "parity": "Log-prob gap, engine to trainer",
}
EXACT = {"learning_rate"}
"""Set, not measured: drawn as it is, since a mean would only blur it."""

ORDER = {name: position for position, name in enumerate(TITLES)}


def panels(run: TrainingRun) -> list[Figure]:
    """All charts of a run."""
    return quantity_panels((*run.series, *run.seconds))


def quantity_panels(quantities: Iterable[Series]) -> list[Figure]:
    """Charts: known quantities first, then others by name; nothing is left out.

    Quantities called `a/b` share a panel; `words/...` become a heat strip and `seconds/...`
    stacked areas, since ten lines in one panel cannot be told apart.
    """
    groups: dict[str, list[Series]] = {}
    for series in quantities:
        groups.setdefault(series.name.partition("/")[0], []).append(series)
    names = sorted(groups, key=lambda name: (ORDER.get(name, len(ORDER)), name))
    names.sort(key=lambda name: name in {"words", "seconds"})
    return [_panel(name, groups[name]) for name in names]


def _panel(name: str, group: Sequence[Series]) -> Figure:
    if name == "words":
        return _heat_strip(group)
    if name == "seconds":
        return _stack(group)
    title = TITLES.get(name, name.replace("_", " "))
    legend = tuple(
        (f"s{position % COLOURS}", series.name.partition("/")[2] or "mean", _last(series))
        for position, series in enumerate(group)
    )
    return Figure(title, curves(group, title), legend)


def _last(series: Series) -> str:
    last = mean(series.values[-WINDOW:])
    return figure(last) if last is None else figure(float(f"{last:.3g}"))


def thin(series: Series, most: int = DENSE) -> Series:
    """The series itself, or the means of at most `most` equal stretches of it."""
    size = -(-len(series.steps) // most)
    if size == 1:
        return series
    steps, values = [], []
    for start in range(0, len(series.steps), size):
        steps.append(series.steps[start])
        values.append(mean(series.values[start : start + size]))
    return Series(name=series.name, steps=tuple(steps), values=tuple(values))


def _frame(ticks: Sequence[float], first: int, last: int) -> tuple[list[Markup], float]:
    """Horizontal grid with labels, the first and last step below, and pixels a unit."""
    marks, unit = levels(ticks, rounded, left=LEFT, right=RIGHT, top=TOP, bottom=BOTTOM)
    marks.append(text(LEFT, BOTTOM + 16, f"step {first}", class_="tick"))
    if last > first:
        marks.append(text(RIGHT, BOTTOM + 16, str(last), class_="tick", anchor="end"))
    return marks, unit


def curves(
    group: Sequence[Series], title: str, *, is_exact: bool = False, marks_at: Sequence[int] = ()
) -> Markup:
    """Raw values as faint points, and their mean over 8 steps as a line.

    `is_exact` draws the line through the values themselves; at the steps of `marks_at` stands a
    vertical line.
    """
    finite = [value for series in group for value in series.values if value is not None]
    ticks = nice_ticks(min(finite, default=0.0), max(finite, default=1.0))
    first = min(series.steps[0] for series in group)
    last = max(series.steps[-1] for series in group)
    marks, unit = _frame(ticks, first, last)
    stride = (RIGHT - LEFT) / max(last - first, 1)

    def places(series: Series) -> list[tuple[float, float] | None]:
        return [
            None
            if value is None
            else (LEFT + stride * (step - first), BOTTOM - unit * (value - ticks[0]))
            for step, value in zip(series.steps, series.values, strict=True)
        ]

    for step in marks_at:
        if first <= step <= last:
            x = LEFT + stride * (step - first)
            marks.append(line(x, TOP, x, BOTTOM, "zero"))
    dots: list[Markup] = []
    lines: list[Markup] = []
    for position, series in enumerate(group):
        colour = f"s{position % COLOURS}"
        raw = [point for point in places(thin(series)) if point is not None]
        dots.extend(tag("circle", cx=x, cy=y, r=1.6, class_=f"dot {colour}") for x, y in raw)
        as_it_is = is_exact or series.name in EXACT or len(series.steps) <= WINDOW
        means = series.values if as_it_is else moving_mean(series)
        smooth = series.model_copy(update={"values": means})
        lines.append(path(places(thin(smooth)), f"curve {colour}"))
    described = f"{title} over {plural(last - first + 1, 'step')}"
    return drawing(WIDTH, HEIGHT, described, *marks, *dots, *lines)


def _stack(group: Sequence[Series]) -> Figure:
    """Seconds by phase, stacked; `seconds/step` bounds them, and what is left is `other`."""
    ordered = sorted(group, key=lambda series: series.name)
    by_name = {series.name.partition("/")[2] or "step": series for series in ordered}
    whole_step = by_name.pop("step", None)
    steps = sorted({step for series in group for step in series.steps})
    tables = {
        name: {s: v or 0.0 for s, v in zip(series.steps, series.values, strict=True)}
        for name, series in by_name.items()
    }
    if whole_step is not None:
        totals = dict(zip(whole_step.steps, whole_step.values, strict=True))
        sums = {step: sum(table.get(step, 0.0) for table in tables.values()) for step in steps}
        rest = "other" if tables else "step"
        tables[rest] = {s: max((totals.get(s) or 0.0) - sums[s], 0.0) for s in steps}
    preferred = ["generate", "grade", "reference", "train", "sync", "parity"]
    names = [name for name in preferred if name in tables]
    names += sorted(name for name in tables if name not in preferred and name != "other")
    names += [name for name in tables if name == "other"]
    means = {name: sum(tables[name].values()) / len(steps) for name in names}
    colours = [
        "s6" if name in {"other", "step"} else f"s{position % COLOURS}"
        for position, name in enumerate(names)
    ]
    legend = tuple(
        (colour, name, f"{means[name]:.1f} s") for colour, name in zip(colours, names, strict=True)
    )
    layers = [(colour, tables[name]) for colour, name in zip(colours, names, strict=True)]
    return Figure("Seconds a step by phase", _areas(steps, layers), legend)


def _areas(steps: Sequence[int], layers: Sequence[tuple[str, Mapping[int, float]]]) -> Markup:
    """Stacked areas, each with its class, each step as wide as the others."""
    top = max(sum(table.get(step, 0.0) for _, table in layers) for step in steps)
    ticks = nice_ticks(0.0, top)
    marks, unit = _frame(ticks, steps[0], steps[-1])
    width = (RIGHT - LEFT) / len(steps)
    floor = [0.0] * len(steps)
    shapes = []
    for colour, table in layers:
        ceiling = [low + table.get(step, 0.0) for low, step in zip(floor, steps, strict=True)]
        edge = _stairs(ceiling, width, unit) + _stairs(floor, width, unit)[::-1]
        shapes.append(path(edge, f"area {colour}"))
        floor = ceiling
    return drawing(WIDTH, HEIGHT, "Seconds of each step by phase, stacked", *marks, *shapes)


def _stairs(heights: Sequence[float], width: float, unit: float) -> list[tuple[float, float]]:
    points = []
    for position, height in enumerate(heights):
        y = BOTTOM - unit * height
        points.append((LEFT + width * position, y))
        points.append((LEFT + width * (position + 1), y))
    return points


def _heat_strip(group: Sequence[Series]) -> Figure:
    """A row for each word, a cell for each stretch of steps; the darker the more of it."""
    most = 24
    rows = [thin(series, most) for series in group]
    largest = max((v for series in rows for v in series.values if v is not None), default=0.0)
    pitch = 15
    shapes: list[Markup] = []
    first, last = group[0].steps[0], group[0].steps[-1]
    for position, series in enumerate(rows):
        y = TOP + pitch * position
        shapes.append(text(58, y + 11, series.name.partition("/")[2], class_="tick", anchor="end"))
        width = (RIGHT - 36 - 64) / len(series.values)
        for column, value in enumerate(series.values):
            level = 0 if not value or largest <= 0 else 1 + min(int(8 * value / largest), 8)
            cell = tag(
                "rect",
                x=64 + width * column,
                y=y,
                width=width - 0.5,
                height=pitch - 2,
                class_=f"heat h{level}",
            )
            shapes.append(cell)
        last_mean = mean(series.values[-WINDOW:])
        shown = figure(last_mean and float(f"{last_mean:.2g}"))
        shapes.append(text(RIGHT, y + 11, shown, class_="tick", anchor="end"))
    bottom = TOP + pitch * len(rows)
    shapes.append(text(64, bottom + 14, f"step {first}", class_="tick"))
    shapes.append(text(RIGHT - 36, bottom + 14, str(last), class_="tick", anchor="end"))
    title = "Reflective words a response"
    picture = drawing(WIDTH, bottom + 22, f"{title}, by word, over the steps", *shapes)
    return Figure(title, picture)
