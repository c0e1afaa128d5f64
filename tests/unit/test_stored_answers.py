"""Stored responses with their form, and our verdicts beside those of other graders."""

import json

from factory.evaluation import stored
from factory.evaluation.stored import compare_stored
from factory.grading.rows import grade_file
from factory.ui.audits import show_comparison
from factory.ui.console import Console


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def graded(tmp_path, rows, **settings):
    source, out = written(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    grade_file(source, out, on_broken=print, **settings)
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def row(name, response, **more):
    return {"id": name, "kind": "math", "reference": "42", "response": response, **more}


OPENED = "<think>\nSix times seven.\n</think>\n\nIt is \\boxed{42}."
UNOPENED = "Six times seven.\n</think>\n\n**Answer:** \\boxed{42}"


def test_outputs_of_r1_and_qwen3_are_graded_as_they_are(tmp_path):
    rows = [
        row("qwen3", OPENED, form="r1"),
        row("r1", UNOPENED, form="r1"),
        row("prefilled", UNOPENED, form="r1", prefill="<think>\n"),
        row("own", UNOPENED, form={"opening": "<think>", "closing": "</think>"}, prefill="<think>"),
        row("empty thoughts", "<think>\n\n</think>\n\n\\boxed{42}", form="r1"),
        row("cut", "<think>\nSix", form="r1", finish_reason="length"),
        row("wrong", OPENED.replace("{42}", "{41}"), form="r1"),
        row("tags", OPENED),
    ]
    result = graded(tmp_path, rows)
    assert [item["outcome"] for item in result] == [
        "correct", "correct", "correct", "correct", "correct", "truncated", "wrong", "no_answer",
    ]  # fmt: skip
    assert result[-1]["lenient"] == "correct"
    assert result[-2]["lenient"] == "wrong"


def test_a_form_for_a_whole_file_holds_for_rows_without_one(tmp_path):
    tags = "<think> a </think> <answer> 42 </answer>"
    assert graded(tmp_path, [row("a", UNOPENED)], form="r1")[0]["outcome"] == "correct"
    assert graded(tmp_path, [row("a", tags)])[0]["outcome"] == "correct"


def accepting(monkeypatch, **accepts):
    monkeypatch.setattr(stored, "OTHERS", ("theirs",))
    monkeypatch.setattr(stored, "our_accepts", lambda cases: accepts["ours"])
    monkeypatch.setattr(stored, "baseline_accepts", lambda name, cases: accepts["theirs"])


def test_errors_count_over_what_graders_agree_on_and_what_a_person_decided(tmp_path, monkeypatch):
    rows = [{"id": n, "reference": "1", "answer": n} for n in ("a", "b", "c", "d", "e")]
    accepting(
        monkeypatch, ours=[True, False, True, True, False], theirs=[True, False, False, False, True]
    )
    path = written(tmp_path / "answers.jsonl", rows)
    open_comparison = compare_stored(path)
    assert [item.id for item in open_comparison.disagreements] == ["c", "d", "e"]
    assert open_comparison.undecided == 3
    assert [(r.false_accepts, r.should_reject) for r in open_comparison.rows] == [(0, 1), (0, 1)]
    decisions = [{"id": "c", "right": True}, {"id": "d", "right": False, "note": "rounded"}]
    comparison = compare_stored(path, written(tmp_path / "decided.jsonl", decisions))
    assert comparison.undecided == 1
    ours, theirs = comparison.rows
    assert (ours.false_accepts, ours.should_reject) == (1, 2)
    assert (ours.false_rejects, ours.should_accept) == (0, 2)
    assert (theirs.false_rejects, theirs.should_accept) == (1, 2)


def test_the_comparison_is_whole_at_80_columns(tmp_path, monkeypatch):
    rows = [{"id": "x" * 90, "reference": "1", "answer": "y" * 120}]
    accepting(monkeypatch, ours=[True], theirs=[False])
    comparison = compare_stored(written(tmp_path / "answers.jsonl", rows))
    with (tmp_path / "screen").open("w", encoding="utf-8") as screen:
        show_comparison(comparison, Console(width=80, file=screen))
    text = (tmp_path / "screen").read_text(encoding="utf-8")
    assert "\u2026" not in text
    assert "".join(text.split()).count("y" * 120) == 1
