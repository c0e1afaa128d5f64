"""Votes by value, and cons@k over all subsets."""

import math
import time
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.core.records import Problem, ProblemKind
from factory.evaluation.statistics import consensus, consensus_at
from factory.evaluation.summary import votes
from factory.grading import grade
from factory.grading.votes import canonical
from factory.text.chat import completion_text

SAME = [
    ["1/2", "0.5", r"\frac{1}{2}", r"$\dfrac12$", ".50", "½", "x = 0.5", "0.5 apples"],
    ["1,234", "1234", "1234.0", r"1{,}234", r"$1\,234$", "1234 dollars"],
    ["{1, 2, 0.5}", r"\{1/2, 2, 1\}", "2, 1, 0.5", "1 and 2 and 1/2"],
    ["(1, 0.5)", r"\left(1, \frac{1}{2}\right)"],
    ["[0,1)", r"0 \le x < 1"],
    [r"\pm 3", "3, -3", r"x = \pm 3"],
    [r"2 \sqrt{3}", r"2\sqrt{3}"],
    ["Blue Whale", "blue  whale"],
    ["\u22123", "-3", "- 3"],
]


@pytest.mark.parametrize("forms", SAME)
def test_equal_answers_have_one_form(forms: list[str]) -> None:
    assert len(set(map(canonical, forms))) == 1, [canonical(form) for form in forms]


def test_different_answers_have_forms_of_their_own() -> None:
    others = ["(0.5, 1)", "[0,1]", "50%", "2", "x", "X", "2x", "1/3", "0.333", "whale"]
    forms = [canonical(form) for form in [*(same[0] for same in SAME), *others]]
    assert len(set(forms)) == len(forms)


def test_equal_wrong_answers_vote_together_and_so_do_right_ones() -> None:
    assert consensus(["1/2", "0.5", r"\frac{1}{2}", "3", "3"], [True] * 3 + [False] * 2) == 1.0
    assert consensus(["3", "3", "1/4", "0.25", r"\frac14"], [True] * 2 + [False] * 3) == 0.0
    assert consensus(["4, 7", "7", r"\{7, 4\}"], [False, True, False]) == 0.0
    # No form has to tell that two right expressions are equal: the grader did.
    assert consensus(["x+1", "1+x", "2x", "2x"], [True, True, False, False]) == 0.5


@pytest.mark.parametrize(
    ("kind", "reference", "answers", "share"),
    [
        ("choice", "A", ["A", "(a)", "B", "b.", r"\boxed{B}"], 0.0),
        ("choice", "B", ["A", "(a)", "Option B", "b.", "blue"], 1.0),
        ("exact", "paris", ["Paris", "PARIS", "Rome", "rome"], 0.5),
        ("math", "7", ["7", "7.0", "8", "16/2", "x=8"], 0.0),
        ("math", "甲", ["甲", "乙", "乙"], 0.0),
    ],
)
def test_graded_answers_vote_by_what_their_grader_reads(
    kind: ProblemKind, reference: str, answers: list[str], share: float
) -> None:
    choices = {"choices": ["red", "blue"]} if kind == "choice" else {}
    requested = Problem(id="p", prompt="", reference=reference, kind=kind, source="s", data=choices)
    verdicts = [grade(requested, completion_text("", answer)) for answer in answers]
    verdicts.append(grade(requested, "no tags"))
    assert consensus(votes(verdicts), [verdict.is_correct for verdict in verdicts]) == share


WRONG = [
    ["2^{10}+1", "1025", "1,025", r"\frac{2050}{2}", "x = 2^{10}+1", "4^5+1"],
    [r"\sqrt{8}", r"2\sqrt{2}", r"\frac{4}{\sqrt{2}}", r"2\sqrt{2}\text{ cm}"],
    ["x+1+1", "x+2", "2+x", r"\frac{2x+4}{2}"],
    ["(x+1)^2", "x^2+2x+1"],
    [r"\{2^{10}+1, 3\}", "3, 1025"],
    [r"(\sqrt{4}, 1)", "(2, 1)"],
    [r"1 \pm \sqrt{2}", r"1+\sqrt{2}, 1-\sqrt{2}"],
    [r"\begin{pmatrix} \sqrt{4} \\ 1 \end{pmatrix}", r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}"],
    ["x - y = 2", "2x = 2y + 4"],
    ["2+3i", "3i+2"],
    ["3+2i"],
    [r"\sin 30^\circ", "1/2", "0.5"],
    [r"\log_2 8", "3"],
    ["X^2"],
    ["x^2", "x \\cdot x"],
    ["|x|"],
    ["x"],
    ["whale", "Whale"],
]
"""None is right for a reference 7 or `y`."""


