"""What `factory audit-graders` and `factory grade` print."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from factory.core.errors import RecipeError
from factory.evaluation.audit import FILES, Row, audit
from factory.evaluation.stored import Comparison, compare_stored
from factory.grading.rows import grade_file
from factory.ui.console import Console
from factory.ui.grid import columns, print_table
from factory.ui.verbs import open_console, print_json, say_error

ERRORS = ("false accepts", "95 %", "false rejects", "95 %")
REGRESSION = (
    "The suites were used to mend the grader: none wrong on them is a regression test, not an "
    "estimate. Stored answers (--answers) are one."
)


def grade_stored(
    file: Path, out: Path | None, processes: int, form: str, *, is_isolated: bool, as_json: bool
) -> Counter[str]:
    """Grade a file of stored responses and print how often each outcome occurred."""
    if out is not None and out.resolve() == file.resolve():
        raise RecipeError(f"--out {out}: is the input file; name another")
    if form not in ("", "r1"):
        raise RecipeError(f"--form {form}: there is r1; rows may name forms of their own")
    counts = grade_file(
        file, out, on_broken=say_error, processes=processes, is_isolated=is_isolated,
        form="r1" if form else None,
    )  # fmt: skip
    # Standard output is the rows' where no file takes them.
    console = open_console(stderr=out is None or not as_json)
    if as_json:
        print_json(console, rows=sum(counts.values()), **dict(sorted(counts.items())))
    else:
        summary = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        console.print(f"{sum(counts.values())} rows: {summary or 'none'}", markup=False)
    return counts


def show_audits(
    kind: str, answers: Path | None, decided: Path | None, *, as_json: bool
) -> Sequence[str]:
    """Print an audit; the ids that ours errs on."""
    console = open_console()
    if answers is not None:
        comparison = compare_stored(answers, decided)
        if as_json:
            print_json(console, **comparison.model_dump(mode="json"))
        else:
            show_comparison(comparison, console)
        return []
    if kind and kind not in FILES:
        raise RecipeError(f"--kind {kind}: there are {' and '.join(FILES)}")
    rows, wrong = audit([name for name in FILES if kind in ("", name)])
    if as_json:
        listed = [row.model_dump() for row in rows]
        print_json(console, rows=listed, wrong=wrong, note=REGRESSION)
    else:
        show_audit(rows, console)
        console.print(REGRESSION, markup=False)
    if wrong:
        say_error(f"our grader errs on {', '.join(wrong)}")
    return wrong


def show_audit(rows: Sequence[Row], console: Console) -> None:
    """A table for each grader: false accepts and false rejects by category, then over all."""
    for grader in dict.fromkeys(row.grader for row in rows):
        lines = [
            [
                row.category,
                *_rate(row.false_accepts, row.should_reject, row.accept_interval),
                *_rate(row.false_rejects, row.should_accept, row.reject_interval),
            ]
            for row in rows
            if row.grader == grader
        ]
        print_table(console, columns("category", *ERRORS), lines, title=grader)


def show_comparison(comparison: Comparison, console: Console) -> None:
    """Errors of each grader, then every row on which they differ, at any width of the terminal."""
    lines = [
        [
            row.grader,
            *_rate(row.false_accepts, row.should_reject, row.accept_interval),
            *_rate(row.false_rejects, row.should_accept, row.reject_interval),
        ]
        for row in comparison.rows
    ]
    print_table(console, columns("grader", *ERRORS, prose=["grader"]), lines)
    console.print(
        f"{comparison.answers} answers; {len(comparison.disagreements)} on which graders differ, "
        f"of which {comparison.undecided} undecided and not counted",
        markup=False,
    )
    for row in comparison.disagreements:
        decision = {True: "right", False: "wrong", None: "undecided"}[row.right]
        by = ", ".join(row.accepted_by)
        console.print(f"{row.id}: {decision}; accepted by {by}", markup=False)
        console.print(f"    {row.reference}  <-  {row.answer}", markup=False)


def _rate(errors: int, n: int, interval: tuple[float, float] | None) -> tuple[str, str]:
    if interval is None:
        return "", ""
    low, high = interval
    return f"{errors}/{n}", f"{low:.1%} to {high:.1%}"
