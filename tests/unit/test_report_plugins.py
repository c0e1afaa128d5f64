"""Sections of a user's own: shown in their place, and named where they fail; no report is lost."""

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from report_example import Build, r1_build

from factory.core import plugin_files, registry
from factory.core.artifacts import open_artifact
from factory.core.blocks import Cell, Figure, Section, Table, Text
from factory.core.errors import PluginError
from factory.core.plugin_files import load_plugins
from factory.core.registry import DOORS, Origin, open_doors, registering
from factory.report import foreign
from factory.report.build import Build as Made
from factory.report.build import build
from factory.report.markdown import markdown
from factory.report.render import failures, render_html, render_json, render_markdown, sections
from factory.report.section import BUILT_IN, SECTIONS, in_order, section

ROOT = Path(__file__).resolve().parents[2]
SECTION = """
from factory.plugins import Section, Table, Text, section

@section("mine", after="training")
def mine(build):
    {body}
"""
STAGE = """
from typing import Literal
from factory.plugins import Shows, StageConfig, Text, light_stage, register

class Config(StageConfig):
    kind: Literal["shown"]

def shows(artifact):
    {body}

register(light_stage(Config, produces="traces", version=1, run=None, estimate=None,
                     shows=Shows("stages", shows)))
"""


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test loads anew, and leaves the doors as they were."""
    open_doors()
    monkeypatch.setattr(plugin_files, "_loaded", {})
    monkeypatch.setattr(plugin_files, "_texts", {})
    for door in list(DOORS.values()):
        monkeypatch.setattr(door, "table", dict(door.table))


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> list:
    return r1_build(tmp_path_factory.mktemp("build"), problems=12)


def with_plugin(folder: Path, steps: list, text: str) -> Made:
    path = folder / "mine.py"
    path.write_text(text, encoding="utf-8")
    load_plugins([path])
    return build("r", "", steps)


def test_the_example_stands_where_it_says_in_both_forms(steps: list) -> None:
    load_plugins([ROOT / "examples" / "tokens.py"])
    report = build("r", "", steps)
    names = [name for name, _ in sections(report)]
    assert names.index("tokens") == names.index("scorecard") + 1
    assert failures(report) == ()
    (section,) = [section for name, section in sections(report) if name == "tokens"]
    assert [row[0] for row in section.blocks[1].rows] == [row.label for row in report.evaluations]
    assert section.blocks[1].right == {1, 2}
    page, text = render_html(report), render_markdown(report)
    assert '<section id="tokens">' in page and '<a href="#tokens">Tokens</a>' in page
    assert "\n## Length by outcome\n" in text and "| student |" in text


def test_the_order_is_that_of_after_and_of_registration(tmp_path: Path, steps: list) -> None:
    other = SECTION.replace('"mine"', '"other"').replace("def mine", "def other")
    say = "return Section('X', (Text('y'),))"
    report = with_plugin(tmp_path, steps, SECTION.format(body=say) + other.format(body=say))
    names = [name for name, _ in sections(report)]
    assert names[names.index("training") :][:4] == ["training", "mine", "other", "evolution"]


def test_a_section_with_nothing_to_show_is_not_there(tmp_path: Path, steps: list) -> None:
    report = with_plugin(tmp_path, steps, SECTION.format(body="return None"))
    assert "mine" not in dict(sections(report)) and failures(report) == ()


WRONG = {
    "raises": ("return 1 / 0", "line 6: ZeroDivisionError: division by zero"),
    "text": ("return 'text'", "TypeError: gave str, a Section or None is wanted"),
    "bare": ("return Section('X', ('text',))", "Section: 1 0: Input should be"),
    "narrow": ("return Section('X', (Table(('a', 'b'), ((1,),)),))", "1 cells under 2 columns"),
    "leaves": ("import sys; sys.exit(1)", "SystemExit: 1"),
    "file": ("open(build.steps[0].artifact.path / 'none')", "FileNotFoundError"),
    "dies": ("import os; os._exit(3)", "the plug-in process died with status 3"),
    "hangs": ("while True: pass", "plug-in took longer than 3 s"),
}


def test_what_a_section_does_wrong_is_a_line_and_the_report_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list
) -> None:
    monkeypatch.setattr(foreign, "SECONDS", 3.0)
    bodies = {name: body for name, (body, _) in WRONG.items()}
    bodies["good"] = "print(1); return Section('G', ())"
    text = "".join(
        SECTION.format(body=body).replace('"mine"', f'"{name}"') for name, body in bodies.items()
    )
    report = with_plugin(tmp_path, steps[:2], text)
    lines = failures(report)
    assert len(lines) == len(WRONG)
    page, text = render_html(report), render_markdown(report).replace("\\", "")
    for (name, (_, message)), line in zip(WRONG.items(), lines, strict=True):
        where = f"report section {name} of file mine.py: "
        assert line.startswith(where) and message in line
        assert where in page and where in text
    assert dict(sections(report))["good"] == Section("G", ())
    assert [name for name, _ in sections(report) if name in BUILT_IN] == [
        "result", "flow", "cost", "lineage", "recipe", "reading",
    ]  # fmt: skip
    assert json.loads(render_json(report))["recipe"] == "r"


def test_what_a_stage_of_a_plugin_shows_is_in_the_report(tmp_path: Path) -> None:
    made = Build(tmp_path / "store")
    artifact = made.step("base", "model")
    manifest = artifact.manifest.model_copy(update={"stage": "shown", "name": "own"})
    assert open_artifact(artifact.path).manifest.stage == "model"
    step = made.steps[0].__class__("own", "shown", "traces", {}, {"kind": "shown"}, artifact)
    assert manifest.name == "own"
    report = with_plugin(tmp_path, [step], STAGE.format(body="return [Text('so many')]"))
    shown = dict(sections(report))["stages"].blocks[0]
    assert (shown.title, shown.blocks) == ("own", (Text("so many"),))


def test_a_stage_of_a_plugin_that_cannot_show_is_named(tmp_path: Path) -> None:
    made = Build(tmp_path / "store")
    artifact = made.step("base", "model")
    step = made.steps[0].__class__("own", "shown", "traces", {}, {"kind": "shown"}, artifact)
    report = with_plugin(tmp_path, [step], STAGE.format(body="return [1]"))
    (line,) = failures(report)
    assert line.startswith("own: what stage shown of file mine.py shows: ")
    assert line.replace("'", "&#39;") in render_html(report)


def test_a_name_is_taken_once_and_a_place_has_to_be_there(tmp_path: Path) -> None:
    for text, message in (
        (
            SECTION.replace('"mine"', '"cost"'),
            "'cost' of file .* registered already by the factory",
        ),
        (
            SECTION.replace('"training"', '"trainin"'),
            "after: no section 'trainin'; there are answers",
        ),
    ):
        with pytest.raises(PluginError, match=message):
            with_plugin(tmp_path, [], text.format(body="return None"))
    assert list(SECTIONS) == list(BUILT_IN)


def test_a_package_that_cannot_be_imported_is_a_line_in_the_report(
    monkeypatch: pytest.MonkeyPatch, steps: list
) -> None:
    entry = EntryPoint("theirs", "no_such_module:theirs", "model_factory.sections")
    monkeypatch.setattr(
        registry, "entry_points", lambda: {"model_factory.sections": {"theirs": entry}}
    )
    report = build("r", "", steps[:2])
    (line,) = failures(report)
    assert "no_such_module:theirs cannot be imported: ModuleNotFoundError" in line
    assert "no_such_module:theirs cannot be imported" in render_html(report)


def test_hostile_text_of_a_plugin_is_text_on_the_page(tmp_path: Path, steps: list) -> None:
    body = """return Section("<script>alert(1)</script>", (Table(("<b>",), (("<img src=x>",),)),
        Text("\\u202e[x](javascript:y)")))"""
    report = with_plugin(tmp_path, steps[:2], SECTION.format(body=body))
    page, text = render_html(report), render_markdown(report)
    assert page.count("<script") == 1 and "<img" not in page and "<b>" not in page
    assert "\u202e" not in page + text and "\\[x\\](javascript:y)" in text


def test_blocks_refuse_what_they_cannot_show() -> None:
    with pytest.raises(ValueError, match="made by the functions for charts"):
        Figure("x", "<svg onload=alert(1)>")
    with pytest.raises(ValueError, match="a row of 3 cells under 2 columns"):
        Table(("a", "b"), ((Cell("x", span=3),),))


def test_numbers_of_a_table_are_written_short_and_stand_to_the_right() -> None:
    table = Table(("model", "share", "note"), (("a", 0.123456, "x"), ("b", None, 2), ("c", 7, "")))
    assert table.right == {1}
    section = Section("T", (table, Table(("x",), ((float("nan"),), (float("inf"),)))))
    text = markdown("t", "", [section])
    assert "| --- | ---: | --- |" in text and "| a | 0\\.1235 | x |" in text
    assert "| b |  | 2 |" in text and text.count("| not finite |") == 2


def test_sections_stand_where_they_say_whatever_was_registered_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = [row.name for row in in_order(SECTIONS.rows()) if row.name in BUILT_IN]
    assert page == [
        "result", "claims", "flow", "scorecard", "difficulty", "thinking", "contamination",
        "published", "changes", "training", "evolution", "selection", "preferences", "stages",
        "samples", "answers", "cost", "lineage", "recipe", "reading",
    ]  # fmt: skip
    monkeypatch.setattr(SECTIONS, "table", dict(reversed(SECTIONS.table.items())))
    with registering(Origin("file", "mine.py", "00")):
        for name, after in (("a", "training"), ("b", "a"), ("c", "training"), ("d", "")):
            section(name, after=after)(lambda build: None)
    names = [row.name for row in in_order(SECTIONS.rows())]
    assert [name for name in names if name in BUILT_IN] == page
    at = names.index("training")
    assert names[at : at + 5] == ["training", "a", "b", "c", "evolution"]
    assert names[-1] == "d"
