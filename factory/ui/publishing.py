"""What was or would be published, and what the gate says."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from factory.artifacts import sha256_file
from factory.publish.folder import Outcome
from factory.publish.lineage import LINEAGE, faults, places_of, read_lineage
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


def show_verified(folder: Path, console: Console) -> list[str]:
    """The faults of a published folder; says so where there are none."""
    found = faults(folder)
    if not found:
        digest = sha256_file(folder / LINEAGE)
        console.print("every file is as the lineage says; that is as good as where you had it from")
        console.print(f"{LINEAGE} sha256: {digest}", soft_wrap=True)
    return found


def show_place(file: Path, folder: Path, console: Console) -> list[str]:
    """Where in a folder's lineage a file stands; the fault that it stands nowhere."""
    places = places_of(file, read_lineage(folder))
    for place in places:
        console.print(f"{file}: is {place}", markup=False, soft_wrap=True)
    return [] if places else [f"{file}: no file of these bytes is in the lineage of {folder}"]
