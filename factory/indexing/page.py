"""The index as one page that loads nothing, and as CSV."""

import csv
import io
import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

from factory.core.blocks import Block, Cell, Figure, Figures, Section, Table, Text
from factory.core.readable import clip, count, duration, figure, percent, plural, span
from factory.evaluation.frontier import CurvePoint, together
from factory.indexing.rows import IndexRow
from factory.report.against import thinking_figure
from factory.report.charts import curves
from factory.report.curves import Series
from factory.report.document import document, lines
from factory.report.html import contents, section_of_page
from factory.report.svg import drawing, line, nice_ticks, tag, text
from factory.text.visible import visible

MAIN = ("pass@1", "greedy")
HEADER = (
    "model", "recipe", "benchmark", "metric", "score, 95 %", "rank", "problems", "parameters",
    "answer tokens", "made in", "evaluated (UTC)",
)  # fmt: skip
MOST_HISTORIES = 24
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a text begins that a spreadsheet would compute."""
INTRO = (
    "Every evaluated model on every benchmark. A rank is 1 + the number of models that are better "
    "for certain: by the paired test on the same problems, corrected for all pairs; models "
    "without a shown difference share it, and without any there are no ranks. Click a heading "
    "to sort. Further metrics are in `--json` and the CSV."
)
Axis = tuple[str, Callable[[IndexRow], float | None], Callable[[float], str]]
AXES: tuple[Axis, ...] = (
    ("parameters", lambda row: row.parameters, lambda value: _short(value)),
    ("mean tokens of an answer", lambda row: row.answer_tokens, lambda value: _short(value)),
    ("mean tokens of thought", lambda row: row.thinking_tokens, lambda value: _short(value)),
    ("tokens a right answer", lambda row: row.tokens_per_right, lambda value: _short(value)),
    ("seconds to make", lambda row: row.seconds, lambda value: _short(value)),
)


def index_page(
    title: str,
    rows: Sequence[IndexRow],
    faults: Sequence[str],
    points: Sequence[CurvePoint] = (),
) -> str:
    """The page: table, charts of score against size, tokens and cost, histories; `points` are the
    curves of accuracy against thinking tokens."""
    rows = main_rows(rows)
    models = len({(row.recipe, row.model) for row in rows})
    names = list(dict.fromkeys(row.benchmark for row in rows))
    table = Table(HEADER, tuple(map(_cells, rows)), numbers=(4, 5, 6, 7, 8, 9), label="Scores")
    blocks: list[Block] = [Text(INTRO), table]
    blocks += [Text(fault, "dim") for fault in faults[:20]]
    sections = {"scores": Section("Scores", tuple(blocks))}
    for name in names:
        figures = [chart for axis in AXES if (chart := _scatter(rows, name, axis)) is not None]
        curve = together([point for point in points if point.benchmark == name])
        if len(curve) > 1:
            figures.append(thinking_figure(curve))
        if figures:
            sections[f"against-{names.index(name)}"] = Section(
                name, (Figures(tuple(figures), "wide"),)
            )
    histories = _histories(rows)
    if histories:
        sections["history"] = Section("History", (Text(HISTORY), Figures(tuple(histories))))
    header = [
        tag("p", "Index", class_="eyebrow"),
        tag("h1", title),
        tag("p", f"{plural(models, 'model')} · {plural(len(names), 'benchmark')} · "
                 f"{plural(len(rows), 'score')}", class_="dim"),
    ]  # fmt: skip
    body = [
        tag("header", lines(header), class_="top"),
        contents([(key, section.title) for key, section in sections.items()]),
        tag("main", lines(section_of_page(key, section) for key, section in sections.items())),
    ]
    return document(f"{title} · index", body, scripts=("page.js", "index.js"))


def main_rows(rows: Sequence[IndexRow]) -> list[IndexRow]:
    """pass@1 and greedy; of a benchmark with metrics of its own only, the first of them."""
    main = [row for row in rows if row.metric in MAIN]
    measured = {(row.evaluation, row.benchmark) for row in main}
    others = {
        (row.evaluation, row.benchmark): row
        for row in reversed(rows)
        if (row.evaluation, row.benchmark) not in measured
    }
    return [*main, *others.values()]


HISTORY = "The same model of the same recipe, each time that it was evaluated anew."


def _short(value: float) -> str:
    """`1.5 B`, `135 M`, `2.1 k`, `38`."""
    for limit, unit in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def _cells(row: IndexRow) -> tuple[str | Cell, ...]:
    return (
        row.model,
        row.recipe,
        row.benchmark,
        row.metric,
        Cell(percent(row.value), span(row.low, row.high)),
        "" if row.rank is None else f"{row.rank} of {row.compared}",
        f"{count(row.n)} x {row.k}",
        "" if row.parameters is None else count(row.parameters),
        "" if row.answer_tokens is None else figure(round(row.answer_tokens, 1)),
        "" if row.seconds is None else duration(row.seconds),
        row.created[:16].replace("T", " "),
    )


def _scatter(rows: Sequence[IndexRow], benchmark: str, axis: Axis) -> Figure | None:
    """Score over one quantity on a logarithmic axis; None where fewer than two models differ."""
    words, of, shown = axis
    points = [
        (math.log10(value), row)
        for row in rows
        if row.benchmark == benchmark and row.metric in MAIN and (value := of(row)) and value > 0
    ]
    if len({x for x, _ in points}) < 2:
        return None
    left, right, top, bottom = 44.0, 470.0, 10.0, 190.0
    low, high = min(x for x, _ in points), max(x for x, _ in points)
    margin = 0.08 * (high - low)
    ticks = nice_ticks(0.0, max(row.high for _, row in points))
    unit, stride = (bottom - top) / ticks[-1], (right - left) / (high - low + 2 * margin)
    marks: list[Markup] = []
    for tick in ticks:
        y = bottom - unit * tick
        marks.append(line(left, y, right, y, "grid"))
        marks.append(text(left - 6, y + 4, percent(tick, 0), class_="tick", anchor="end"))
    for value, anchor in ((low, "start"), (high, "end")):
        x = left + stride * (value - low + margin)
        marks.append(text(x, bottom + 15, shown(10**value), class_="tick", anchor=anchor))
    middle = (left + right) / 2
    marks.append(text(middle, bottom + 30, f"{words}, logarithmic", class_="tick", anchor="middle"))
    labels: list[tuple[float, float]] = []
    for value, row in points:
        x = left + stride * (value - low + margin)
        name = tag("title", f"{row.model}: {percent(row.value)}, {shown(10**value)}")
        marks.append(
            tag("g", name, line(x, bottom - unit * row.low, x, bottom - unit * row.high, "whisker"),
                tag("circle", cx=x, cy=bottom - unit * row.value, r=4.5, class_="mark"))
        )  # fmt: skip
        y = bottom - unit * row.value - 7
        if all(abs(x - u) > 80 or abs(y - v) > 13 for u, v in labels):
            labels.append((x, y))
            anchor = "start" if x < left + 60 else "end" if x > right - 60 else "middle"
            marks.append(text(x, y, clip(row.model, 18)[0], class_="tick", anchor=anchor))
    title = f"Score against {words}"
    return Figure(title, drawing(480, 226, f"{title} on {benchmark}", *marks))


def _histories(rows: Sequence[IndexRow]) -> list[Figure]:
    """A panel a model and benchmark that was measured more than once."""
    groups: dict[tuple[str, ...], list[IndexRow]] = {}
    for row in sorted(rows, key=lambda row: row.created):
        if row.metric in MAIN:
            key = (row.recipe, row.model, row.benchmark, row.version, str(row.n), row.metric)
            groups.setdefault(key, []).append(row)
    figures = []
    for (_, model, benchmark, _, _, metric), measured in groups.items():
        if len(measured) < 2:
            continue
        steps = tuple(range(1, len(measured) + 1))
        series = Series(name=metric, steps=steps, values=tuple(row.value for row in measured))
        title = f"{model} on {benchmark}"
        picture = curves([series], title, is_exact=True)
        figures.append(Figure(title, picture, (("s0", metric, percent(measured[-1].value)),)))
    return figures[:MOST_HISTORIES]


def index_csv(rows: Sequence[IndexRow]) -> str:
    """All fields, a line a row; no text can be taken for a formula."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(IndexRow.model_fields)
    for row in rows:
        values = row.model_dump(mode="json").values()
        writer.writerow([_plain(value) if isinstance(value, str) else value for value in values])
    return out.getvalue()


def _plain(value: str) -> str:
    shown = visible(value)
    return f"'{shown}" if shown.startswith(FORMULA) else shown
