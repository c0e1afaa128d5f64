"""Accuracy against thinking tokens: a line a model, with the front of all of them."""

import math
from collections.abc import Sequence

from markupsafe import Markup

from factory.core.blocks import Block, Cell, Figure, Figures, Table
from factory.core.readable import count, percent, span
from factory.evaluation.frontier import CurvePoint
from factory.report.charts import COLOURS
from factory.report.svg import drawing, levels, line, nice_ticks, path, tag, text

LEFT, RIGHT, TOP, BOTTOM = 48.0, 610.0, 12.0, 236.0
HEADER = (
    "model", "budget", "thinking tokens", "accuracy, 95 %", "thoughts closed",
    "tokens a right answer", "standing",
)  # fmt: skip
INTRO = (
    "Each answer was drawn whole, and again with its thoughts closed where a budget of tokens was "
    "spent; then the model wrote its answer. On the front: no other point takes as few tokens of "
    "thought and is right as often. Behind for certain: another takes fewer and is right more "
    "often, both shown on the same problems, corrected for all pairs. Bars and brackets are 95 % "
    "intervals over problems."
)


def thinking_blocks(points: Sequence[CurvePoint]) -> list[Block]:
    """Picture and table of one benchmark's points."""
    table = Table(
        HEADER, tuple(map(_cells, points)), numbers=(1, 2, 3, 4, 5),
        label=f"Thinking tokens on {points[0].benchmark}",
    )  # fmt: skip
    return [Figures((thinking_figure(points),), "wide", instead=()), table]


def _cells(point: CurvePoint) -> tuple[str | Cell, ...]:
    ends = [point.tokens_per_right_low, point.tokens_per_right_high]
    low, high = ("no bound" if end is None else count(round(end)) for end in ends)
    right, thought = point.tokens_per_right, point.thinking
    price = Cell("none is right", look="dim")
    if right is not None:
        price = Cell(count(round(right)), f"[{low}, {high}]")
    return (
        point.model,
        "none" if point.budget is None else count(point.budget),
        Cell(_short(thought.value), f"[{_short(thought.low)}, {_short(thought.high)}]"),
        Cell(percent(point.accuracy.value), span(point.accuracy.low, point.accuracy.high)),
        percent(point.closed, 0),
        price,
        point.standing,
    )  # fmt: skip


def _short(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else count(round(value))


def thinking_figure(points: Sequence[CurvePoint]) -> Figure:
    """Accuracy with its interval over mean thinking tokens; those on the front are filled."""
    names = list(dict.fromkeys(point.model for point in points))
    places = [math.log10(max(point.thinking.value, 1.0)) for point in points]
    low, high = min(places), max(places)
    spread = high - low or 1.0
    low, stride = low - 0.06 * spread, (RIGHT - LEFT) / (1.12 * spread)
    ticks = nice_ticks(0.0, max(point.accuracy.high for point in points))
    marks, unit = levels(
        ticks, lambda value: percent(value, 0), left=LEFT, right=RIGHT, top=TOP, bottom=BOTTOM
    )
    lines: list[Markup] = []
    for number, name in enumerate(names):
        colour = f"s{number % COLOURS}"
        mine = [(x, p) for x, p in zip(places, points, strict=True) if p.model == name]
        spots = [
            (LEFT + stride * (x - low), BOTTOM - unit * point.accuracy.value) for x, point in mine
        ]
        lines.append(path(sorted(spots), f"curve {colour}"))
        for (x, y), (_, point) in zip(spots, mine, strict=True):
            words = f"{name}, budget {point.budget or 'none'}: {percent(point.accuracy.value)}"
            ends = (BOTTOM - unit * point.accuracy.low, BOTTOM - unit * point.accuracy.high)
            look = "spot" if point.standing == "front" else "hollow"
            lines.append(
                tag("g", tag("title", f"{words}, {point.standing}"),
                    line(x, ends[0], x, ends[1], f"curve thin {colour}"),
                    tag("circle", cx=x, cy=y, r=4.5, class_=f"{look} {colour}"))
            )  # fmt: skip
    for spot in sorted({places[0], min(places), max(places)}):
        x, anchor = LEFT + stride * (spot - low), "middle"
        marks.append(text(x, BOTTOM + 16, _short(10**spot), class_="tick", anchor=anchor))
    words = "mean tokens of thought, logarithmic"
    marks.append(text((LEFT + RIGHT) / 2, BOTTOM + 32, words, class_="tick", anchor="middle"))
    title = f"Accuracy against thinking tokens, {points[0].benchmark}"
    best = {name: max(p.accuracy.value for p in points if p.model == name) for name in names}
    keys = tuple((f"s{n % COLOURS}", name, percent(best[name])) for n, name in enumerate(names))
    note = "filled: on the front; the key names each model's best"
    return Figure(title, drawing(620, BOTTOM + 40, title, *marks, *lines), keys, note)
