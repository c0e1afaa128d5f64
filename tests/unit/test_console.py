"""Text from outside on a terminal: it is read, and nothing in it is obeyed."""

import io
import json
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from test_cli import RECIPE, factory
from test_review import sealed, trace

from factory.building.plan import make_plan
from factory.building.recipe import load_recipe
from factory.core.artifacts import Artifact
from factory.core.records import Verdict
from factory.grading.rows import GradedRow, write_graded
from factory.report.difference import Difference
from factory.sampling.connection import _message
from factory.text.visible import visible, visible_json
from factory.ui import differences
from factory.ui.console import Console, Text
from factory.ui.display import LiveDisplay, PlainDisplay
from factory.ui.storing import artifact_row, show_rows
from factory.ui.tables import show_artifact, show_trace

MARK = "MARKED"
OBEYED = {
    "clipboard": "\x1b]52;c;ZWNobw==\x1b\\",
    "clipboard, ended by BEL": "\x1b]52;c;ZWNobw==\x07",
    "window title": "\x1b]0;title\x1b\\",
    "screen cleared": "\x1b[2J\x1b[H",
    "hidden text": "\x1b[8mhidden\x1b[0m",
    "link to a file": "\x1b]8;;file:///etc/hostname\x1b\\link\x1b]8;;\x1b\\",
    "reversed": "\u202etfel ot thgir\u202c \u2066isolated\u2069",
    "CSI of eight bits": "\x9b2J \x9d52;c;eA==\x9c",
    "overwritten": "wrong\x08\x08\x08\x08\x08right\rno\x07\x7f",
    "device query": '\x1b[6n\x1bP$q"p\x1b\\',
    "alternate screen, mouse": "\x1b[?1049h\x1b[?1000h\x1bc\x0e",
    "tags that nobody sees": "\U000e0041\U000e0042\ufe05\U000e0151\u200b\u2060\u3164",
    "line separators": "a\u2028b\u2029c\x85d\x0be\x0cf",
    "lone surrogate": "\ud800 \udc9b",
}
OURS = re.compile(r"\x1b\[(?:[0-9;]*m|\?25[lh]|[0-9]*[AK]|2K)|\r")
"""What a live display sends: colours, the cursor hidden and shown, lines erased."""
BRACKETS = "[red]a[/red] [/] [link=file:///etc/passwd]b[/link] :smile: [bold"


def obeyed(text: str) -> list[str]:
    """What in a text a terminal might obey or not show."""
    return [
        f"U+{ord(letter):04X}"
        for letter in text
        if letter != "\n" and unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(params=OBEYED.values(), ids=list(OBEYED))
def hostile(request: pytest.FixtureRequest) -> str:
    return f"{MARK} {request.param} {MARK}"


def check(text: str, times: int = 1) -> None:
    assert obeyed(text) == []
    assert text.count(MARK) >= 2 * times, text


def test_honest_text_stays_as_it_is() -> None:
    honest = "Grüße, 数学 \u05e9\u05dc\u05d5\u05dd 한국어 हिन्दी ∑ x² ≤ 3\n\ttab [1, 2] ❤\ufe0f"
    assert visible(honest) == honest
    assert visible("\x1b[2J\u202e") == "⟨U+001B⟩[2J⟨U+202E⟩"
    assert visible(visible("\x1b\U000e0041")) == "⟨U+001B⟩⟨U+E0041⟩"


def test_json_reads_the_same(hostile: str) -> None:
    shown = visible_json(json.dumps({hostile: [hostile, "é"]}, ensure_ascii=False))
    assert json.loads(shown) == {hostile: [hostile, "é"]}
    assert obeyed(shown) == [] and "é" in shown


def test_whatever_is_printed_goes_through_the_door(hostile: str) -> None:
    from rich.table import Table
    from rich.text import Text as Foreign

    screen = io.StringIO()
    console = Console(file=screen, width=200)
    console.print(hostile)
    console.print(hostile, markup=True, emoji=True, end="")
    console.print(Text(hostile, "dim"), Foreign(hostile), [hostile], Path(hostile))
    console.rule(hostile)
    console.rule(Text(hostile))
    table = Table(hostile, title=hostile, caption=hostile)
    table.add_row(Foreign(hostile))
    console.print(table)
    console.out(hostile)
    console.log(hostile)
    check(screen.getvalue(), times=13)


def test_a_sequence_in_two_parts_is_none_either() -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=200)
    for part in "\x1b]52;c;ZWNobw==\x1b\\":
        console.print(part, end="")
        console.print(Text(part), end="")
    assert obeyed(screen.getvalue()) == []
    assert screen.getvalue().count("⟨U+001B⟩") == 4


def test_a_terminal_gets_our_colours_and_none_of_theirs(hostile: str) -> None:
    screen = Terminal()
    Console(file=screen, width=200).print(Text(hostile, "dim"))
    shown = screen.getvalue()
    assert obeyed(shown.replace("\x1b[2m", "").replace("\x1b[0m", "")) == []


def test_brackets_are_never_markup() -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=200)
    console.print(BRACKETS, markup=True, emoji=True)
    console.rule(BRACKETS)
    assert screen.getvalue().count(BRACKETS) == 2


def test_tables_are_as_wide_as_what_they_show() -> None:
    from rich.table import Table

    screen = io.StringIO()
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    table.add_row("\x1b", "x")
    table.add_row(Text("ab\x9b"), "x")
    Console(file=screen, width=200).print(table)
    assert screen.getvalue().splitlines() == ["⟨U+001B⟩   x ", "ab⟨U+009B⟩ x "]


