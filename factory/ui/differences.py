"""`factory diff`: what differs between two builds, as tables or JSON."""

import json
from pathlib import Path
from typing import Any

from factory.report.difference import SAME_ANSWERS, Difference, difference, open_report
from factory.text.visible import visible_json
from factory.ui.console import Console, Text
from factory.ui.grid import Column, columns, print_table

SHOWN = 60
"""Characters of a setting's value."""
STAGES_NAMED = 3
"""Of a row that many stages share."""


def show_difference(
    run_a: str, run_b: str, store: Path, console: Console, *, as_json: bool
) -> None:
    """Compare two reports, B against A."""
    changes = difference(open_report(run_a, store), open_report(run_b, store))
    if as_json:
        console.print(visible_json(changes.model_dump_json(indent=1)), soft_wrap=True)
        return
    console.print(Text(f"A: {changes.a} ({run_a})\nB: {changes.b} ({run_b})"))
    _settings(changes, console)
    _versions(changes, console)
    _data(changes, console)
    _scores(changes, console)


def _settings(changes: Difference, console: Console) -> None:
    if not changes.settings:
        console.print("settings: no difference in any stage that both have")
        return
    heads = [
        Column("stages", is_prose=True), Column("setting"), Column("A", is_prose=True),
        Column("B", is_prose=True), Column("what it is, and why", is_prose=True, rank=1),
    ]  # fmt: skip
    lines = []
    for setting in changes.settings:
        named = ", ".join(setting.stages[:STAGES_NAMED])
        rest = len(setting.stages) - STAGES_NAMED
        stages = f"{named} and {rest} more" if rest > 0 else named
        values = (_value(setting.a), _value(setting.b))
        lines.append([stages, setting.path, *values, setting.reason])
    print_table(console, heads, lines, title="settings")


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _versions(changes: Difference, console: Console) -> None:
    if not changes.versions:
        console.print("versions: the same code, packages and machine settings")
        return
    lines = [
        [row.kind, row.name, ", ".join(row.a) or "none", ", ".join(row.b) or "none"]
        for row in changes.versions
    ]
    heads = columns("kind", "name", "A", "B", prose=("A", "B"))
    print_table(console, heads, lines, title="versions")


def _data(changes: Difference, console: Console) -> None:
    other = [row for row in changes.data if row.relation != "same content"]
    same = len(changes.data) - len(other)
    if other:
        heads = [
            Column("stage"), Column("makes", rank=1), Column("B against A"),
            Column("fingerprint", rank=2), Column("counts", is_prose=True),
        ]  # fmt: skip
        lines = []
        for row in other:
            marks = " -> ".join("none" if f is None else f[:12] for f in row.fingerprints)
            counts = ", ".join(
                f"{name} {' -> '.join('none' if n is None else f'{n:g}' for n in pair)}"
                for name, pair in row.counts.items()
            )
            lines.append([row.stage, row.produces, row.relation, marks, counts])
        print_table(console, heads, lines, title="data and models")
    console.print(f"{same} of {len(changes.data)} stages made the same bytes in both")


def _scores(changes: Difference, console: Console) -> None:
    if not changes.scores:
        console.print("scores: neither report has any; older reports are written again first")
        return
    heads = [
        Column("evaluation"), Column("benchmark"), Column("answers"),
        Column("A", is_number=True, rank=2), Column("B", is_number=True, rank=2),
        Column("points", is_number=True), Column("95 % interval", is_number=True),
        Column("p, corrected", is_number=True, rank=1), Column("n", is_number=True, rank=3),
        Column("reading", is_prose=True),
    ]  # fmt: skip
    lines = []
    compared = [row for row in changes.scores if row.reading != SAME_ANSWERS]
    for row in compared:
        change = row.difference
        cells = [row.stage, row.benchmark, row.mode]
        cells += ["" if score is None else f"{100 * score:.1f}" for score in (row.a, row.b)]
        if change is None:
            cells += ["", "", "", ""]
        else:
            span = f"[{100 * change.low:+.1f}, {100 * change.high:+.1f}]"
            p_value = f"{row.p_corrected:.3g}"
            cells += [f"{100 * change.value:+.1f}", span, p_value, str(change.n)]
        lines.append([*cells, row.reading])
    if compared:
        print_table(console, heads, lines, title="scores, B minus A on the same problems")
    same = len(changes.scores) - len(compared)
    console.print(f"{same} of {len(changes.scores)} scores are of the same answers in both")
