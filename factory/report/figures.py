"""The report's charts as SVG: intervals of scores, paired differences, bars."""

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

from factory.core.blocks import Bar
from factory.core.readable import percent, plural, point_span, points, span, whole_points
from factory.core.records import Score
from factory.evaluation.strata import UNSTATED, Stratum
from factory.report.records import Comparison, Evaluation
from factory.report.scorecard import find_score
from factory.report.svg import drawing, levels, line, nice_ticks, tag, text

WIDTH = 480
"""Two such panels stand side by side on a laptop, one fills a phone at a readable size."""

LEFT, RIGHT = 12, 468

STEPS = {0.1: 0.02, 0.25: 0.05, 0.5: 0.1, 0.75: 0.25, 1.0: 0.25}
"""Upper ends that an axis of shares may have, with the distance of its ticks."""

ROOM = 40
"""Letters of a row's name that fit beside its figures."""

Scale = Callable[[float], float]


def _scale(low: float, high: float) -> Scale:
    return lambda value: LEFT + (RIGHT - LEFT) * (value - low) / (high - low)


def _axis(
    ticks: Sequence[float],
    scale: Scale,
    *,
    top: float,
    bottom: float,
    label: Callable[[float], str],
) -> list[Markup]:
    """Vertical grid lines with their labels below; the outer labels stay inside the panel."""
    marks = []
    for position, tick in enumerate(ticks):
        anchor = {0: "start", len(ticks) - 1: "end"}.get(position, "middle")
        shift = {"start": -4, "end": 4, "middle": 0}[anchor]
        marks.append(line(scale(tick), top, scale(tick), bottom, "grid"))
        marks.append(
            text(scale(tick) + shift, bottom + 16, label(tick), class_="tick", anchor=anchor)
        )
    return marks


def _label(words: str, y: float) -> Markup:
    """A row's name, cut where the figures on its right begin; the title has all of it."""
    shown = words if len(words) <= ROOM else words[: ROOM - 1] + "…"
    return tag("g", tag("title", words), text(LEFT, y, shown, class_="name"))


def whisker(score: Score, y: float, scale: Scale, *, kind: str) -> list[Markup]:
    """A 95 % interval with its value: `lenient` hollow, `greedy` a diamond."""
    x = scale(score.value)
    bar = line(scale(score.low), y, scale(score.high), y, f"whisker {kind}")
    if kind == "greedy":
        mark = tag("path", d=f"M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z", class_=f"mark {kind}")
    else:
        mark = tag("circle", cx=x, cy=y, r=3.5 if kind == "lenient" else 5, class_=f"mark {kind}")
    return [bar, mark]


def interval_panel(rows: Sequence[Evaluation], benchmark: str) -> Markup:
    """Scores of every checkpoint on one benchmark with 95 % intervals, in stage order.

    Three marks a checkpoint, where measured: strict pass@1, lenient pass@1, greedy.
    """
    marked = [(row, _marks(row, benchmark)) for row in rows]
    marked = [(row, marks) for row, marks in marked if marks]
    top_value = max(score.high for _, marks in marked for _, score in marks)
    limit = next((edge for edge in STEPS if top_value <= edge), 1.0)
    scale = _scale(0.0, limit)
    y, shapes = 8.0, []
    for row, marks in marked:
        y += 14
        main = marks[0][1]
        name = row.label if row.role in {None, row.label} else f"{row.label} · {row.role}"
        name += f" · {main.metric}" if marks[0][0] == "other" else ""
        shapes.append(_label(name, y))
        figures = f"{percent(main.value)} {span(main.low, main.high)}"
        shapes.append(text(RIGHT, y, figures, class_="value", anchor="end"))
        for kind, score in marks:
            y += 13
            shapes.extend(whisker(score, y, scale, kind=kind))
        y += 15
    ticks = [STEPS[limit] * position for position in range(round(limit / STEPS[limit]) + 1)]
    axis = _axis(ticks, scale, top=6, bottom=y, label=lambda value: percent(value, 0))
    title = f"Score of {plural(len(marked), 'checkpoint')} on {benchmark} with 95 % intervals"
    return drawing(WIDTH, y + 24, title, *axis, *shapes)


def _marks(row: Evaluation, benchmark: str) -> list[tuple[str, Score]]:
    metrics = (("strict", "pass@1"), ("lenient", "pass@1_lenient"), ("greedy", "greedy"))
    scores = [(kind, find_score(row, benchmark, metric)) for kind, metric in metrics]
    marks = [(kind, score) for kind, score in scores if score is not None]
    # A task of lm-eval's registry may have its own metrics only: its first one stands for it.
    others = [("other", score) for score in row.scores if score.benchmark == benchmark]
    return marks or others[:1]


