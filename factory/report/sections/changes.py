"""What each stage changed: two checkpoints on the same problems."""

from factory.core.blocks import Cell, Figure, Figures, Fold, Legend, Section, Table, Text
from factory.core.readable import plural, point_span, points
from factory.report.build import Build
from factory.report.figures import difference_panel
from factory.report.records import Comparison
from factory.report.scorecard import benchmarks
from factory.report.section import section

HEADER = (
    "checkpoint", "against", "which is", "benchmark", "answers", "difference, points",
    "p, corrected", "problems", "rose", "fell", "reading",
)  # fmt: skip
RELATIONS = {
    "start": "where its weights started",
    "teacher": "the model that taught it",
    "order": "the checkpoint before it",
}
READINGS = {"better": "better", "worse": "worse", "unclear": "no clear change"}


@section("changes", after="published")
def changes(build: Build) -> Section | None:
    rows = build.comparisons
    if not rows:
        return None
    number = plural(len(rows), "comparison")
    intro = (
        "Two checkpoints on the same problems: the mean of the per-problem differences in "
        "percentage points, strict grading, with its 95 % interval. A change is called one where "
        "the interval leaves out zero and the paired test, corrected for "
        f"{number} (Holm), has p below 0.05: of many comparisons some look like changes by chance."
    )
    figures = tuple(
        Figure(
            name,
            difference_panel(shown, f"Paired differences on {name} in percentage points"),
            note="against where its weights started, and its teacher",
        )
        for name in benchmarks(build.evaluations)
        if (shown := _shown(build, name))
    )
    table = Table(HEADER, tuple(map(_cells, rows)), numbers=(5, 6, 7, 8, 9), label="Comparisons")
    return Section(
        "What each stage changed",
        (
            Text(intro),
            Legend(tuple(READINGS.items())),
            Figures(figures, "wide"),
            Fold(f"All {number}, sampled and greedy", (table,)),
        ),
    )


def _shown(build: Build, benchmark: str) -> list[Comparison]:
    """What a figure shows: against start and teacher, sampled where both were sampled."""
    rows = [row for row in build.comparisons if row.benchmark == benchmark]
    rows = [row for row in rows if row.relation != "order"]
    sampled = {(row.before, row.after) for row in rows if row.mode == "sampled"}
    return [row for row in rows if row.mode == "sampled" or (row.before, row.after) not in sampled]


def _cells(row: Comparison) -> tuple[str | Cell, ...]:
    difference = f"{points(row.difference)} {point_span(row.low, row.high)}"
    if row.samples is not None:
        difference += f", first {plural(row.samples, 'sample')}"
    return (
        row.after,
        row.before,
        RELATIONS[row.relation],
        row.benchmark,
        row.mode,
        difference,
        f"{row.p_corrected:.3g}",
        str(row.n),
        str(row.improved),
        str(row.declined),
        Cell(READINGS[row.direction], look=f"reading {row.direction}"),
    )
