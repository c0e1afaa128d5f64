"""The table of `factory audit-graders`."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from factory.evaluation.audit import Row


def show_audit(rows: Sequence[Row], console: Console) -> None:
    """Errors by grader and category; the last row of a grader is its whole suite."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("grader", "category", "false accepts", "false rejects", "wrong, 95 % interval"):
        table.add_column(column)
    for row in rows:
        low, high = row.interval
        table.add_row(
            row.grader,
            row.category,
            f"{row.false_accepts}/{row.should_reject}",
            f"{row.false_rejects}/{row.should_accept}",
            f"{low:.1%} to {high:.1%}",
        )
    console.print(table)
