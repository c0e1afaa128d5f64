"""The first screen: a sentence of few words, by the paired test, and colours one can see."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_example import Build, r1_build
from test_report import tiny_scores, two_checkpoints

from factory.core.readable import MINUS, point_span
from factory.report import document
from factory.report.build import Build as Report
from factory.report.build import build
from factory.report.render import render_html
from factory.report.sections.result import caveats, result
from factory.report.verdict import MOST_WORDS, _fitted, decisive, verdict

STYLE = (document.FOLDER / "report.css").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Report:
    return build("r", "", r1_build(tmp_path_factory.mktemp("verdict")))


def of(root: Path, before: str, after: str, **settings) -> Report:
    return build("r", "", two_checkpoints(root, before, after, **settings))


def test_a_gain_is_told_with_both_scores_and_its_size(tmp_path):
    # 40 problems: 10 right before, 30 after, the 10 among them. 75 - 25 = 50 points.
    report = of(tmp_path, "c" * 10 + "w" * 30, "c" * 30 + "w" * 10)
    made = verdict(report)
    interval = point_span(report.comparisons[0].low, report.comparisons[0].high)
    assert made.sentence == (
        "The last model, tuned, answers 75.0 % of sums correctly, its base 25.0 %: "
        "better by 50.0 points."
    )
    assert made.sureness.startswith(f"+50.0 points, 95 % interval {interval}, on the same 40 p")
    assert made.helped == (f"tuned: +50.0 points {interval} over base",)
    assert made.built == "Built: tuned, by sft from base, in 4 stages."


def test_a_loss_is_told_as_one(tmp_path):
    made = verdict(of(tmp_path, "c" * 30 + "w" * 10, "c" * 10 + "w" * 30))
    assert made.sentence.endswith("its base 75.0 %: worse by 50.0 points.")
    assert made.helped == () and made.unhelped[0].startswith(f"tuned: {MINUS}50.0 points")


def test_what_the_test_does_not_show_is_no_gain(tmp_path):
    # One problem of 40 more: McNemar's p is 1.
    made = verdict(of(tmp_path, "c" * 20 + "w" * 20, "c" * 21 + "w" * 19))
    assert made.sentence.endswith("its base 50.0 %: no change is shown.")
    assert made.helped == ()
    assert made.unhelped == ("No change shown against their start: tuned",)


def test_a_handful_of_problems_is_told_to_be_too_few(tmp_path):
    made = verdict(of(tmp_path, "cwww", "ccww"))
    assert made.sentence.endswith(": 4 problems are too few to tell.")


def test_the_gain_is_over_the_best_of_the_starts(tmp_path):
    # The base answers 5 % with one prompt and 50 % with another: 75 % is 25 points more, not 70.
    made = Build(tmp_path)
    made.step("base", "model")
    made.step("tuned", "sft", {"model": "base"})
    for name, right in (("plain", 2), ("shown", 20)):
        files = tiny_scores("c" * right + "w" * (40 - right))
        made.step(f"eval_{name}", "evaluate", {"model": "base"}, files=files)
    made.step("eval_tuned", "evaluate", {"model": "tuned"}, files=tiny_scores("c" * 30 + "w" * 10))
    report = build("r", "", made.steps)
    assert decisive(report).before == "base (eval_shown)"
    assert verdict(report).sentence.endswith(
        "its start, base (eval_shown), 50.0 %: better by 25.0 points."
    )


def test_a_model_without_a_measured_start_has_no_gain(tmp_path):
    made = Build(tmp_path)
    made.step("base", "model")
    made.step("tuned", "sft", {"model": "base"})
    made.step("eval_tuned", "evaluate", {"model": "tuned"}, files=tiny_scores("cw"))
    assert "no gain is known" in verdict(build("r", "", made.steps)).sentence


def test_a_build_without_evaluations_says_how_far_it_is(tmp_path):
    made = Build(tmp_path)
    made.step("base", "model")
    assert verdict(build("r", "", made.steps)).sentence == (
        "No model is evaluated yet; 1 of 1 stage made."
    )


@given(st.lists(st.text(alphabet="ab (),", min_size=1, max_size=40), min_size=2, max_size=2))
def test_a_verdict_has_few_words_whatever_the_names(names):
    long = f"The student, {names[0]}, answers 1.0 % of sums, its start, {names[1]}, 1.0 %: worse."
    short = "The student answers 1.0 % correctly, its start 1.0 %: worse by 1.0 points."
    assert len(_fitted(long, short).split()) <= MOST_WORDS


def test_the_first_screen_has_verdict_picture_three_points_and_cost(report):
    section = result(report)
    assert len(section.blocks[0].text.split()) <= MOST_WORDS
    kinds = [block.block for block in section.blocks]
    assert kinds == [
        "text", "text", "legend", "figures", "section", "section", "section", "text", "fold",
    ]  # fmt: skip
    titles = [block.title for block in section.blocks if block.block == "section"]
    assert titles == ["What helped", "What did not", "What is unproven"]
    assert all(len(block.blocks[0].items) <= 6 for block in section.blocks[4:7])
    assert "One training run" in section.blocks[6].blocks[0].items[0]
    assert "Cost: " in section.blocks[7].text


def test_many_models_that_were_cut_off_take_one_line(tmp_path):
    made = Build(tmp_path)
    made.step("base", "model")
    for name in ("a", "b", "c"):
        files = tiny_scores("cw")
        files["scores.jsonl"] = files["scores.jsonl"].replace('"truncated":0', '"truncated":3')
        files["scores.jsonl"] = files["scores.jsonl"].replace('"wrong":0', '"wrong":7')
        made.step(f"eval_{name}", "evaluate", {"model": "base"}, files=files)
    assert caveats(build("r", "", made.steps)) == (
        "3 evaluations had more than 10 % of their answers cut off, below",
    )


def test_the_picture_has_both_axes_and_a_mark_of_each_kind(report):
    page = render_html(report)
    picture = page[page.index('class="broad"') :][: page.index('class="slim"')]
    assert "evaluated models, in the order they are made" in picture
    assert re.search(r'class="mark up"', picture) and 'class="mark ring"' in picture
    assert 'class="level"' in picture and ">0 %<" in picture


def colours(scheme: str) -> dict[str, str]:
    """The variables of one scheme: the dark one overrides the light one's."""
    light = re.search(r":root \{(.*?)\}", STYLE, re.DOTALL).group(1)
    dark = re.search(r"dark\) \{\s*:root \{(.*?)\}", STYLE, re.DOTALL).group(1)
    results = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", light))
    return (
        results
        if scheme == "light"
        else {**results, **dict(re.findall(r"--([\w-]+): (#\w{6});", dark))}
    )


