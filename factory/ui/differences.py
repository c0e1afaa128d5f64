"""`factory diff`: what differs between two builds, as tables or JSON."""

import json
from pathlib import Path
from typing import Any

from rich.table import Table

from factory.report.difference import SAME_ANSWERS, Difference, difference, open_report
from factory.ui.console import Console, Text
from factory.visible import visible_json

SHOWN = 60
"""Characters of a setting's value."""
STAGES_NAMED = 3
"""Of a row that many stages share."""


def show_difference(
    run_a: str, run_b: str, store: Path, console: Console, *, as_json: bool
) -> None:
    """Compare two reports, B against A."""
    found = difference(open_report(run_a, store), open_report(run_b, store))
    if as_json:
        console.print(visible_json(found.model_dump_json(indent=1)), soft_wrap=True)
        return
    console.print(Text(f"A: {found.a} ({run_a})\nB: {found.b} ({run_b})"))
    _settings(found, console)
    _versions(found, console)
    _data(found, console)
    _scores(found, console)


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, header_style="bold",
        pad_edge=False,
    )  # fmt: skip
    for column in columns:
        table.add_column(column)
    return table


def _settings(found: Difference, console: Console) -> None:
    if not found.settings:
        console.print("settings: no difference in any stage that both have")
        return
    table = _table("settings", "stages", "setting", "A", "B", "what it is, and why")
    for one in found.settings:
        named = ", ".join(one.stages[:STAGES_NAMED])
        rest = len(one.stages) - STAGES_NAMED
        stages = f"{named} and {rest} more" if rest > 0 else named
        cells = (stages, one.path, _value(one.a), _value(one.b), one.reason)
        table.add_row(*map(Text, cells))
    console.print(table)


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _versions(found: Difference, console: Console) -> None:
    if not found.versions:
        console.print("versions: the same code, packages and machine settings")
        return
    table = _table("versions", "kind", "name", "A", "B")
    for one in found.versions:
        cells = (one.kind, one.name, ", ".join(one.a) or "none", ", ".join(one.b) or "none")
        table.add_row(*map(Text, cells))
    console.print(table)


def _data(found: Difference, console: Console) -> None:
    other = [one for one in found.data if one.relation != "same content"]
    same = len(found.data) - len(other)
    if other:
        table = _table("data and models", "stage", "makes", "B against A", "fingerprint", "counts")
        for one in other:
            marks = " -> ".join("none" if f is None else f[:12] for f in one.fingerprints)
            counts = ", ".join(
                f"{name} {' -> '.join('none' if n is None else f'{n:g}' for n in pair)}"
                for name, pair in one.counts.items()
            )
            table.add_row(*map(Text, (one.stage, one.produces, one.relation, marks, counts)))
        console.print(table)
    console.print(f"{same} of {len(found.data)} stages made the same bytes in both")


def _scores(found: Difference, console: Console) -> None:
    if not found.scores:
        console.print("scores: neither report has any; older reports are written again first")
        return
    table = _table("scores, B minus A on the same problems", "evaluation", "benchmark", "answers")
    for column in ("A", "B", "points", "95 % interval", "p, corrected", "n"):
        table.add_column(column, justify="right")
    table.add_column("reading")
    compared = [one for one in found.scores if one.reading != SAME_ANSWERS]
    for one in compared:
        change = one.difference
        cells = [one.stage, one.benchmark, one.mode]
        cells += ["" if score is None else f"{100 * score:.1f}" for score in (one.a, one.b)]
        if change is None:
            cells += ["", "", "", ""]
        else:
            span = f"[{100 * change.low:+.1f}, {100 * change.high:+.1f}]"
            p_value = f"{one.p_corrected:.3g}"
            cells += [f"{100 * change.value:+.1f}", span, p_value, str(change.n)]
        table.add_row(*map(Text, cells), Text(one.reading))
    if compared:
        console.print(table)
    same = len(found.scores) - len(compared)
    console.print(f"{same} of {len(found.scores)} scores are of the same answers in both")
