"""One policy for the width of tables: what one copies from them is never cut.

Not a terminal: one tab-separated line a row, under the names of the columns, for cut, awk and less.
A terminal: aligned columns. Where they do not fit, the columns that matter least are left out, and
a last line names them; where the rest does not fit either, each row is a block of lines.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from factory.ui.console import Console, Text

GAP = 2
"""Spaces between two columns."""
LEAST_PROSE = 24
"""Characters below which a column of prose is not squeezed."""
Cell = str | Text


@dataclass(frozen=True)
class Column:
    """The head of a column, and what becomes of it where room is short."""

    name: str
    is_number: bool = False
    is_prose: bool = False
    """Sentences, which may be broken between words; all else stays on a line."""
    rank: int = 0
    """Of those above 0 the highest is left out first; 0 is never left out."""


def columns(*names: str, numbers: Sequence[str] = (), prose: Sequence[str] = ()) -> list[Column]:
    """Columns that all stay."""
    return [Column(name, name in numbers, name in prose) for name in names]


def print_table(
    console: Console,
    heads: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    *,
    title: str = "",
    has_heads: bool = True,
) -> None:
    """Print rows of cells by the policy above; text of others is shown as `Text` shows it."""
    if title:
        console.print(Text(title, "bold"), soft_wrap=True)
    cells = [[_text(cell) for cell in row] for row in rows]
    if not console.is_terminal:
        lines = [[Text(head.name) for head in heads]] if has_heads else []
        for line in [*lines, *cells]:
            console.row("\t".join(_on_a_line(cell.plain) for cell in line))
        return
    widths = [_width(head, [row[i] for row in cells]) for i, head in enumerate(heads)]
    shown = _fitting(heads, widths, console.width)
    if shown is None:
        _print_blocks(console, heads, cells)
        return
    table = Table(box=None, header_style="bold", pad_edge=False, show_header=has_heads)
    table.padding = (0, GAP, 0, 0)
    for index in shown:
        head = heads[index]
        # Prose takes what is left; a column of it is broken between words.
        table.add_column(
            head.name, justify="right" if head.is_number else "left", no_wrap=not head.is_prose,
            overflow="fold", min_width=None if head.is_prose else widths[index],
        )  # fmt: skip
    for row in cells:
        table.add_row(*(row[index] for index in shown))
    console.print(table)
    hidden = [head.name for index, head in enumerate(heads) if index not in shown]
    if hidden:
        text = f"not shown, for want of width: {', '.join(hidden)}"
        console.print(Text(text, "dim"), soft_wrap=True)


def _text(cell: Cell) -> Text:
    return Text(cell) if isinstance(cell, str) else cell


def _on_a_line(text: str) -> str:
    return " ".join(text.split()) if set(text) & {"\n", "\t"} else text


def _width(head: Column, cells: Sequence[Text]) -> int:
    """What a column needs: all of it, or of prose enough to be read."""
    widest = max([len(head.name), *(cell.cell_len for cell in cells)])
    return min(widest, LEAST_PROSE) if head.is_prose else widest


def _fitting(heads: Sequence[Column], widths: Sequence[int], room: int) -> list[int] | None:
    """Which columns are shown; None where even those that must be do not fit."""
    shown = list(range(len(heads)))
    while sum(widths[index] for index in shown) + GAP * (len(shown) - 1) > room:
        least = max(shown, key=lambda index: heads[index].rank)
        if heads[least].rank == 0:
            return None
        shown.remove(least)
    return shown


def _print_blocks(
    console: Console, heads: Sequence[Column], rows: Sequence[Sequence[Text]]
) -> None:
    """Each row as lines `name: value`, the first cell above them."""
    for row in rows:
        console.print(row[0], soft_wrap=True)
        for head, cell in zip(heads[1:], row[1:], strict=True):
            if cell.plain:
                console.print(Text(f"  {head.name}: ", "dim").append_text(cell), soft_wrap=True)
