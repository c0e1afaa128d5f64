"""The page's browser of answers: which answers it holds, what it may not show, how it is packed."""

import base64
import json
import zlib
from pathlib import Path

import pytest
from report_example import HOSTILE, Build, jsonl, trace

from factory.core.readable import abridged
from factory.core.records import OUTCOMES, EvalSample, Problem, SamplingConfig, Score, Verdict
from factory.evaluation.asked import is_protected
from factory.report.build import Build as Report
from factory.report.build import build
from factory.report.render import render_html, render_json, render_markdown
from factory.report.sections import answers as section
from factory.report.sections.answers import browser, packed
from factory.report.sections.samples import stories

LETTERS = {"c": "correct", "w": "wrong", "n": "no_answer", "t": "truncated"}


def answers(benchmark: str, outcomes: str, *, k: int = 1, say: str = "", first: int = 0) -> tuple:
    """(score, samples) of one benchmark: a letter a sample, k a problem."""
    samples = [
        EvalSample(
            benchmark=benchmark,
            mode="sampled",
            trace=trace(first + position // k, position % k, LETTERS[letter], say=say),
            lenient=Verdict(outcome="wrong", answer="7", explanation=""),
        )
        for position, letter in enumerate(outcomes)
    ]
    score = Score(
        benchmark=benchmark, version="1", metric="pass@1", value=0.5, low=0.0, high=1.0,
        n=len(outcomes) // k, k=k, outcomes=dict.fromkeys(OUTCOMES, 0),
        sampling=SamplingConfig(), prompt_style="chat",
    )  # fmt: skip
    return score, samples


def report_of(root: Path, *benchmarks: tuple, config: list[dict] | None = None) -> Report:
    """One model, evaluated on these."""
    made = Build(root)
    made.step("base", "model")
    problems = [
        Problem(
            id=f"sums-{i:04d}", prompt=f"Compute {i} + 7 - 2", reference=f"gold {i}",
            kind="math", source="sums",
        )
        for i in range(3)
    ]  # fmt: skip
    made.step("sums", "problems", files={"held_out.jsonl": jsonl(problems)})
    files = {
        "scores.jsonl": jsonl([score for score, _ in benchmarks]),
        "samples.jsonl": jsonl([sample for _, samples in benchmarks for sample in samples]),
    }
    made.step(
        "eval_base", "evaluate", {"model": "base", "benchmarks.0.problems": "sums"},
        config={"benchmarks": config or []}, files=files,
    )  # fmt: skip
    return build("r", "", made.steps)


def unpacked(text: str):
    return json.loads(zlib.decompress(base64.b64decode(text)))


def test_problems_are_taken_in_turn_and_whole_until_one_does_not_fit(tmp_path, monkeypatch):
    # Two samples a problem. In turn: a0 b0 a1 b1 a2; the fifth would be answers 9 and 10 of 9.
    monkeypatch.setattr(section, "MOST_ANSWERS", 9)
    report = report_of(tmp_path, answers("a", "cwcwcw", k=2), answers("b", "cwcw", k=2))
    assert [(p.benchmark, p.problem_id) for p in browser(report).problems] == [
        ("a", "sums-0000"), ("a", "sums-0001"), ("b", "sums-0000"), ("b", "sums-0001"),
    ]  # fmt: skip
    assert (browser(report).shown, browser(report).left_out) == (8, 2)
    for text in (render_html(report), render_markdown(report)):
        assert "8 of 10 answers, all written by models. Problems are taken from the" in text


def test_texts_have_a_budget_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(section, "MOST_CHARACTERS", 1)
    report = report_of(tmp_path, answers("a", "cwc"))
    assert (browser(report).shown, browser(report).left_out) == (1, 2)


def test_a_build_that_fits_leaves_nothing_out(tmp_path):
    report = report_of(tmp_path, answers("a", "cwnt"))
    assert (browser(report).shown, browser(report).left_out) == (4, 0)
    assert "left out" not in render_markdown(report)


@pytest.mark.parametrize(
    ("names", "source", "licence", "expected"),
    [
        (["gpqa_25"], "", "", True),
        (["science", "Idavidrein/GPQA_diamond"], "", "", True),
        (["science"], "gpqa_25", "", True),
        (["science"], "exams", "MIT; not to be reprinted", True),
        (["science", "sums-0001"], "sums", "MIT", False),
    ],
)
def test_a_benchmark_is_protected_by_any_name_source_or_licence(names, source, licence, expected):
    problem = Problem(
        id="q", prompt="?", reference="A", kind="choice", source=source, licence=licence
    )
    assert is_protected(names, [problem]) is expected


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("gpqa_25", []),
        ("science", [{"name": "science", "task": "gpqa_diamond_cot_zeroshot"}]),
        ("science", [{"name": "science", "task": "gpqa_25"}]),
    ],
)
def test_no_text_of_a_protected_benchmark_is_in_any_report(tmp_path, name, config):
    report = report_of(tmp_path, answers(name, "cwc", say="its answer"), config=config)
    assert browser(report).problems == () and browser(report).protected == {name: 3}
    assert stories(report) == []
    page = render_html(report)
    for text in (page, render_markdown(report), render_json(report)):
        assert "Compute" not in text and "its answer" not in text
    assert f"3 answers to {name} are not shown: its authors ask not to reprint" in page
    assert page.count("<script") == 1  # that of the contents; none has answers


