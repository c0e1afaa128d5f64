"""One policy for the width of tables: names are whole in a pipe and at any width of a terminal."""

import io
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.ui.console import Console, Text
from factory.ui.grid import Column, print_table

STYLES = re.compile(r"\x1b\[[0-9;]*m")
NAME = "cold_traces_of_the_second_round-711662f654ae"
HEADS = [
    Column("artifact"), Column("kind", rank=1), Column("MiB", is_number=True, rank=2),
    Column("why", is_prose=True, rank=3),
]  # fmt: skip
ROWS = [[NAME, "traces", "516.5", "a long sentence about it that goes on and on"]]


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def shown(width: int, rows: list, heads: list[Column], *, is_terminal: bool = True) -> list[str]:
    screen = Screen() if is_terminal else io.StringIO()
    print_table(Console(file=screen, width=width), heads, rows)
    return [STYLES.sub("", line).rstrip(" ") for line in screen.getvalue().splitlines()]


def test_a_pipe_gets_a_line_a_row_with_tabs_between_the_columns() -> None:
    head, row = shown(20, ROWS, HEADS, is_terminal=False)
    assert head.split("\t") == ["artifact", "kind", "MiB", "why"]
    assert row.split("\t") == ROWS[0]


def test_text_with_tabs_and_line_ends_stays_one_cell_of_one_line() -> None:
    rows = [["a\tb\nc", "k", "1", ""]]
    assert shown(80, rows, HEADS, is_terminal=False)[1].split("\t") == ["a b c", "k", "1", ""]


def test_where_room_is_short_the_least_column_goes_first_and_is_named() -> None:
    assert shown(120, ROWS, HEADS)[0].split() == ["artifact", "kind", "MiB", "why"]
    lines = shown(len(NAME) + 2 + 6 + 2 + 5, ROWS, HEADS)
    assert lines[0].split() == ["artifact", "kind", "MiB"]
    assert lines[-1] == "not shown, for want of width: why"
    lines = shown(len(NAME), ROWS, HEADS)
    assert lines[1] == NAME
    assert " ".join(lines[2:]) == "not shown, for want of width: kind, MiB, why"


def test_where_not_even_the_names_fit_each_row_is_a_block() -> None:
    heads = [Column("artifact"), Column("state")]
    lines = shown(30, [[NAME, Text("running", "cyan")]], heads)
    assert lines == [NAME, "  state: running"]


def test_prose_is_broken_between_words_and_nothing_of_it_is_lost() -> None:
    lines = shown(len(NAME) + 2 + 6 + 2 + 5 + 2 + 24, ROWS, HEADS)
    text = " ".join(line[len(NAME) + 15 :].strip() for line in lines[1:])
    assert text == ROWS[0][3]


@given(
    names=st.lists(st.text("abc-é字", min_size=1, max_size=50), min_size=1, max_size=4),
    width=st.integers(20, 130),
)
def test_no_name_is_ever_cut(names: list[str], width: int) -> None:
    text = "\n".join(shown(width, [[name, "k", "1", "x y"] for name in names], HEADS))
    assert all(name in text for name in names)
    assert "…" not in text


def test_only_one_module_lays_out_tables() -> None:
    folder = Path(__file__).resolve().parents[2] / "factory"
    users = {p.name for p in folder.rglob("*.py") if "rich.table" in p.read_text(encoding="utf-8")}
    assert users == {"grid.py"}, os.linesep.join(users)
