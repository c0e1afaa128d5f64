"""Scores of unchanged hub models beside those that others published."""

from factory.core.blocks import Cell, Section, Table, Text
from factory.core.readable import percent
from factory.evaluation.published import Reproduction, hub_id, load_published, reproductions
from factory.evaluation.summary import summary
from factory.report.build import Build, once
from factory.report.section import section

INTRO = (
    "pass@1 of unchanged models on the same problems. The noise band holds 95 % of differences "
    "between two runs of one model. Reproduced: the difference lies inside a band of at most 3 "
    "points to either side."
)
HEADER = ("benchmark", "model", "published", "ours", "n x k", "verdict")
LOOKS = {"reproduced": "better", "not reproduced": "worse", "cannot tell": "unclear"}


@section("published", after="contamination")
def published(build: Build) -> Section | None:
    rows = published_scores(build)
    if not rows:
        return None
    table = Table(HEADER, tuple(map(_cells, rows)), numbers=(2, 3, 4), label="Published scores")
    return Section("Against published scores", (Text(INTRO), table), facts=tuple(rows))


@once
def published_scores(build: Build) -> list[Reproduction]:
    """Every evaluation of an unchanged hub model beside what was published of it."""
    scores = load_published()
    rows: list[Reproduction] = []
    for row in build.evaluations:
        name = hub_id(build.by_name[row.model].config)
        if name is not None:
            own = [
                summary(benchmark, mode, problems)
                for (benchmark, mode), problems in build.answers[row.label].items()
                if benchmark in scores.benchmarks
            ]
            rows += reproductions(own, model=name, published=scores)
    return rows


def _cells(row: Reproduction) -> tuple[str | Cell, ...]:
    return (
        row.benchmark,
        Cell(row.model, row.source),
        percent(row.published),
        percent(row.ours),
        f"{row.n} x {row.k}",
        Cell(row.verdict, row.reason, look=f"reading {LOOKS[row.verdict]}"),
    )
