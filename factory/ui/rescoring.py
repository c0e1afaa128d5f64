"""`factory rescore`: what present graders make of stored answers, as tables."""

from pathlib import Path

from factory.auditing.rescore import rescore
from factory.core.records import Verdict
from factory.ui.console import Console, Text
from factory.ui.grid import columns, print_table
from factory.ui.tables import resolve
from factory.ui.verbs import print_json

SHOWN = 60
"""Characters of an answer."""


def show_rescored(
    run: str, store: Path, console: Console, *, processes: int = 2, as_json: bool = False
) -> None:
    """Right answers then and now by benchmark, then every verdict that changed."""
    rows, changes, others = rescore(resolve(run, store, kind="scores"), store, processes=processes)
    if as_json:
        dumped = {"rows": rows, "changes": changes}
        lists = {key: [row.model_dump() for row in value] for key, value in dumped.items()}
        print_json(console, **lists, not_graded_here=others)
        return
    counts = ("graded", "right then", "right now", "changed")
    heads = columns("benchmark", "answers", "reading", *counts, numbers=counts)
    lines = []
    for row in rows:
        numbers = (row.answers, row.right_before, row.right_after, row.changed)
        lines.append([row.benchmark, row.mode, row.reading, *map(str, numbers)])
    print_table(console, heads, lines)
    for change in changes:
        where = f"{change.benchmark}, {change.problem_id}/{change.sample}, {change.reading}"
        then, now = _told(change.before), _told(change.after)
        console.print(Text(f"{where}: {then} -> {now}: {change.after.explanation}"))
    for name in others:
        console.print(f"{name}: graded by lm-eval, not again here", markup=False, highlight=False)
    console.print(f"{len(changes)} verdicts changed")


def _told(verdict: Verdict) -> str:
    answer = verdict.answer or ""
    shown = answer if len(answer) <= SHOWN else answer[:SHOWN] + "…"
    return f"{verdict.outcome} {shown!r}" if verdict.answer is not None else verdict.outcome
