"""The shipped suite of programs."""

from namespaces import needs_namespaces

from factory.evaluation.audit import load_cases, our_outcomes

pytestmark = needs_namespaces


def test_no_program_of_the_suite_is_graded_wrong() -> None:
    cases = load_cases("code")
    outcomes = our_outcomes(cases, processes=2)
    wrong = [(c.id, c.expected, o) for c, o in zip(cases, outcomes, strict=True) if o != c.expected]
    assert wrong == []


def test_the_suite_of_programs_is_large_and_names_every_case_once() -> None:
    cases = load_cases("code")
    assert len(cases) >= 120
    assert len({case.id for case in cases}) == len(cases)
