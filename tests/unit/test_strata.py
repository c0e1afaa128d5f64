"""Scores by difficulty: how a benchmark is cut, and what is counted in each part."""

from pathlib import Path

import pytest
from report_example import Build, jsonl
from test_report_browser import answers

from factory.core.records import EvalSample, Problem
from factory.evaluation.strata import difficulty, strata
from factory.report.build import Build as Report
from factory.report.build import build
from factory.report.render import render_html, render_markdown
from factory.report.sections.difficulty import all_strata


def problem(number: int, *, source: str = "exams", **data) -> Problem:
    return Problem(
        id=f"sums-{number:04d}", prompt="?", reference="1", kind="math", source=source, data=data
    )


def gym(number: int, **settings: int) -> Problem:
    """As reasoning-gym's entries say it: a setting's range in `difficulty`, its value beside."""
    ranges = {name: {"$tuple": [1, 3]} for name in settings}
    metadata = {**settings, "difficulty": {**ranges, "unsaid": 1}}
    return problem(number, source="reasoning_gym/chain_sum", entry={"metadata": metadata})


def by_problem(outcomes: str, *, k: int = 1) -> dict[str, list[EvalSample]]:
    results: dict[str, list[EvalSample]] = {}
    for sample in answers("sums", outcomes, k=k)[1]:
        results.setdefault(sample.trace.problem_id, []).append(sample)
    return results


def test_levels_are_read_in_both_spellings_and_missing_ones_are_a_part_of_their_own():
    result = difficulty([problem(0, level=5), problem(1, level="Level 5"), problem(2, level=1),
                        problem(3)])  # fmt: skip
    assert result == {
        "sums-0000": "level 5", "sums-0001": "level 5", "sums-0002": "level 1",
        "sums-0003": "not stated",
    }  # fmt: skip


def test_a_family_is_cut_by_the_first_setting_that_differs():
    result = difficulty([gym(0, num_digits=1, num_terms=2), gym(1, num_digits=1, num_terms=3)])
    assert result == {"sums-0000": "num_terms 2", "sums-0001": "num_terms 3"}


def test_a_mixture_is_cut_by_source():
    result = difficulty([problem(0, source="world/add"), problem(1, source="world/ops")])
    assert result == {"sums-0000": "world/add", "sums-0001": "world/ops"}


@pytest.mark.parametrize(
    "problems",
    [[], [problem(0), problem(1)], [problem(0, level=3)], [problem(i, level=i) for i in range(13)]],
)
def test_one_part_or_more_than_twelve_are_no_cut(problems):
    assert difficulty(problems) is None


def test_parts_are_in_the_order_of_their_numbers_and_the_unstated_last():
    parts = {"sums-0000": "not stated", "sums-0001": "level 10", "sums-0002": "level 9"}
    result = strata(by_problem("ccc"), parts)
    assert [item.name for item in result] == ["level 9", "level 10", "not stated"]


def test_a_parts_score_is_over_its_problems_and_cut_off_answers_are_counted_as_such():
    # Two samples a problem. Level 1: cc, cw -> (1 + 1/2) / 2. Level 2: tn, cw -> (0 + 1/2) / 2.
    parts = {f"sums-{i:04d}": f"level {1 + i // 2}" for i in range(4)}
    first, two = strata(by_problem("cccwtncw", k=2), parts)
    assert (first.score.n, first.score.value) == (2, 0.75)
    assert (two.score.n, two.score.value) == (2, 0.25)
    assert two.score.low < 0.25 < two.score.high
    assert {name: n for name, n in two.outcomes.items() if n} == {
        "correct": 1, "wrong": 1, "no_answer": 1, "truncated": 1,
    }  # fmt: skip


def report_of(root: Path) -> Report:
    made = Build(root)
    made.step("base", "model")
    held_out = jsonl([problem(i, level=1 + i // 2) for i in range(4)])
    made.step("sums", "problems", files={"held_out.jsonl": held_out})
    score, samples = answers("sums", "cccwtncw", k=2)
    made.step(
        "eval_base", "evaluate", {"model": "base", "benchmarks.0.problems": "sums"},
        config={"benchmarks": [{"name": "sums", "problems": "sums"}]},
        files={"scores.jsonl": jsonl([score]), "samples.jsonl": jsonl(samples)},
    )  # fmt: skip
    return build("r", "", made.steps)


def test_the_report_shows_the_parts_in_every_form(tmp_path):
    report = report_of(tmp_path)
    assert [part.name for part in all_strata(report)[0].parts] == ["level 1", "level 2"]
    page, text = render_html(report), render_markdown(report)
    assert "<title>level 2: truncated 1 of 4</title>" in page
    assert 'sums <span class="dim">by level</span>' in page
    row = "| base | sampled | level 2 | 2 | 25\\.0 % |"
    assert row in text
    assert "1 correct, 1 wrong, 1 no answer, 1 cut off" in text


def test_a_benchmark_whose_problems_are_not_here_has_no_parts(tmp_path):
    made = Build(tmp_path)
    made.step("base", "model")
    score, samples = answers("arc", "cw")
    files = {"scores.jsonl": jsonl([score]), "samples.jsonl": jsonl(samples)}
    made.step("eval_base", "evaluate", {"model": "base"}, files=files)
    report = build("r", "", made.steps)
    assert all_strata(report) == [] and "By difficulty" not in render_html(report)
