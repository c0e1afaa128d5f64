"""The claims table of a report: measured where it can be, said to be open where it cannot."""

import json

import pytest
from report_example import r1_build

from factory.core.errors import DataError
from factory.evaluation.claim import Claim
from factory.evaluation.compare import compare
from factory.report.build import Build as Report
from factory.report.build import build
from factory.report.records import Step
from factory.report.render import render_html, render_json, render_markdown
from factory.report.sections.claims import claim_rows


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> list[Step]:
    return r1_build(tmp_path_factory.mktemp("build"), problems=40)


def names(steps: list[Step]) -> list[str]:
    return [step.name for step in steps if step.stage == "evaluate"]


def claim(steps: list[Step], **changes) -> Claim:
    first, *_, last = names(steps)
    fields = {
        "text": "the student beats its base <b>",
        "of": (last,),
        "against": (first,),
        "benchmark": "chain_sum",
    }
    return Claim.model_validate({**fields, **changes})


def test_a_claim_is_measured_as_the_paired_difference(steps: list[Step]) -> None:
    [row] = claim_rows(build("r", "", steps, [claim(steps)]))
    artifacts = {step.name: step.artifact for step in steps}
    ours, theirs = artifacts[row.of[0]], artifacts[row.against[0]]
    assert ours is not None and theirs is not None and row.finding is not None
    wanted = ("chain_sum", "pass@1")
    [expected] = [c.difference for c in compare(ours, theirs) if (c.benchmark, c.metric) == wanted]
    assert row.finding.difference.value == pytest.approx(expected.value)
    assert row.finding.difference.low == pytest.approx(expected.low)
    assert row.finding.seeds == 1


def test_one_try_can_be_held_against_several(steps: list[Step]) -> None:
    """pass@1 of one checkpoint against pass@k of another."""
    [same] = claim_rows(build("r", "", steps, [claim(steps)]))
    [row] = claim_rows(build("r", "", steps, [claim(steps, against_measure="solved")]))
    [solved] = claim_rows(build("r", "", steps, [claim(steps, measure="solved")]))
    assert row.finding is not None and same.finding is not None and solved.finding is not None
    assert row.finding.mean_of == same.finding.mean_of
    assert row.finding.mean_against == solved.finding.mean_against > same.finding.mean_against


def test_a_claim_about_evaluations_that_are_not_made_stays_open(steps: list[Step]) -> None:
    [row] = claim_rows(build("r", "", steps, [claim(steps, of=("later",))]))
    assert (row.missing, row.finding) == (("later",), None)


def test_a_claim_about_what_no_answer_has_is_told_as_not_measured(steps: list[Step]) -> None:
    """Answers that are numbers have no signs to count."""
    report = build("r", "", steps, [claim(steps, measure="plus_signs")])
    [row] = claim_rows(report)
    assert (row.missing, row.finding) == ((), None)
    for document in (render_html(report), render_markdown(report)):
        assert "not measured: fewer than two problems have such a value on both sides" in document


def test_a_claim_about_a_benchmark_that_nobody_ran_is_an_error(steps: list[Step]) -> None:
    with pytest.raises(DataError, match="'the student beats its base <b>': its evaluations share"):
        claim_rows(build("r", "", steps, [claim(steps, benchmark="absent")]))


@pytest.fixture(scope="module")
def report(steps: list[Step]) -> Report:
    return build("r", "", steps, [claim(steps), claim(steps, of=("later",))])


def test_the_page_and_the_markdown_tell_the_same(report: Report) -> None:
    page, text = render_html(report), render_markdown(report)
    assert claim_rows(report)[0].finding is not None
    for document in (page, text):
        assert claim_rows(report)[0].finding.verdict in document
        assert "later" in document
    assert "beats its base <b>" not in page


def test_a_recipe_without_claims_has_no_such_section(steps: list[Step]) -> None:
    plain = build("r", "", steps)
    assert 'id="claims"' not in render_html(plain)
    assert "## Claims" not in render_markdown(plain)


def test_the_json_has_every_claim_as_it_was_measured(report: Report) -> None:
    stated = json.loads(render_json(report))["sections"]["claims"]
    assert stated == [row.model_dump(mode="json") for row in claim_rows(report)]