def difference_panel(comparisons: Sequence[Comparison], title: str) -> Markup:
    """Paired differences in percentage points around zero, coloured by what they show."""
    ticks = nice_ticks(
        min(0.0, *(row.low for row in comparisons)),
        max(0.0, *(row.high for row in comparisons)),
    )
    scale = _scale(ticks[0], ticks[-1])
    y, shapes = 8.0, []
    for row in comparisons:
        y += 14
        shapes.append(_label(f"{row.after} vs {row.before}", y))
        figures = f"{points(row.difference)} {point_span(row.low, row.high)}"
        shapes.append(text(RIGHT, y, figures, class_="value", anchor="end"))
        y += 13
        kind = row.direction
        shapes.append(line(scale(row.low), y, scale(row.high), y, f"whisker {kind}"))
        shapes.append(tag("circle", cx=scale(row.difference), cy=y, r=5, class_=f"mark {kind}"))
        y += 15
    axis = _axis(ticks, scale, top=6, bottom=y, label=whole_points)
    zero = line(scale(0.0), 6, scale(0.0), y, "zero")
    return drawing(WIDTH, y + 24, title, *axis, zero, *shapes)


def strata_panel(label: str, benchmark: str, parts: Sequence[Stratum]) -> Markup:
    """A column a part of a benchmark: its answers by outcome, right ones at the bottom, and across
    it the strict score with its 95 % interval."""
    left, right, top, bottom = 40.0, 258.0, 8.0, 112.0
    marks, _ = levels(
        (0.0, 0.5, 1.0), lambda share: percent(share, 0),
        left=left, right=right, top=top, bottom=bottom,
    )  # fmt: skip
    pitch = (right - left) / len(parts)
    for column, part in enumerate(parts):
        x = left + pitch * (column + 0.5)
        total, done = sum(part.outcomes.values()), 0
        for outcome, number in part.outcomes.items():
            height = (bottom - top) * number / total
            y = bottom - (bottom - top) * (done + number) / total
            width = min(30.0, 0.7 * pitch)
            words = tag("title", f"{part.name}: {outcome.replace('_', ' ')} {number} of {total}")
            if number:
                marks.append(
                    tag("rect", words, x=x - width / 2, y=y, width=width, height=height,
                        class_=f"o-{outcome}")
                )  # fmt: skip
            done += number
        low, high, value = (
            bottom - (bottom - top) * share
            for share in (part.score.low, part.score.high, part.score.value)
        )
        marks.append(line(x, low, x, high, "whisker range"))
        marks.append(tag("circle", cx=x, cy=value, r=3.5, class_="mark range"))
        marks.append(text(x, bottom + 15, short(part.name), class_="tick", anchor="middle"))
        marks.append(text(x, bottom + 29, str(part.score.n), class_="tick", anchor="middle"))
    marks.append(text(left - 6, bottom + 29, "n", class_="tick", anchor="end"))
    title = f"{label} on {benchmark} by difficulty"
    return drawing(264, 146, title, *marks)


def short(part: str) -> str:
    """`level 5` -> `5`, `gsm/hard` -> `hard`: what tells it from the other parts."""
    return part if part == UNSTATED else part.replace("/", " ").rpartition(" ")[2][:9]


def share_bar(parts: Sequence[tuple[str, float]], title: str, *, height: float = 10) -> Markup:
    """One horizontal bar cut into classed parts, each with its own title."""
    total = math.fsum(value for _, value in parts)
    x, shapes = 0.0, []
    for class_, value in parts:
        width = 400 * value / total if total else 0.0
        if width > 0:
            shapes.append(tag("rect", x=x, y=0, width=width, height=height, class_=class_))
        x += width
    return drawing(400, height, title, *shapes, preserveAspectRatio="none", class_="bar")


def amount_bar(value: float, largest: float, title: str, *, class_: str) -> Markup:
    """A bar whose length is `value` as a share of `largest`."""
    width = 100 * value / largest if largest > 0 else 0.0
    rect = tag("rect", x=0, y=0, width=max(width, 0.5), height=8, class_=class_)
    return drawing(100, 8, title, rect, preserveAspectRatio="none", class_="amount")


def draw_bar(bar: Bar) -> Markup:
    """A bar of a table."""
    if bar.full is None:
        return share_bar(bar.parts, bar.title)
    ((class_, value),) = bar.parts
    return amount_bar(value, bar.full, bar.title, class_=class_)
