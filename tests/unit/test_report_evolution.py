"""The self-evolution part of the report: which plots, their numbers, and what is told by rule."""

import json
import re
from xml.etree import ElementTree

import pytest
from report_example import Build, grpo_rows, jsonl, r1_build, trace, watch_rows

from factory.report.build import Build as Report
from factory.report.build import build
from factory.report.render import render_html, render_markdown
from factory.report.sections.evolution import FIRST, MOST, evolution_figures, evolutions

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Report:
    return build("r", "", r1_build(tmp_path_factory.mktemp("build"), problems=12))


def rl_report(root, rollouts, *, config=None, rows=None, watch=None, names=("rl",)) -> Report:
    made = Build(root)
    made.step("base", "model")
    files = {
        "telemetry.jsonl": jsonl(rows or grpo_rows(24, seed=1, start=0.1, end=0.6)),
        "rollouts.jsonl": jsonl(rollouts),
    }
    if watch:
        files["watch.jsonl"] = jsonl(watch)
    for name in names:
        made.step(name, "grpo", {"model": "base"}, config=config or {}, files=files)
    return build("r", "", made.steps)


def kept(step: int, problem: int, outcome: str, say: str = "") -> dict:
    return {
        "step": step,
        "trace": json.loads(trace(problem, 0, outcome, say=say).model_dump_json()),
    }


def test_a_watched_run_has_the_papers_six_plots_with_their_last_values(report):
    evolution = next(item for item in evolutions(report) if item.stage == "zero")
    made = {panel.title: panel for panel in evolution_figures(report, evolution)}
    assert list(made) == [
        "Held-out accuracy, 40 problems x 4",
        "Response length, tokens; limit 64 from step 20",
        "Reflective words a response",
        "Held-out accuracy by difficulty or source",
        "Words in another language",
        "Held-out accuracy over reward; the dot is the end",
    ]
    # zero ends at 0.38 of 40 problems: 15 solved.
    assert made["Held-out accuracy, 40 problems x 4"].keys == (
        ("s0", "pass@1", "37.5 %"),
        ("s1", "cons@4", "37.5 %"),
    )
    # Of 15 solved ones 8 lie at even places (level 1) and 7 at odd ones, of 20 each.
    by_level = made["Held-out accuracy by difficulty or source"]
    assert by_level.keys == (
        ("s0", "level 1 (n = 20)", "40.0 %"),
        ("s1", "level 5 (n = 20)", "35.0 %"),
    )
    reading = [key[1] for key in made["Reflective words a response"].keys]
    assert reading == ["ten words", "wait"]


def test_a_jump_of_the_limit_stands_at_its_step(report):
    evolution = next(item for item in evolutions(report) if item.stage == "zero")
    assert evolution.jumps == ((20, 64),)
    panel = evolution_figures(report, evolution)[1]
    marks = [
        mark.get("x1")
        for mark in ElementTree.fromstring(panel.picture).iter(f"{SVG}line")
        if mark.get("class") == "zero"
    ]
    # Steps 1 to 47 lie between 46 and 258: 46 + 212 * 19 / 46.
    assert marks == ["133.6"]


def test_runs_from_one_start_share_the_plot_of_languages(tmp_path):
    result = rl_report(tmp_path, [kept(1, 3, "wrong")], names=("with", "without"))
    first, second = evolutions(result)
    second = second.model_copy(update={"language_weight": 0.5})
    result.results[evolutions.__wrapped__] = [first, second]
    panel = next(
        panel
        for panel in evolution_figures(result, first)
        if panel.title == "Words in another language"
    )
    assert [key[1] for key in panel.keys] == ["with (not rewarded)", "without (rewarded)"]


def test_the_first_and_the_most_telling_doubt_are_told_with_their_steps(tmp_path):
    rollouts = [
        kept(1, 3, "no_answer"),  # it reasons nothing
        kept(5, 4, "wrong"),
        kept(9, 5, "wrong", say="Wait, 1. Wait, 2. Wait, 3."),
        kept(13, 6, "correct", say="Hold on, 6 + 7 = 13."),
        kept(17, 7, "correct"),
    ]
    (evolution,) = evolutions(rl_report(tmp_path, rollouts))
    assert [(message.rule, message.step, message.redone) for message in evolution.telling] == [
        (FIRST, 5, 1),
        # That of step 9 does more again, but ends wrong.
        (MOST, 13, 2),
    ]
    assert "Wait, let me check. 11 - 2 = 13." in evolution.telling[0].passage


def test_an_alarm_and_shorter_responses_are_told_on_the_page_and_in_markdown(tmp_path):
    rows = grpo_rows(40, seed=1, start=0.1, end=0.9)
    for row in rows:
        row["reward"] = 0.01 * row["step"]
        row["completion_length"] = 200.0 if row["step"] <= 20 else 50.0
        row["truncated_share"] = 0.4 if row["step"] <= 20 else 0.0
    watch = watch_rows(40, start=0.9, end=0.2)
    result = rl_report(tmp_path, [kept(1, 3, "wrong")], rows=rows, watch=watch)
    (evolution,) = evolutions(result)
    assert evolution.alarm is not None
    assert (evolution.alarm.step, evolution.alarm.best_step) == (30, 0)
    for text in (render_html(result), render_markdown(result)):
        text = text.replace("\xa0", " ")
        assert "ALARM at step 30: since step 0 the reward rose" in text
        assert re.search(r"the limit: 40 % of responses at their longest, 0 % now", text)
        assert re.search(r"Responses got shorter: 200 tokens up to step \d+, 50 at the end\.", text)


def test_a_run_without_a_watch_shows_what_it_has_and_claims_no_quiet(tmp_path):
    result = rl_report(tmp_path, [kept(1, 3, "no_answer")])
    (evolution,) = evolutions(result)
    titles = [panel.title for panel in evolution_figures(result, evolution)]
    assert titles == [
        "Response length, tokens", "Reflective words a response", "Words in another language",
    ]  # fmt: skip
    assert evolution.telling == ()
    assert "No alarm" not in render_html(result)