def test_an_encoding_that_lacks_a_character_is_no_crash() -> None:
    raw = io.BytesIO()
    screen = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    Console(file=screen, width=200).print("é \x1b")
    assert raw.getvalue() == b"\\xe9 \\u27e8U+001B\\u27e9\n"


def test_every_part_of_a_trace_is_shown_safely(hostile: str) -> None:
    full = trace(hostile).model_copy(
        update={
            "question": hostile, "reasoning": hostile, "answer": hostile,
            "verdict": Verdict(outcome="wrong", answer=hostile, explanation=hostile),
        }
    )  # fmt: skip
    screen = io.StringIO()
    console = Console(file=screen, width=200)
    show_trace(full, console)
    show_trace(
        full.model_copy(update={"reasoning": None, "answer": None, "completion": hostile}), console
    )
    check(screen.getvalue(), times=9)


def test_a_manifest_is_shown_safely(tmp_path: Path, hostile: str) -> None:
    (tmp_path / "x").mkdir()
    artifact = sealed(tmp_path / "x", "traces")
    fields = {"commit": hostile, "created": hostile, "stage": hostile, "name": hostile}
    fields |= {"metrics": {hostile: 1.0}, "versions": {hostile: hostile}}
    artifact = Artifact(Path(hostile), artifact.manifest.model_copy(update=fields))
    screen = io.StringIO()
    console = Console(file=screen, width=200)
    show_artifact(artifact, console, samples=0)
    show_rows([artifact_row(artifact, "made")], console)
    lines = screen.getvalue().splitlines()
    assert [line.count("\t") for line in lines[-2:]] == [7, 7], "tabs are ours, between columns"
    check(screen.getvalue().replace("\t", " "), times=6)


def test_what_a_build_says_is_shown_safely(tmp_path: Path, hostile: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    step = make_plan(load_recipe(recipe, []))[0]
    progress = {"event": "progress", "done": 1, "total": 1, "unit": hostile, "at": 1.0}
    for display_type, screen in ((PlainDisplay, io.StringIO()), (LiveDisplay, Terminal())):
        display = display_type(1, Console(file=screen, width=300))
        display.started(step, Path(hostile))
        display.event(step, {"event": "note", "text": hostile})
        display.event(step, {**progress, "figures": {f"{hostile}.reward": 1.0}})
        display.waiting(step, hostile)
        display.close()
        shown = OURS.sub("", screen.getvalue())
        assert obeyed(shown) == []
        assert shown.count(MARK) >= 6


def test_an_error_is_shown_safely(tmp_path: Path, hostile: str) -> None:
    for words in (json.dumps({"error": {"message": hostile}}), hostile):
        assert obeyed(_message(words)) == []
    name = hostile.replace("/", "|")
    message = factory("show", name, "--store", tmp_path)
    assert message.exit_code == 2
    check(message.stderr)


def test_a_traceback_is_shown_safely() -> None:
    code = """
import sys
from factory import cli
def bug():
    raise RuntimeError(sys.argv[1])
cli.app = bug
cli.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, f"{MARK}\x1b[2J\x9b2J\u202e[red]{MARK}"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and "RuntimeError" in done.stderr and "[red]" in done.stderr
    check(done.stderr)


def test_json_on_a_terminal_is_safe_and_reads_the_same(
    monkeypatch: pytest.MonkeyPatch, hostile: str
) -> None:
    rows = io.StringIO()
    row = GradedRow(
        id="a", outcome="wrong", extracted="x\x9b\x7f\u202e\x1b", explanation="", seconds=0
    )
    write_graded(iter([row]), rows, on_broken=pytest.fail)
    assert obeyed(rows.getvalue()) == []
    assert GradedRow.model_validate_json(rows.getvalue()) == row
    hostile = hostile.encode("utf-8", "replace").decode()
    empty = Difference(a=hostile, b="b", settings=(), versions=(), data=(), scores=())
    monkeypatch.setattr(differences, "open_report", lambda run, store: None)
    monkeypatch.setattr(differences, "difference", lambda a, b: empty)
    screen = io.StringIO()
    for as_json in (True, False):
        differences.show_difference(
            "a", "b", Path(), Console(file=screen, width=80), as_json=as_json
        )
        if as_json:
            assert Difference.model_validate_json(screen.getvalue()) == empty
    check(screen.getvalue(), times=2)


@pytest.mark.parametrize(
    "text",
    [
        "👩\u200d🔬 tests",
        "\u0645\u06cc\u200c\u062e",
        "क\u094d\u200dष",
        "ภาษา\u200bไทย",
        "\u0600 12",
        "ᠠ\u180eᠨ",
    ],
    ids=["emoji", "Persian", "Hindi", "Thai", "number sign", "Mongolian"],
)
def test_joiners_that_spelling_needs_are_shown_as_they_are(text: str, tmp_path: Path) -> None:
    from factory.publish.gate import card_faults

    assert visible(text) == text
    card = tmp_path / "README.md"
    card.write_text(f"---\nlicense: mit\n---\n{text}\n", encoding="utf-8")
    assert card_faults(card) == []
    hidden = f"{text} pass\u200dword\u202e"
    assert "⟨U+202E⟩" in visible(hidden)
    assert ("⟨U+200D⟩" in visible(hidden)) and not visible(hidden).isascii()
    card.write_text(f"---\nlicense: mit\n---\n{hidden}\n", encoding="utf-8")
    assert any("U+202E" in fault for fault in card_faults(card))
