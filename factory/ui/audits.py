"""The table of `factory audit-graders`."""

from collections.abc import Sequence

from rich.table import Table

from factory.evaluation.audit import Row
from factory.ui.console import Console


def show_audit(rows: Sequence[Row], console: Console) -> None:
    """A table for each grader: false accepts and false rejects by category, then over all."""
    for grader in dict.fromkeys(row.grader for row in rows):
        table = Table(box=None, header_style="bold", pad_edge=False, title=grader)
        for column in ("category", "false accepts", "95 %", "false rejects", "95 %"):
            table.add_column(column, no_wrap=True)
        for row in rows:
            if row.grader == grader:
                table.add_row(
                    row.category,
                    *_rate(row.false_accepts, row.should_reject, row.accept_interval),
                    *_rate(row.false_rejects, row.should_accept, row.reject_interval),
                )
        console.print(table)


def _rate(errors: int, n: int, interval: tuple[float, float] | None) -> tuple[str, str]:
    if interval is None:
        return "", ""
    low, high = interval
    return f"{errors}/{n}", f"{low:.1%} to {high:.1%}"
