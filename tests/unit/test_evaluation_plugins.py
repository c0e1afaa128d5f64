"""Measures and benchmarks of a user's: what they add, and what is told where one goes wrong."""

from pathlib import Path

import pytest
from report_example import r1_build
from test_claims import sample

from factory import plugin_files
from factory.errors import PluginError
from factory.evaluation.claim import Claim
from factory.evaluation.claims import measured
from factory.evaluation.measure import MEASURES
from factory.plan import make_plan
from factory.plugin_files import load_plugins
from factory.recipe import load_recipe, recipe_from
from factory.records import EvalSample
from factory.registry import DOORS
from factory.report.build import build
from factory.report.render import render_html, render_markdown

ROOT = Path(__file__).resolve().parents[2]
HEDGES = ROOT / "examples" / "hedges.py"
MEASURE = """
from factory.plugins import EvalSample, measure

@measure("mine", version=3, bounds=(0.0, 1.0))
def mine(sample: EvalSample) -> float | None:
    {body}
"""


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test loads anew, and leaves the doors as they were."""
    monkeypatch.setattr(plugin_files, "_loaded", {})
    monkeypatch.setattr(plugin_files, "_texts", {})
    for door in list(DOORS.values()):
        door.names()
        monkeypatch.setattr(door, "table", dict(door.table))


def plugin(folder: Path, text: str) -> Path:
    path = folder / "mine.py"
    path.write_text(text, encoding="utf-8")
    return path


def thought(problem: str, reasoning: str | None) -> EvalSample:
    row = sample(problem, "")
    trace = row.trace.model_copy(update={"reasoning": reasoning})
    return row.model_copy(update={"trace": trace})


def test_the_example_counts_words_that_hedge_and_leaves_out_who_does_not_think() -> None:
    load_plugins([HEDGES])
    samples = [
        thought("p", "Maybe 3, perhaps not."),
        thought("p", "it is three now"),
        thought("q", None),
    ]
    assert measured(samples, "hedges") == {"p": pytest.approx((2 / 4 + 0 / 4) / 2, abs=1e-12)}


def test_a_largest_value_stands_for_a_problem_where_the_measure_says_so(tmp_path: Path) -> None:
    text = MEASURE.format(body="return len(sample.trace.completion) / 10")
    load_plugins([plugin(tmp_path, text.replace("1.0)", '1.0), of_problem="largest"'))])
    samples = [sample("p", "ab"), sample("p", "abcd"), sample("q", "a")]
    assert measured(samples, "mine") == {"p": 0.4, "q": 0.1}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 1 / 0", "ZeroDivisionError: division by zero"),
        ("return sample.nothing", "AttributeError"),
        ("return float('nan')", "gave nan, a finite number or None is wanted"),
        ("return -float('inf')", "gave -inf, a finite number"),
        ("return True", "gave True"),
        ("return '0.5'", "gave '0.5'"),
        ("return 1.0000001", "outside its bounds 0 to 1"),
        ("yield 0.5", "a finite number or None is wanted"),
    ],
)
def test_what_a_measure_does_wrong_names_it_and_the_problem(
    tmp_path: Path, body: str, message: str
) -> None:
    load_plugins([plugin(tmp_path, MEASURE.format(body=body))])
    with pytest.raises(PluginError, match=message) as caught:
        measured([sample("p7", "x")], "mine")
    assert str(caught.value).startswith("measure mine of file ")
    assert "mine.py, problem p7: " in str(caught.value)


def test_a_claim_by_an_unknown_measure_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"no measure 'hedge'.*there are accuracy, .*--plugin FILE"
    ):
        Claim(text="t", measure="hedge", of=("a",), against=("b",), benchmark="c")


def test_a_measure_changes_no_fingerprint_and_the_report_names_it(tmp_path: Path) -> None:
    load_plugins([HEDGES])
    recipe = load_recipe(ROOT / "recipes" / "smoke.yaml")
    before = {step.name: step.fingerprint for step in make_plan(recipe)}
    first, *_, last = [name for name in before if name.startswith("eval_")]
    claim = {"text": "t", "measure": "hedges", "of": [last], "against": [first]}
    claim["benchmark"] = "sums"
    claimed = recipe_from({**recipe.resolved, "claims": [claim]}, "test")
    assert {step.name: step.fingerprint for step in make_plan(claimed)} == before

    steps = r1_build(tmp_path, problems=8)
    names = [step.name for step in steps if step.stage == "evaluate"]
    shown = Claim(
        text="surer <b>", measure="hedges", against_measure="accuracy", of=(names[-1],),
        against=(names[0],), benchmark="chain_sum", expect="lower",
    )  # fmt: skip
    report = build("r", "", steps, [shown])
    origin = MEASURES.row("hedges").origin
    note = f"(hedges: version 1 of file hedges.py, sha256 {origin.sha256[:12]})"
    assert report.claims[0].text == f"surer <b> {note}"
    assert note in render_html(report) and note in render_markdown(report)
    assert str(ROOT) not in render_html(report)