@pytest.mark.parametrize("reference", ["7", "y"])
def test_wrong_answers_of_one_value_are_one_vote_and_others_another(reference: str) -> None:
    requested = Problem(id="p", prompt="", reference=reference, kind="math", source="s")
    cast: list[set[str | None]] = []
    for forms in WRONG:
        verdicts = [grade(requested, completion_text("", form)) for form in forms]
        assert not any(verdict.is_correct for verdict in verdicts), forms
        cast.append(set(votes(verdicts)))
        assert len(cast[-1]) == 1 and cast[-1] != {None}, (forms, votes(verdicts))
    every = set[str | None]().union(*cast)
    # What is counted is told apart by its form once more.
    assert len(every) == len({canonical(vote) for vote in every if vote}) == len(WRONG)


def spelled(value: int, form: int) -> str:
    """A whole number, written so that it takes evaluating."""
    texts = (
        f"{value}",
        f"2^{{3}} + {value - 8}",
        rf"\frac{{{3 * value}}}{{3}}",
        rf"\sqrt{{{value**2}}}",
        rf"{value} \cdot 1",
        rf"\boxed{{{value} + 0}}",
        rf"n = {value - 1} + 1",
        f"{value}.0",
    )
    return texts[form]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(6, 9), st.integers(0, 7)), min_size=1, max_size=7))
def test_a_majority_counts_values_and_one_sample_is_pass_at_one(
    answers: list[tuple[int, int]],
) -> None:
    requested = Problem(id="p", prompt="", reference="7", kind="math", source="s")
    verdicts = [grade(requested, completion_text("", spelled(*answer))) for answer in answers]
    right = [verdict.is_correct for verdict in verdicts]
    assert right == [value == 7 for value, _ in answers]
    plain = [str(value) for value, _ in answers]
    assert consensus(votes(verdicts), right) == consensus(plain, right)
    assert consensus_at(votes(verdicts), right, k=1, seed=0) == sum(right) / len(right)


def over_subsets(answers: list[str | None], correct: list[bool], k: int) -> float:
    """The definition: the mean vote over every subset."""
    subsets = list(combinations(range(len(answers)), k))
    shares = [consensus([answers[i] for i in s], [correct[i] for i in s]) for s in subsets]
    return math.fsum(shares) / len(shares)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(["7", "8", "16/2", "9", "10", None]), min_size=1, max_size=8))
def test_cons_at_k_is_the_mean_vote_over_all_subsets(answers: list[str | None]) -> None:
    correct = [answer == "7" for answer in answers]
    for k in range(1, len(answers) + 1):
        counted = consensus_at(answers, correct, k=k, seed=0)
        assert abs(counted - over_subsets(answers, correct, k)) < 1e-12
    assert consensus_at(answers, correct, k=1, seed=0) == sum(correct) / len(correct)


def test_cons_at_one_is_pass_at_one_however_many_samples() -> None:
    answers = ["1/2"] * 3 + ["3"] * 2
    assert consensus_at(answers, [True] * 3 + [False] * 2, k=1, seed=0, draws=200) == 0.6
    many = ["7"] * 201 + [f"{n}/7" for n in range(1, 400)]
    assert consensus_at(many, [True] * 201 + [False] * 399, k=1, seed=0, draws=1) == 201 / 600


def test_too_many_samples_to_count_are_drawn_and_close_to_the_count() -> None:
    # 3 of 5 right, 60 times over: three at random are right by majority with chance
    # (C(180, 3) + C(180, 2) 120) / C(300, 3) = 0.64867, one wrong answer against it.
    answers = ["7"] * 180 + ["8"] * 120
    correct = [True] * 180 + [False] * 120
    exact = (math.comb(180, 3) + math.comb(180, 2) * 120) / math.comb(300, 3)
    result = consensus_at(answers, correct, k=3, seed=1, draws=4000)
    assert abs(result - exact) < 3 * 0.5 / math.sqrt(4000)
    small = consensus_at(answers[60:240], correct[60:240], k=3, seed=1)
    assert small == pytest.approx(
        (math.comb(120, 3) + math.comb(120, 2) * 60) / math.comb(180, 3), abs=1e-12
    )


def test_the_curve_of_many_samples_is_counted_in_no_time() -> None:
    answers = [str(n % 40) for n in range(256)]
    correct = [answer == "7" for answer in answers]
    began = time.process_time()
    consensus_at(answers, correct, k=128, seed=0)
    assert time.process_time() - began < 5
