"""What stages were expected to take, before they were made, beside what they took."""

from factory.report.records import Made, Report, StageRow
from factory.report.text import duration

HEADER = ("stage", "kind", "estimated", "real", "real / estimated", "memory estimated", "real")


def estimate_rows(report: Report) -> list[list[str]]:
    """A row for every stage that had an estimate, and one for all of them; none without any."""
    known = [(row, row.made) for row in report.stages if row.made and row.made.estimate]
    if not known:
        return []
    estimated = sum(made.estimate.seconds for _, made in known if made.estimate)
    real = sum(made.seconds for _, made in known)
    whole = ["all of these", "", duration(estimated), duration(real), _ratio(real, estimated)]
    return [*(_row(row, made) for row, made in known), [*whole, "", ""]]


def _row(row: StageRow, made: Made) -> list[str]:
    assert made.estimate is not None
    estimate = made.estimate
    return [
        row.name,
        row.kind,
        duration(estimate.seconds),
        duration(made.seconds),
        _ratio(made.seconds, estimate.seconds),
        f"{estimate.memory_gib:.2f} GiB",
        f"{made.peak_memory_gib:.2f} GiB",
    ]


def _ratio(real: float, estimated: float) -> str:
    """Empty where seconds are too few to mean anything."""
    return f"{real / estimated:.2f}" if min(real, estimated) >= 1 else ""
