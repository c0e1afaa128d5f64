"""What was or would be published, and what the gate says."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from factory.publish.folder import Outcome
from factory.report.text import size, visible

STYLES = {"passed": "green", "refused": "red", "not run": "yellow"}


def show_outcome(outcome: Outcome, console: Console, *, is_trial: bool) -> None:
    """Files with their sizes, then every check with its reason."""
    files = Table(box=None, header_style="bold", pad_edge=False)
    files.add_column("would be published" if is_trial else "file")
    files.add_column("size", justify="right")
    for name, number in sorted(outcome.files.items()):
        files.add_row(Text(name), size(number))
    console.print(files)
    checks = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("check", "", "reason"):
        checks.add_column(column)
    for one in outcome.checks:
        reason = Text(visible(one.reason))
        checks.add_row(one.name, Text(one.status, STYLES[one.status]), reason)
    console.print(checks)
    if is_trial:
        console.print("Weights, rows and answers are examined when it is written.")
    if outcome.lineage:
        console.print(f"lineage.json sha256: {outcome.lineage}", soft_wrap=True)
