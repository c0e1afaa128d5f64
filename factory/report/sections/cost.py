"""What each stage took, beside what it was expected to take before it was made."""

from dataclasses import dataclass

from factory.core.blocks import Bar, Block, Cell, Section, Table, Text
from factory.core.readable import count, duration, size
from factory.report.build import Build
from factory.report.records import Made, StageRow
from factory.report.section import section
from factory.report.sections.lineage import kind_cell

HEADER = (
    "stage", "kind", "time", "", "tokens sampled", "a second", "tokens learned", "peak memory",
    "size",
)  # fmt: skip
EXPECTED = ("stage", "kind", "estimated", "real", "real / estimated", "memory estimated", "real")


@dataclass(frozen=True)
class Totals:
    """What the whole build took."""

    seconds: float
    tokens: int
    peak_memory_gib: float
    size_bytes: int


@section("cost", after="answers")
def cost(build: Build) -> Section:
    total = totals(build)
    if total is None:
        return Section("Cost", (Text("No stage is made yet."),))
    longest = max(row.made.seconds for row in build.stages if row.made is not None)
    rows = tuple(_cells(row, longest) for row in build.stages)
    foot = (
        "whole build", "", duration(total.seconds), "", count(total.tokens), "", "",
        f"{total.peak_memory_gib:.2f} GiB", size(total.size_bytes),
    )  # fmt: skip
    table = Table(HEADER, rows, (2, 4, 5, 6, 7, 8), label="Cost by stage", foot=foot)
    parts: list[Block] = [table]
    expected = estimate_rows(build)
    if expected:
        parts += [
            Text("Expected before each stage was made, and what it took:"),
            Table(EXPECTED, tuple(expected), (2, 3, 4, 5, 6), label="Estimated and real cost"),
        ]
    return Section("Cost", tuple(parts))


def totals(build: Build) -> Totals | None:
    """Sums (and the peak of memory) over the sealed stages; None where none is sealed."""
    made = [row.made for row in build.stages if row.made is not None]
    if not made:
        return None
    return Totals(
        seconds=sum(stage.seconds for stage in made),
        tokens=sum(stage.sampled_tokens or 0 for stage in made),
        peak_memory_gib=max(stage.peak_memory_gib for stage in made),
        size_bytes=sum(stage.size_bytes for stage in made),
    )


def _cells(row: StageRow, longest: float) -> tuple[str | Cell, ...]:
    made = row.made
    if made is None:
        return (row.name, kind_cell(row), Cell("not made", look="dim", span=7))
    time, tokens = duration(made.seconds), made.sampled_tokens
    return (
        row.name,
        kind_cell(row),
        time,
        Cell(bar=Bar(((row.produces, made.seconds),), time, longest)),
        "" if tokens is None else count(tokens),
        count(tokens / made.seconds) if tokens and made.seconds > 0 else "",
        "" if made.learned_tokens is None else count(made.learned_tokens),
        f"{made.peak_memory_gib:.2f} GiB",
        size(made.size_bytes),
    )


def estimate_rows(build: Build) -> list[tuple[str, ...]]:
    """A row for every stage that had an estimate, and one for all of them; none without any."""
    priced = [(row, row.made) for row in build.stages if row.made and row.made.estimate]
    if not priced:
        return []
    estimated = sum(made.estimate.seconds for _, made in priced if made.estimate)
    real = sum(made.seconds for _, made in priced)
    total = ("all of these", "", duration(estimated), duration(real), _ratio(real, estimated))
    return [*(_estimate(row, made) for row, made in priced), (*total, "", "")]


def _estimate(row: StageRow, made: Made) -> tuple[str, ...]:
    assert made.estimate is not None
    estimate = made.estimate
    return (
        row.name,
        row.kind,
        duration(estimate.seconds),
        duration(made.seconds),
        _ratio(made.seconds, estimate.seconds),
        f"{estimate.memory_gib:.2f} GiB",
        f"{made.peak_memory_gib:.2f} GiB",
    )


def _ratio(real: float, estimated: float) -> str:
    """Empty where seconds are too few to mean anything."""
    return f"{real / estimated:.2f}" if min(real, estimated) >= 1 else ""
