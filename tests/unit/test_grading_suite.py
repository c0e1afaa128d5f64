"""The shipped suite of maths answers."""

import io

import pytest

from factory.evaluation.audit import Case, load_cases, our_outcomes, tally
from factory.ui.audits import show_audit
from factory.ui.console import Console


def test_no_maths_case_of_the_suite_is_graded_wrong():
    cases = load_cases("math")
    outcomes = our_outcomes(cases)
    wrong = [(c.id, c.expected, o) for c, o in zip(cases, outcomes, strict=True) if o != c.expected]
    assert wrong == []


def test_the_suite_is_large_and_names_every_case_once():
    cases = load_cases("math")
    assert len(cases) >= 320
    assert len({case.id for case in cases}) == len(cases)


def test_a_tally_counts_false_accepts_and_false_rejects_apart():
    def case(name, expected):
        return Case(
            id=name, category="c", kind="math", reference="1", response="", expected=expected
        )

    cases = [case("a", "correct"), case("b", "correct"), case("c", "wrong")]
    row = tally("g", cases, [True, False, True])[-1]
    assert (row.false_accepts, row.should_reject) == (1, 1)
    assert (row.false_rejects, row.should_accept) == (1, 2)
    # Wilson for 1 of 2 with z = 1.96: (1 + 1.9208) / 5.8416 = 0.5, half width 0.4055.
    assert row.reject_interval == pytest.approx((0.0945, 0.9055), abs=1e-3)
    assert tally("g", cases[:2], [True, True])[-1].accept_interval is None


def test_the_table_shows_both_rates_of_every_category_of_every_grader():
    cases = [
        Case(id=n, category=c, kind="math", reference="1", response="", expected=e)
        for n, c, e in (("a", "roots", "correct"), ("b", "roots", "wrong"), ("c", "sets", "wrong"))
    ]
    screen = io.StringIO()
    rows = [*tally("ours", cases, [True] * 3), *tally("theirs", cases, [False] * 3)]
    show_audit(rows, Console(width=120, file=screen))
    text = screen.getvalue()
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert [line for line in lines if line in ("ours", "theirs")] == ["ours", "theirs"]
    assert "roots 1/1 20.7% to 100.0% 0/1 0.0% to 79.3%" in lines
    assert "sets 1/1 20.7% to 100.0%" in lines
    assert "all 0/2 0.0% to 65.8% 1/1 20.7% to 100.0%" in lines
