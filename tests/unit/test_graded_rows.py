"""`factory grade`: every row of a file graded, broken ones named, and nothing stopped by them."""

import io
import json
from pathlib import Path

import pytest
from namespaces import needs_namespaces
from typer.testing import CliRunner

from factory.cli import app
from factory.grading import GradingPool
from factory.grading.rows import ResponseRow, fenced, grade_rows
from factory.text.chat import completion_text

SUM = [{"stdin": "1 2", "expected_stdout": "3"}]
ADDS = "print(sum(map(int, input().split())))"
ROWS = [
    {"id": "m1", "kind": "math", "reference": "1/2", "response": completion_text("", "0.5")},
    {"id": "m2", "kind": "math", "reference": "1/2", "response": completion_text("", "0.51")},
    {"id": "e1", "kind": "exact", "reference": "Hue", "response": completion_text("", "hue")},
    {"id": "c1", "kind": "choice", "reference": "B", "response": completion_text("", "(B)")},
    {"id": "p1", "kind": "code", "tests": SUM, "code": ADDS},
    {
        "id": "p2",
        "kind": "code",
        "tests": SUM,
        "response": completion_text("", f"```\n{ADDS}\n```"),
    },
    {"id": "p3", "kind": "code", "tests": SUM, "code": "print(4)"},
    {"id": "n1", "kind": "math", "reference": "1", "response": "just 1"},
]
EXPECTED = ["correct", "wrong", "correct", "correct", "correct", "correct", "wrong", "no_answer"]
BROKEN = [
    ("{", "rows:1", "broken row"),
    ('{"id": "x", "kind": "maths", "reference": "1", "response": ""}', "x", "kind"),
    ('{"id": "x", "kind": "math", "reference": "1"}', "x", "give either response or code"),
    ('{"id": "x", "kind": "math", "response": "1"}', "x", "needs a reference"),
    ('{"id": "x", "kind": "code", "code": "1"}', "x", "needs tests"),
    ('{"id": "x", "kind": "math", "reference": "1", "code": "1"}', "x", "code is for rows of"),
    ('{"id": 7, "kind": "math", "reference": "1", "response": ""}', "rows:1", "id"),
    ('{"id": "x", "kind": "math", "reference": "1", "response": "", "more": 1}', "x", "more"),
    ("[1]", "rows:1", "broken row"),
]


def graded(text: str):
    with GradingPool(1) as pool:
        return list(grade_rows(io.StringIO(text), "rows", pool))


@needs_namespaces
def test_every_kind_is_graded_in_order() -> None:
    rows = graded("\n".join(map(json.dumps, ROWS)))
    assert [row.id for row in rows] == [row["id"] for row in ROWS]
    assert [row.outcome for row in rows] == EXPECTED


@pytest.mark.parametrize(("line", "name", "says"), BROKEN)
def test_a_broken_row_is_named_and_the_rest_goes_on(line: str, name: str, says: str) -> None:
    rows = graded(f"{line}\n{json.dumps(ROWS[0])}\n")
    assert [row.outcome for row in rows] == ["ungradable", "correct"]
    assert rows[0].id == name
    assert rows[0].explanation.startswith("rows:1: broken row: ")
    assert says in rows[0].explanation


def test_an_id_that_occurred_before_is_broken() -> None:
    rows = graded("\n".join(map(json.dumps, [ROWS[0], ROWS[0]])))
    assert [row.outcome for row in rows] == ["correct", "ungradable"]
    assert "rows:2: broken row: id 'm1' occurred before" in rows[1].explanation


@pytest.mark.parametrize("code", ["print('```')", "x = '''\n````\n'''", "`" * 9])
def test_code_stays_whole_whatever_fences_it_holds(code: str) -> None:
    from factory.grading.code import program_of

    assert program_of(fenced(code)) == code + "\n"


def test_the_command_writes_rows_and_tells_the_broken_ones(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(map(json.dumps, ROWS[:3])) + "\n{\n", encoding="utf-8")
    result = CliRunner().invoke(app, ["grade", str(source), "--out", str(target)])
    assert result.exit_code == 3
    rows = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert [row["outcome"] for row in rows] == [*EXPECTED[:3], "ungradable"]
    keys = {"id", "outcome", "lenient", "extracted", "explanation", "seconds"}
    assert set(rows[0]) == keys
    source.write_text(json.dumps(ROWS[0]) + "\n", encoding="utf-8")
    result = CliRunner().invoke(app, ["grade", str(source), "--out", str(target)])
    assert result.exit_code == 0


def test_the_input_is_not_overwritten(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps(ROWS[0]) + "\n", encoding="utf-8")
    result = CliRunner().invoke(app, ["grade", str(source), "--out", str(source)])
    assert result.exit_code == 2
    assert json.loads(source.read_text(encoding="utf-8")) == ROWS[0]


def test_unsandboxed_is_stamped_on_every_verdict_of_a_program() -> None:
    with GradingPool(1, is_isolated=False) as pool:
        rows = list(grade_rows(io.StringIO(json.dumps(ROWS[4])), "rows", pool))
    assert rows[0].outcome == "correct"
    assert rows[0].explanation.startswith("unsandboxed: ")


def test_a_row_of_code_runs_nothing_but_its_answer() -> None:
    row = ResponseRow.model_validate({"id": "p", "kind": "code", "tests": SUM, "code": ADDS})
    assert row.item.problem.data == {"tests": SUM}


def test_counts_are_one_document_on_standard_output_where_a_file_takes_the_rows(
    tmp_path: Path,
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps(ROWS[0]) + "\n", encoding="utf-8")
    result = CliRunner().invoke(app, ["grade", str(source), "--out", str(target), "--json"])
    assert json.loads(result.stdout) == {"schema": 1, "rows": 1, "correct": 1}
