"""The report's tables of preferences: every number that a stage found, hostile names escaped."""

import pytest
from report_example import Build

from factory.report.build import Build as Report
from factory.report.build import build
from factory.report.render import render_html, render_markdown
from factory.report.section import SECTIONS

FOUND = {
    "rows": 60.0, "held_out": 20.0, "held_out_accuracy": 0.85, "held_out_low": 0.64,
    "held_out_high": 0.948, "baseline": 0.55, "length_correlation": -0.123,
}  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    steps = Build(tmp_path_factory.mktemp("store"))
    steps.step("base", "model")
    steps.step(
        "preferred", "pairs", config={"source": {"type": "judged", "judge": "base"}},
        metrics={
            "pairs": 60, "dropped.margin": 30, "dropped.unreadable": 4, "votes": 376,
            "unreadable_votes": 17, "first_place": 0.25, "length_gap": 0.08,
            "length_gap_before": 0.31,
        },
    )  # fmt: skip
    steps.step(
        "guarded", "labels", config={"source": {"type": "local", "path": "a/<b>given.jsonl"}},
        metrics={"labels": 80, "safe_share": 0.5},
    )  # fmt: skip
    steps.step("likes", "reward_model", {"model": "base", "pairs": "preferred"}, metrics=FOUND)
    steps.step(
        "aligned", "grpo", {"model": "base", "rewards.1.model": "likes"},
        metrics={"stopped_step": 41, "weights_step": 20},
    )  # fmt: skip
    return build("example", "", steps.steps)


def table(report: Report, index: int) -> list[list[str]]:
    """A table of the section: that of the data, or that of the models."""
    section = SECTIONS["preferences"].function(report)
    assert section is not None
    return [list(row) for row in section.blocks[1 + index].rows]


def test_every_number_of_the_data_is_told(report: Report) -> None:
    assert table(report, 0) == [
        ["preferred", "judged by base", "60 pairs", "30 margin, 4 unreadable",
         "376 votes, 17 unreadable, first place +0.25",
         "chosen +8.0 % longer (+31.0 % before balancing)"],
        ["guarded", "<b>given.jsonl", "80 labels", "none", "not judged here", "50.0 % safe"],
    ]  # fmt: skip


def test_a_reward_model_stands_beside_a_blind_guess_and_with_its_interval(report: Report) -> None:
    assert table(report, 1) == [
        ["likes", "60 pairs of preferred", "85.0 % [64.0, 94.8], n = 20", "55.0 %", "r = -0.12"]
    ]


def test_a_run_that_an_alarm_ended_says_so_everywhere(report: Report) -> None:
    section = SECTIONS["evolution"].function(report)
    assert section is not None
    message = section.blocks[1].text
    assert "aligned was ended after step 41" in message and "those of step 20" in message
    page, text = render_html(report), render_markdown(report)
    assert message in page and "ended after step 41" in text
    assert "<b>given" not in page and "&lt;b&gt;given" in page
    assert "85.0 % [64.0, 94.8], n = 20" in page
    # All five stages have a box in the flow; the reward model stands in the lane of models.
    assert page.count('class="box ') == 5 and text.count(":::model") == 3
