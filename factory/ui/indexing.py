"""The verb `factory index`: all models of a store, or of reports, on all benchmarks."""

from pathlib import Path
from typing import Annotated

import typer

from factory.core.errors import RecipeError
from factory.core.files import write_file
from factory.core.readable import percent, plural, span
from factory.ui.options import STORE, AsJson, Store
from factory.ui.verbs import errors_in_words, open_console, print_json

MOST_LINES = 40


@errors_in_words
def index(
    sources: Annotated[
        list[Path] | None, typer.Argument(help="Stores, and report.json files; else --store.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The page, or a .csv; else <store>/index.html.")
    ] = None,
    as_json: AsJson = False,
    store: Store = STORE,
) -> None:
    """Write one page of all models on all benchmarks, with ranks where differences hold."""
    from factory.indexing.page import MAIN, index_csv, index_page
    from factory.indexing.ranks import ranked
    from factory.indexing.rows import gather

    console = open_console()
    entries, faults = gather(sources or [store])
    rows = [entry.row for entry in ranked(entries)]
    rows.sort(key=lambda row: (row.benchmark, row.metric not in MAIN, row.metric, -row.value))
    if not rows:
        raise RecipeError(f"{store}: nothing is evaluated here; `factory eval` measures a model")
    target = out or (store if store.is_dir() else Path()) / "index.html"
    if as_json:
        print_json(console, rows=[row.model_dump(mode="json") for row in rows], faults=faults)
        return
    for fault in faults:
        console.print(fault, style="yellow", soft_wrap=True)
    text = index_csv(rows) if target.suffix == ".csv" else ""
    if not text:
        curves = [(entry.row, point) for entry in entries for point in entry.points]
        several = len({row.recipe for row, _ in curves}) > 1
        points = [
            point.model_copy(update={"model": f"{row.model}, {row.recipe}"}) if several else point
            for row, point in curves
        ]
        text = index_page((sources or [store])[0].absolute().name, rows, faults, points)
    write_file(target, text)
    shown = [row for row in rows if row.metric in MAIN]
    for row in shown[:MOST_LINES]:
        rank = f", rank {row.rank} of {row.compared}" if row.rank is not None else ""
        score = f"{percent(row.value)} {span(row.low, row.high)}"
        console.print(f"{row.benchmark}, {row.metric}: {row.model} {score}{rank}", soft_wrap=True)
    if len(shown) > MOST_LINES:
        console.print(f"and {plural(len(shown) - MOST_LINES, 'score')} more, on the page")
    console.print(f"index: {target}", soft_wrap=True)
