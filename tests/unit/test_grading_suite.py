"""The shipped suite of maths answers."""

from factory.evaluation.audit import Case, load_suite, our_outcomes, tally


def test_no_maths_case_of_the_suite_is_graded_wrong():
    cases = load_suite("math")
    outcomes = our_outcomes(cases)
    wrong = [(c.id, c.expected, o) for c, o in zip(cases, outcomes, strict=True) if o != c.expected]
    assert wrong == []


def test_the_suite_is_large_and_names_every_case_once():
    cases = load_suite("math")
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