def contrast(first: str, second: str) -> float:
    """WCAG 2.2's ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_ratio_of_black_and_white_is_21():
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.478, abs=1e-3)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_colour_has_a_contrast_of_four_and_a_half(scheme):
    own = colours(scheme)
    texts = ("ink", "dim", "accent", "good", "bad", "warn", "odd", "none")
    pairs = [(text, ground) for text in texts for ground in ("page", "card")]
    kinds = ("problems", "model", "traces", "scores")
    pairs += [(kind, ground) for kind in kinds for ground in ("page", "card", f"{kind}-wash")]
    low = {pair: contrast(own[pair[0]], own[pair[1]]) for pair in pairs}
    assert {pair: ratio for pair, ratio in low.items() if ratio < 4.5} == {}
    assert contrast(own["control"], own["card"]) >= 3 and contrast(own["control"], own["page"]) >= 3


@pytest.mark.parametrize(
    "kind", ["problems", "model", "traces", "scores", "pairs", "labels", "reward_model"]
)
def test_every_kind_of_artifact_has_a_colour_for_bars_chips_and_swatches(kind):
    assert re.search(rf"rect\.{kind}\b", STYLE)
    assert kind == "scores" or re.search(rf"\.kind\.{kind}\b", STYLE)


def test_a_report_json_without_a_verdict_is_still_read(report):
    from factory.report.records import Report as Facts
    from factory.report.render import render_json

    content = json.loads(render_json(report))
    assert content["verdict"]["sentence"] == verdict(report).sentence
    del content["verdict"]
    assert Facts.model_validate_json(json.dumps(content)).verdict is None
