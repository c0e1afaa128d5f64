"""Figures: right numbers in the right places, deterministic, and no edge through a box."""

import itertools
import re
from xml.etree import ElementTree

import pytest
from report_example import Build, r1_build

from factory.core.readable import MINUS, duration, figure, percent, point_span, points, size
from factory.report.build import Build as Report
from factory.report.build import build
from factory.report.charts import panels, thin
from factory.report.curves import Series, TrainingRun, moving_mean, training_runs
from factory.report.figures import interval_panel, share_bar
from factory.report.sections.flow import BOX, flow
from factory.report.svg import nice_ticks, number, tag

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Report:
    return build("r", "", r1_build(tmp_path_factory.mktemp("build"), problems=12))


def series(name: str, *values: float | None) -> Series:
    return Series(name=name, steps=tuple(range(1, len(values) + 1)), values=values)


def run_of(*given: Series, seconds: tuple[Series, ...] = ()) -> TrainingRun:
    return TrainingRun(stage="rl", kind="grpo", artifact=None, series=given, seconds=seconds)


def test_the_moving_mean_is_centred_over_the_window():
    # Window 4 reaches two back and one ahead: (1+2)/2, (1+2+3)/3, (1+2+3+4)/4, (2+3+4)/3.
    assert moving_mean(series("x", 1.0, 2.0, 3.0, 4.0), 4) == (1.5, 2.0, 2.5, 3.0)


def test_the_moving_mean_skips_what_is_not_finite():
    assert moving_mean(series("x", None, 4.0, None), 2) == (None, 4.0, 4.0)


def test_a_long_run_is_thinned_to_means_of_equal_stretches():
    samples = thin(series("x", 1.0, 3.0, 5.0, 7.0, None, 9.0), 3)
    assert (samples.steps, samples.values) == ((1, 3, 5), (2.0, 6.0, 9.0))


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0.0, 0.25, 0.5, 0.75, 1.0]),
        (0.21, 0.58, [0.2, 0.3, 0.4, 0.5, 0.6]),
        (-3.0, 14.0, [-5.0, 0.0, 5.0, 10.0, 15.0]),
        (0.0, 0.0, [0.0, 0.25, 0.5, 0.75, 1.0]),
        (2e-5, 2e-5, [0.0, 5e-6, 1e-5, 1.5e-5, 2e-5]),
    ],
)
def test_ticks_are_round_and_cover_the_values(low, high, ticks):
    assert nice_ticks(low, high) == pytest.approx(ticks, abs=1e-12)


def test_a_score_is_drawn_at_its_share_of_the_axis(report):
    # The axis runs from 12 to 468 for 0 to 100 %: 50 % lies at 240.
    half = (
        report.evaluations[-1]
        .scores[0]
        .model_copy(update={"metric": "pass@1", "value": 0.5, "low": 0.25, "high": 1.0})
    )
    row = report.evaluations[-1].model_copy(update={"scores": (half,)})
    root = ElementTree.fromstring(interval_panel([row], half.benchmark))
    whisker = next(x for x in root.iter(f"{SVG}line") if x.get("class", "").startswith("whisker"))
    assert (whisker.get("x1"), whisker.get("x2")) == ("126", "468")
    assert next(root.iter(f"{SVG}circle")).get("cx") == "240"


def test_every_quantity_that_was_logged_has_a_panel(report):
    run = next(run for run in training_runs(report) if run.stage == "reasoning_rl")
    samples = [panel.title for panel in panels(run)]
    assert samples[:3] == ["Reward", "Reward by component", "Accuracy"]
    assert samples[-2:] == ["Seconds a step by phase", "Reflective words a response"]
    prefixes = {item.name.partition("/")[0] for item in (*run.series, *run.seconds)}
    assert len(samples) == len(prefixes)


def test_an_unknown_quantity_is_drawn_under_its_own_name():
    (panel,) = panels(run_of(series("new_thing", 1.0, 2.0)))
    assert panel.title == "new thing"


def test_seconds_that_no_phase_explains_are_shown_as_other():
    run = run_of(seconds=(series("seconds/step", 10.0, 12.0), series("seconds/train", 7.0, 9.0)))
    (panel,) = panels(run)
    assert [(name, mean) for _, name, mean in panel.keys] == [
        ("train", "8.0 s"), ("other", "3.0 s"),
    ]  # fmt: skip


