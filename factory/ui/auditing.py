"""The verb `audit`."""

import re
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factory.core.errors import RecipeError
from factory.ui.options import STORE, AsJson, Plugins, Store
from factory.ui.verbs import errors_in_words, open_console, print_json

if TYPE_CHECKING:
    from factory.auditing.audit import Audit, Settings
    from factory.core.artifacts import Artifact
    from factory.ui.console import Console

_SIGNS = re.compile(r"[^\w.-]+")
SECONDS = 10.0
"""Between two lines of progress."""


@errors_in_words
def audit(
    context: typer.Context,
    traces: Annotated[
        str, typer.Argument(help="Traces: an artifact, or a file, a pattern or a folder.")
    ],
    student: Annotated[
        str, typer.Option("--student", help="Model whose tokens are counted: artifact or folder.")
    ] = "",
    limit: Annotated[
        int | None, typer.Option("--context", min=1, help="Tokens a trace may have.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for audit.html and audit.json.")
    ] = None,
    as_json: AsJson = False,
    store: Store = STORE,
    plugins: Plugins = None,
) -> None:
    """Look through a set of traces before training on it: faults, lengths, overlaps, licences."""
    from factory.auditing.audit import Settings
    from factory.core.artifacts import MANIFEST
    from factory.core.machine import Machine
    from factory.ui.tables import resolve

    console, progress = open_console(), _Progress()
    settings = Settings(
        student=str(_folder(student, store)) if student else "",
        context=limit,
        processes=Machine().thread_count(),
    )
    is_file = not (Path(traces) / MANIFEST).exists() and (
        Path(traces).exists() or any(sign in traces for sign in "*?[")
    )
    artifact = None if is_file else resolve(traces, store, kind="traces")
    name = artifact.path.name if artifact else _SIGNS.sub("_", Path(traces).name)
    folder = out or store / "audits" / name
    made = _write(artifact or traces, settings, folder, progress)
    if as_json:
        print_json(console, **made.model_dump())
        return
    _show(made, console)
    console.print(f"page: {folder / 'audit.html'}", highlight=False, soft_wrap=True)


def _folder(student: str, store: Path) -> Path:
    from factory.ui.tables import resolve

    folder = Path(student).expanduser()
    if (folder / "manifest.json").exists() or not (folder / "config.json").exists():
        folder = resolve(student, store, kind="model").path
    if not (folder / "tokenizer_config.json").exists():
        raise RecipeError(f"--student {student}: {folder} has no tokenizer; name a model's folder")
    return folder


def _write(
    source: "Artifact | str", settings: "Settings", folder: Path, progress: "_Progress"
) -> "Audit":
    from factory.auditing.audit import audit as look_through
    from factory.auditing.opened import of_artifact, of_files
    from factory.core.files import write_file
    from factory.report.auditing import audit_page

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        is_file = isinstance(source, str)
        files = of_files(source, Path(scratch), progress.say) if is_file else of_artifact(source)
        made = look_through(
            files.name, files.traces, settings, folder=Path(scratch), progress=progress.tell,
            licences=files.licences, dropped=files.dropped,
        )  # fmt: skip
        write_file(folder / "audit.json", made.model_dump_json(indent=1) + "\n")
        write_file(folder / "audit.html", audit_page(made, files.traces, files.examples))
    return made


class _Progress:
    """Says on standard error how far a long audit is."""

    def __init__(self) -> None:
        self._console = open_console(stderr=True)
        self._next = time.monotonic() + SECONDS

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

    def tell(self, done: int, total: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + SECONDS
            self._console.print(f"looked at {done} of {total} traces", highlight=False)


def _show(audit: "Audit", console: "Console") -> None:
    """The page's numbers as a few lines."""
    from factory.core.readable import count, percent
    from factory.ui.grid import columns, print_table

    rows: list[tuple[str, str, str]] = []
    dropped = {f"left out: {name}": number for name, number in audit.dropped.items()}
    read = audit.rows + sum(dropped.values())
    for counts, of in ((audit.faults, audit.rows), (dropped, read)):
        for name, number in counts.items():
            if number:
                rows.append((name.replace("_", " "), count(number), percent(number / of)))
    console.print(f"{audit.name}: {count(audit.rows)} traces, {count(audit.problems)} questions")
    if rows:
        heads = columns("fault", "traces", "share", numbers=("traces", "share"))
        print_table(console, heads, rows)
    console.print(f"without a fault: {count(audit.clean)}", highlight=False)
    for name, number in audit.benchmarks.items():
        console.print(f"overlaps with {name}: {count(number)}", markup=False, highlight=False)
    for reason in audit.unseen_benchmarks:
        console.print(f"not compared with {reason}", markup=False, highlight=False)
    lengths = audit.lengths
    if lengths.rows:
        middle, longest = lengths.quantiles["0.5"], lengths.quantiles["1"]
        text = f"{lengths.unit}: half have at most {count(middle)}, the longest {count(longest)}"
        if lengths.context is not None:
            cut = audit.faults["too_long"]
            text += f"; a context of {count(lengths.context)} leaves out {count(cut)}"
        console.print(text, highlight=False, soft_wrap=True)
    licences = ", ".join(f"{name} ({count(n)})" for name, n in audit.licences.items())
    console.print(f"licences: {licences or 'none recorded'}", markup=False, soft_wrap=True)
