"""Contamination beside each score: what counts as trained on, what overlaps, what is left."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from report_example import Build, jsonl, trace
from resealing import resealed
from test_report_browser import answers

from factory.core.records import Problem
from factory.evaluation.contamination import index_of, merged, overlaps
from factory.report.build import Build as Report
from factory.report.build import build
from factory.report.lineage import index, teachers, weight_ancestors
from factory.report.records import Report as Facts
from factory.report.records import Step
from factory.report.render import render_html, render_json, render_markdown, report_of
from factory.report.sections import contamination
from factory.report.sections.contamination import Contamination, contaminations, trained_on

FROG = "A frog climbs three metres each day and slides back two metres each night"
"""14 words."""
BOATS = "Seven boats carry eleven crates each and every crate holds four lamps"
"""12 words."""
QUESTIONS = {
    "same": "What is 3 + 4?",
    "run": f"{FROG}. How deep is the well?",
    "text": f"{BOATS}. How many lamps?",
    "free": "How many primes are below one hundred?",
}


def rules(texts: list[tuple[str, str]]) -> dict[str, str]:
    _, result = overlaps(index_of(QUESTIONS), texts, "traces")
    return {name: single.rule for name, single in result.items()}


def test_each_rule_finds_its_overlap_and_a_paraphrase_is_missed():
    texts = [
        ("what is  3 + 4?", ""),  # case and white space aside the same
        # Eight words of it: "climbs three metres each day and slides back".
        ("A snail climbs three metres each day and slides back one. When is it out?", ""),
        # Thirteen words in a row inside an answer: those twelve, and "how".
        ("Boats?", f"Well: {BOATS}, how"),
        ("Count the prime numbers smaller than 100.", "There are 25."),
    ]
    assert rules(texts) == {"same": "same question", "run": "8 words", "text": "13 words"}


def test_seven_words_of_a_question_and_twelve_of_a_text_are_not_enough():
    texts = [
        ("A snail climbs three metres each day and slides up. When is it out?", ""),
        ("Boats?", f"Well: {BOATS}"),
    ]
    assert rules(texts) == {}


def test_numbers_are_masked():
    texts = [("A frog climbs 5 metres each day and slides 1", "")]
    questions = {"q": "A frog climbs 3 metres each day and slides 2 metres. When?"}
    assert overlaps(index_of(questions), texts, "t")[1]["q"].rule == "8 words, numbers masked"


def test_one_text_may_overlap_with_several_problems_but_a_common_phrase_is_none():
    two = {name: f"{FROG} {name}" for name in ("a", "b")}
    assert set(overlaps(index_of(two), [(FROG, "")], "t")[1]) == {"a", "b"}
    three = {name: f"{FROG} {name}" for name in ("a", "b", "c")}
    assert overlaps(index_of(three), [(FROG, "")], "t")[1] == {}


def test_the_same_question_counts_before_shared_words_in_whatever_order():
    near, same = (f"{FROG}!", ""), (QUESTIONS["run"], "")
    assert rules([near]) == {"run": "8 words"}
    for texts in ([near, same], [same, near]):
        assert rules(texts) == {"run": "same question"}
    parts = [overlaps(index_of(QUESTIONS), [text], text[0][:5])[1] for text in (near, same)]
    assert merged(parts)["run"].rule == merged(parts[::-1])["run"].rule == "same question"


def lineage(root: Path, *, base: str = "local") -> list[Step]:
    """base; rl from it on questions 0 and 1; a teacher from rl on a trace of question 2; a student
    of base on a trace of question 3. Each is asked questions 0 to 3, and gets 0 and 2 right."""
    made = Build(root)
    made.step("base", "model", config={"source": {"type": base}})
    problems = [
        Problem(id=f"p{i}", prompt=f"Compute {i} + 7 - 2", reference="", kind="math", source=source)
        for i, source in ((0, "a"), (1, "b"))
    ]
    made.step("sums", "problems", files={"train.jsonl": jsonl(problems)})
    inputs = {"model": "base", "problems": "sums", "watch.problems": "held"}
    made.step("held", "problems", files={"train.jsonl": jsonl(problems[:1])})
    made.step("rl", "grpo", inputs, config={"sources": []})
    for name, number in (("first", 2), ("second", 3)):
        writer = {"model": "rl" if name == "first" else "teacher", "problems": "sums"}
        rows = jsonl([trace(number, 0, "correct")])
        made.step(name, "generate", writer, files={"traces.jsonl": rows})
    made.step("teacher", "sft", {"model": "rl", "traces": "first"})
    made.step("student", "sft", {"model": "base", "traces": "second"})
    score, samples = answers("sums_held", "cwcw")
    files = {"scores.jsonl": jsonl([score]), "samples.jsonl": jsonl(samples)}
    for model in ("base", "rl", "teacher", "student"):
        made.step(f"eval_{model}", "evaluate", {"model": model}, files=files)
    return made.steps


def rows(report: Report) -> Mapping[str, Contamination]:
    return {item.label: item for item in contaminations(report)}


@pytest.fixture(scope="module")
def steps(tmp_path_factory) -> list[Step]:
    return lineage(tmp_path_factory.mktemp("lineage"))


@pytest.fixture(scope="module")
def report(steps) -> Report:
    return build("r", "", steps)


def test_trained_on_is_what_the_weights_and_their_ancestors_read(report):
    results = {
        label: (single.stages, single.texts, [hit.problem for hit in single.overlaps])
        for label, single in rows(report).items()
    }
    assert results == {
        "base": ((), 0, []),
        "rl": (("sums",), 2, ["sums-0000", "sums-0001"]),
        "teacher": (("first", "sums"), 3, ["sums-0000", "sums-0001", "sums-0002"]),
        # Not what its teacher was trained on: only the trace itself.
        "student": (("second",), 1, ["sums-0003"]),
    }


def test_the_clean_score_is_that_of_the_problems_without_overlap(report):
    clean = {label: single.scores[0].clean for label, single in rows(report).items()}
    # Right on 0 and 2. Left are 2 and 3: 1 of 2; 3 alone: 0 of 1; 0 to 2: 2 of 3.
    assert {label: (single.n, single.value) for label, single in clean.items()} == {
        "base": (4, 0.5), "rl": (2, 0.5), "teacher": (1, 0.0), "student": (3, pytest.approx(2 / 3)),
    }  # fmt: skip
    # Wilson's interval of 2 in 3.
    assert (clean["student"].low, clean["student"].high) == (
        pytest.approx(0.20766, abs=1e-4), pytest.approx(0.93851, abs=1e-4),
    )  # fmt: skip


def test_every_form_of_the_report_joins_it_to_the_score(report):
    for text in (render_html(report), render_markdown(report)):
        assert "none trained on" in text and "3 texts of first and sums" in text
        assert "a paraphrase is missed" in text
        assert "what base was pre-trained on" in text
        message = text.replace("sums\\_held", "sums_held")
        assert "teacher was trained on 3 of 4 questions of sums_held as they are" in message
    scores = [line for line in render_markdown(report).splitlines() if "| student, sft, " in line]
    assert scores[0].endswith("| 66\\.7 % \\[20.8, 93.9\\], 3 of 4 problems | 4 x 1 |")


def test_where_every_problem_overlaps_no_clean_score_is_made_up(tmp_path):
    steps = lineage(tmp_path)
    problems = [trace(i, 0, "correct") for i in range(4)]
    second = next(step for step in steps if step.name == "second")
    (second.artifact.path / "traces.jsonl").write_text(jsonl(problems), encoding="utf-8")
    changed = replace(second, artifact=resealed(second.artifact))
    report = build("r", "", [changed if step is second else step for step in steps])
    assert rows(report)["student"].scores[0].clean is None
    assert "no problem left" in render_markdown(report)


def test_what_cannot_be_looked_at_is_named(steps, monkeypatch):
    without = [replace(step, artifact=None) if step.name == "second" else step for step in steps]
    student = rows(build("r", "", without))["student"]
    assert student.unknown == (
        "what base was pre-trained on", "the texts of second, which are not here",
    )[::-1]  # fmt: skip
    monkeypatch.setattr(contamination, "MOST_BYTES", 10)
    (message, _) = rows(build("r", "", steps))["student"].unknown
    assert (
        message.startswith("the texts of second: ") and "10 B" in message and "`unlike`" in message
    )


def test_random_weights_were_trained_on_nothing(tmp_path):
    assert trained_on("base", index(lineage(tmp_path, base="tiny"))) == ([], [])


def test_a_teacher_that_taught_by_its_distribution_is_named_and_counts_as_a_teacher(steps):
    made = Build(Path())
    inputs = {"model": "student", "teacher": "teacher", "problems": "sums"}
    made.step("on_policy", "distill", inputs, is_made=False)
    by_name = index([*steps, *made.steps])
    trained, unknown = trained_on("on_policy", by_name)
    assert [item.stage for item in trained] == ["sums", "second"]
    assert "what teacher was trained on, whose distribution on_policy learned" in unknown
    # The teacher's weights are not the student's, and those of the base are.
    assert teachers("on_policy", by_name) == ["teacher"]
    assert weight_ancestors("on_policy", by_name) == ["student", "base"]
    del by_name["teacher"]
    assert teachers("on_policy", by_name) == []


def test_an_rl_stage_is_trained_on_the_sources_that_it_chose(tmp_path):
    steps = lineage(tmp_path)
    chosen = [
        replace(step, config={**step.config, "sources": ["b"]}) if step.name == "rl" else step
        for step in steps
    ]
    assert [hit.problem for hit in rows(build("r", "", chosen))["rl"].overlaps] == ["sums-0001"]


def test_the_json_names_problem_rule_and_stage_and_repeats_no_question(report):
    text = render_json(report)
    hit = rows(report)["student"].overlaps[0]
    assert hit.model_dump() == {
        "problem": "sums-0003", "rule": "same question", "stage": "second",
    }  # fmt: skip
    assert Facts.model_validate_json(text).sections == report_of(report).sections