def test_a_protected_benchmark_does_not_hide_the_others(tmp_path):
    report = report_of(tmp_path, answers("gpqa_25", "cw"), answers("sums", "cwc"))
    assert {p.benchmark for p in browser(report).problems} == {"sums"}
    assert (browser(report).shown, browser(report).protected) == (3, {"gpqa_25": 2})


def test_references_come_from_the_problems_that_were_asked(tmp_path):
    config = [{"name": "sums", "problems": "sums"}, {"name": "arc", "task": "arc_easy"}]
    report = report_of(tmp_path, answers("sums", "cwcw"), answers("arc", "c"), config=config)
    results = [(p.benchmark, p.reference) for p in browser(report).problems]
    # The fourth problem is not among the artifact's three; lm-eval brings arc's itself.
    assert results == [
        ("sums", "gold 0"), ("sums", "gold 1"), ("sums", "gold 2"), ("sums", None), ("arc", None),
    ]  # fmt: skip


def test_the_packed_answers_unpack_to_themselves_block_by_block(tmp_path, monkeypatch):
    monkeypatch.setattr(section, "BLOCK", 200)
    report = report_of(tmp_path, answers("a", "cwntcw", k=2), answers("b", "cw"))
    index_text, blocks = packed(browser(report))
    index = unpacked(index_text)
    assert index["ids"] == [p.problem_id for p in browser(report).problems]
    assert index["problem"] == [0, 0, 1, 1, 2, 2, 3, 4]
    assert [OUTCOMES[code] for code in index["outcome"]] == [
        "correct", "wrong", "no_answer", "truncated", "correct", "wrong", "correct", "wrong",
    ]  # fmt: skip
    assert index["sample"] == [0, 1, 0, 1, 0, 1, 0, 0]
    assert len(blocks) == len(index["blocks"]) > 1
    problems = [problem for block in blocks for problem in unpacked(block)]
    for problem, (question, reference, texts) in zip(
        browser(report).problems, problems, strict=True
    ):
        assert (question, reference) == (problem.question, problem.reference)
        assert texts == [
            [a.reasoning, a.answer, a.completion, a.explanation, a.lenient_answer]
            for a in problem.answers
        ]


def test_packed_text_hides_nothing_and_packs_the_same_each_time(tmp_path):
    report = report_of(tmp_path, answers("a", "cwn", say=HOSTILE))
    first = packed(browser(report))
    assert first == packed(browser(report))
    text = json.dumps([unpacked(block) for block in first[1]], ensure_ascii=False)
    assert "⟨U+202E⟩" in text and "⟨U+200B⟩" in text
    assert not set(text) & set("\u202e\u202c\u200b\x07")
    page = render_html(report)
    assert page.count("<script>") == 2
    assert page.count("<script type=") == 1 + len(first[1])


def test_the_json_counts_the_answers_and_does_not_repeat_them(tmp_path):
    report = report_of(tmp_path, answers("a", "cwcwcwcwcw"))
    message = json.loads(render_json(report))["sections"]["answers"][0]
    assert message == {"shown": 10, "left_out": 0, "protected": {}}


def test_a_long_text_keeps_its_beginning_and_its_end():
    # 12 of 100 characters: 9 from the start, 3 from the end, 88 left out.
    text = "abcdefghi" + "x" * 88 + "end"
    assert abridged(text, 12) == "abcdefghi\n[88 characters are left out here]\nend"
    assert abridged(text, 100) == text
