"""Which bytes came from which, and from which versions."""

from collections.abc import Mapping

from factory.core.blocks import Block, Cell, Fold, Section, Table, Text
from factory.core.readable import figure
from factory.report.build import Build
from factory.report.records import StageRow
from factory.report.section import section

INTRO = (
    "A fingerprint is a hash of everything that decides what a stage makes: its kind and version, "
    "config, seed, the fingerprints of what it reads, and the versions of the packages that change "
    "numbers."
)
HEADER = ("stage", "kind", "reads", "fingerprint", "content", "seed", "made", "code")


@section("lineage", after="cost")
def lineage(build: Build) -> Section:
    counted = tuple(
        (row.name, name, figure(value))
        for row in build.stages
        if row.made is not None
        for name, value in row.made.metrics.items()
    )
    metrics = Table(("stage", "metric", "value"), counted, numbers=(2,), label="Metrics")
    parts: list[Block] = [
        Text(INTRO),
        Table(HEADER, tuple(map(_cells, build.stages)), numbers=(5,), label="Lineage"),
        Fold("What each stage counted", (metrics,), on_page_only=True),
    ]
    if build.packages:
        parts += [
            Section("Packages", (_versions(("package", "version"), build.packages),), look="half"),
            Section("Machine", (_versions(("setting", "value"), build.machine),), look="half"),
        ]
    return Section("Lineage and versions", tuple(parts))


def _cells(row: StageRow) -> tuple[str | Cell, ...]:
    reads = ", ".join(f"{field}: {name}" for field, name in row.inputs.items()) or "nothing"
    head = (row.name, kind_cell(row), reads)
    made = row.made
    if made is None:
        return (*head, Cell("not made", look="dim", span=5))
    return (
        *head,
        Cell(made.fingerprint[:12], look="code"),
        Cell(made.content[:12], look="code"),
        str(made.seed),
        made.created,
        made.commit[:12] + (" with local changes" if made.dirty else ""),
    )


def kind_cell(row: StageRow) -> Cell:
    """A stage's kind in the colour of what it makes."""
    return Cell(row.kind, look=f"kind {row.produces}")


def _versions(header: tuple[str, str], versions: Mapping[str, tuple[str, ...]]) -> Table:
    rows = tuple((name, ", ".join(values)) for name, values in versions.items())
    return Table(header, rows, label=header[0])