def test_plain_seconds_a_step_are_shown_whole():
    (panel,) = panels(run_of(seconds=(series("seconds", 2.0, 4.0),)))
    assert [(name, mean) for _, name, mean in panel.keys] == [("step", "3.0 s")]


def test_a_series_without_any_finite_value_is_drawn_empty():
    (panel,) = panels(run_of(series("kl", None, None)))
    assert "nan" not in panel.picture.lower()


def test_every_figure_is_well_formed_and_has_a_title(report):
    figures = [flow(report), interval_panel(report.evaluations, "chain_sum")]
    figures += [panel.picture for run in training_runs(report) for panel in panels(run)]
    for samples in figures:
        root = ElementTree.fromstring(samples)
        assert root.find(f"{SVG}title").text
        assert not any("style" in element.attrib for element in root.iter())


def boxes_of(root) -> dict[str, tuple[float, float, float, float]]:
    """Left, top, right and bottom of each stage's box by its name."""
    results = {}
    for group in root.iter(f"{SVG}g"):
        rect = group.find(f"{SVG}rect")
        if rect is not None:
            left, top, width = (float(rect.get(key)) for key in ("x", "y", "width"))
            name = group.find(f"{SVG}title").text.partition(":")[0]
            results[name] = (left, top, left + width, top + BOX)
    return results


def test_the_flow_shows_every_stage_but_the_evaluations(report):
    names = set(boxes_of(ElementTree.fromstring(flow(report))))
    assert names == {row.name for row in report.stages if row.kind != "evaluate"}


def test_no_edge_of_the_flow_runs_through_a_box(report):
    root = ElementTree.fromstring(flow(report))
    boxes = boxes_of(root).values()
    edges = [p for p in root.iter(f"{SVG}path") if p.get("class", "").startswith("edge")]
    assert len(edges) == 23
    for edge in edges:
        numbers = [float(x) for x in re.findall(r"-?\d+(?:\.\d+)?", edge.get("d"))]
        corners = list(zip(numbers[::2], numbers[1::2], strict=True))
        for (x0, y0), (x1, y1) in itertools.pairwise(corners):
            for left, top, right, bottom in boxes:
                crosses_x = max(min(x0, x1), left + 1) < min(max(x0, x1), right - 1)
                crosses_y = max(min(y0, y1), top + 1) < min(max(y0, y1), bottom - 1)
                inside_x = left + 1 < x0 < right - 1 or crosses_x
                inside_y = top + 1 < y0 < bottom - 1 or crosses_y
                assert not (inside_x and inside_y and (crosses_x or crosses_y))


def test_a_stage_that_is_not_made_is_drawn_as_missing(tmp_path):
    made = Build(tmp_path)
    made.step("base", "model")
    made.step("tuned", "sft", {"model": "base"}, is_made=False)
    assert flow(build("r", "", made.steps)).count("box model missing") == 1


def test_a_bar_is_cut_in_proportion_and_leaves_out_what_is_zero():
    root = ElementTree.fromstring(share_bar([("a", 3), ("b", 0), ("c", 1)], "shares"))
    assert [rect.get("width") for rect in root.iter(f"{SVG}rect")] == ["300", "100"]


def test_attributes_and_children_are_escaped():
    assert tag("text", "<&>", class_='a"b') == '<text class="a&#34;b">&lt;&amp;&gt;</text>'


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (number(-0.04), "0"),
        (number(12.25), "12.2"),
        (percent(0.3125), "31.2 %"),
        (points(0.309), "+30.9"),
        (points(-0.0001), "0.0"),
        (point_span(-0.025, 0.25), f"[{MINUS}2.5, +25.0]"),
        (duration(9.94), "9.9 s"),
        (duration(59.6), "1 min 00 s"),
        (duration(7160), "1 h 59 min"),
        (duration(7199), "2 h 00 min"),
        (size(1536), "1.5 KiB"),
        (figure(0.000012), "1.2e-5"),
        (figure(-0.75), f"{MINUS}0.75"),
        (figure(134_515_008.0), "134,515,008"),
        (figure(None), "not finite"),
    ],
)
def test_numbers_are_written_for_a_reader(given, expected):
    assert given == expected
