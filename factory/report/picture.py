"""The picture of the first screen: every evaluated model in order, and whether it gained."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from factory.core.blocks import Figure, Figures, Legend
from factory.core.readable import clip, percent, plural, span
from factory.core.records import Score
from factory.report.build import Build
from factory.report.figures import STEPS
from factory.report.records import Direction, Evaluation
from factory.report.scorecard import main_benchmark, main_score
from factory.report.svg import drawing, line, path, tag, text
from factory.report.verdict import decisive, from_start

LETTER = 7.2
"""Pixels of a letter of a name, about."""
MARKS = {"better": "up", "worse": "down", "unclear": "flat", "start": "ring"}
LEGEND = Legend(
    (
        ("up", "better than where it started"),
        ("flat", "no change shown"),
        ("down", "worse"),
        ("ring", "where it started"),
        ("", "bars are 95 % intervals over problems; the dashed line is the base"),
    )
)


def picture(build: Build) -> Figures | None:
    """Accuracy over the evaluated models in the plan's order; None where nothing is evaluated."""
    benchmark = main_benchmark(build.evaluations)
    if benchmark is None:
        return None
    measured = [(row, main_score(row, benchmark)) for row in build.evaluations]
    rows = [(row, score) for row, score in measured if score is not None]
    readings: dict[str, Direction] = {
        row.after: row.direction for row in from_start(build, benchmark)
    }
    change = decisive(build)
    base = change.before if change is not None else rows[0][0].label
    drawn_for = ((760, "broad"), (340, "slim"))
    pictures = [_draw(rows, readings, benchmark, base, width, look) for width, look in drawn_for]
    score = rows[0][1]
    samples = f", {plural(score.k, 'sample')} each" if score.k > 1 else ""
    note = f"strict {score.metric}, {plural(score.n, 'problem')}{samples}"
    title = f"Answers to {benchmark} that are correct"
    return Figures((Figure(title, Markup("").join(pictures), note=note),), "picture")


def _draw(
    rows: Sequence[tuple[Evaluation, Score]],
    readings: Mapping[str, Direction],
    benchmark: str,
    base: str,
    width: int,
    look: str,
) -> Markup:
    left, right, top = 44.0, width - 8.0, 16.0
    pitch = (right - left) / len(rows)
    letters = 26 if width > 500 else 16
    names = [_short(row.label, letters) for row, _ in rows]
    is_turned = max(map(len, names)) * LETTER > pitch - 6
    bottom = top + 190.0
    highest = max(score.high for _, score in rows)
    limit = next((edge for edge in STEPS if highest <= edge), 1.0)
    unit = (bottom - top) / limit
    shapes: list[Markup] = []
    for position in range(round(limit / STEPS[limit]) + 1):
        y = bottom - unit * STEPS[limit] * position
        shapes.append(line(left, y, right, y, "grid"))
        label = percent(STEPS[limit] * position, 0)
        shapes.append(text(left - 6, y + 4, label, class_="tick", anchor="end"))
    shapes += _level(rows, base, bottom, unit, (left, right))
    for position, ((row, score), name) in enumerate(zip(rows, names, strict=True)):
        x = left + pitch * (position + 0.5)
        kind = MARKS[readings.get(row.label, "start")]
        words = f"{row.label}: {percent(score.value)} {span(score.low, score.high)}"
        parts = [
            line(x, bottom - unit * score.low, x, bottom - unit * score.high, f"whisker {kind}"),
            _mark(x, bottom - unit * score.value, kind),
        ]
        if pitch > 52:
            value = text(
                x + 9, bottom - unit * score.value + 4, percent(score.value), class_="value"
            )
            parts.append(value)
        shapes.append(tag("g", tag("title", words), *parts))
        shapes.append(_name(x, bottom + 18, name, row, is_turned=is_turned))
    depth = LETTER * 0.62 * max(map(len, names)) + 26 if is_turned else 42
    title = f"Share of correct answers to {benchmark} of {plural(len(rows), 'model')}, in order"
    words = "evaluated models, in the order they are made"
    middle = (left + right) / 2
    axis = text(middle, bottom + depth + 12, words, class_="tick", anchor="middle")
    return drawing(width, bottom + depth + 20, title, *shapes, axis, class_=look)


def _short(label: str, letters: int) -> str:
    shown, cut = clip(label, letters)
    return f"{shown[:-1]}…" if cut else shown


def _level(
    rows: Sequence[tuple[Evaluation, Score]],
    base: str,
    bottom: float,
    unit: float,
    ends: tuple[float, float],
) -> list[Markup]:
    return [
        line(ends[0], bottom - unit * score.value, ends[1], bottom - unit * score.value, "level")
        for row, score in rows
        if row.label == base
    ][:1]


def _mark(x: float, y: float, kind: str) -> Markup:
    if kind in ("up", "down"):
        reach = -7.0 if kind == "up" else 7.0
        corners = [
            (x, y + reach),
            (x - 6.5, y - 0.65 * reach),
            (x + 6.5, y - 0.65 * reach),
            (x, y + reach),
        ]
        return path(corners, f"mark {kind}")
    return tag("circle", cx=x, cy=y, r=5.5, class_=f"mark {kind}")


def _name(x: float, y: float, name: str, row: Evaluation, *, is_turned: bool) -> Markup:
    role = row.role if row.role not in (None, row.label) else ""
    role = "base" if role == "first model" and row.label != "base" else role
    look = "name" if row.role else "fact plain"
    if is_turned:
        words = tag("tspan", name)
        return tag("text", words, x=x + 4, y=y - 4, class_=look, text_anchor="end",
                   transform=f"rotate(-38 {x + 4:.1f} {y - 4:.1f})")  # fmt: skip
    parts = [text(x, y, name, class_=look, anchor="middle")]
    if role and role != "first model":
        parts.append(text(x, y + 14, role, class_="tick", anchor="middle"))
    return tag("g", *parts)
