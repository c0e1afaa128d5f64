"""Laws that the evaluation statistics obey for all inputs."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from factory.evaluation.statistics import (
    consensus,
    mcnemar,
    mean_interval,
    paired_difference,
    pass_at_k,
)

TOLERANCE = 1e-12
SHARES = st.lists(st.integers(0, 4).map(lambda c: c / 4), min_size=1, max_size=30)
MARKS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30)


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int]:
    samples = draw(st.integers(1, 60))
    return samples, draw(st.integers(0, samples))


@given(counts())
def test_pass_at_k_rises_with_k_and_ends_as_any(count: tuple[int, int]) -> None:
    samples, correct = count
    values = [pass_at_k(samples, correct, k=k) for k in range(1, samples + 1)]
    assert abs(values[0] - correct / samples) < TOLERANCE
    assert all(b >= a - TOLERANCE for a, b in pairwise(values))
    assert abs(values[-1] - float(correct > 0)) < TOLERANCE


@given(SHARES)
def test_an_interval_holds_its_value_inside_the_unit_interval(values: list[float]) -> None:
    interval = mean_interval(values, samples=4)
    assert 0.0 <= interval.low <= interval.value + TOLERANCE
    assert interval.value - TOLERANCE <= interval.high <= 1.0
    assert interval.low < interval.high
    assert interval.n == len(values)


@given(SHARES)
def test_more_samples_never_widen_an_interval(values: list[float]) -> None:
    single, many = (mean_interval(values, samples=k) for k in (1, 64))
    assert many.high - many.low <= single.high - single.low + TOLERANCE


@given(SHARES)
def test_wrong_and_right_mirror_each_other(values: list[float]) -> None:
    interval = mean_interval(values, samples=4)
    mirror = mean_interval([1 - value for value in values], samples=4)
    assert abs(mirror.low - (1 - interval.high)) < 1e-9
    assert abs(mirror.high - (1 - interval.low)) < 1e-9


@given(SHARES, st.randoms(use_true_random=False))
def test_the_order_of_problems_does_not_matter(values: list[float], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first, second = mean_interval(values, samples=4), mean_interval(shuffled, samples=4)
    assert abs(first.low - second.low) < 1e-9
    assert abs(first.high - second.high) < 1e-9


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30))
def test_a_difference_changes_its_sign_with_the_order(pairs: list[tuple[int, int]]) -> None:
    a, b = [x / 4 for x, _ in pairs], [y / 4 for _, y in pairs]
    forward, backward = paired_difference(a, b, samples=4), paired_difference(b, a, samples=4)
    assert abs(forward.value + backward.value) < TOLERANCE
    assert abs(forward.low + backward.high) < 1e-9
    assert -1 <= forward.low <= forward.value + TOLERANCE
    assert paired_difference(a, a).value == 0.0


@given(MARKS)
def test_mcnemars_p_value_is_symmetric_and_at_most_one(marks: list[tuple[bool, bool]]) -> None:
    a, b = [x for x, _ in marks], [y for _, y in marks]
    assert mcnemar(a, b) == mcnemar(b, a)
    assert 0 < mcnemar(a, b) <= 1


@given(st.lists(st.sampled_from(["7", "8", "9", None]), min_size=1, max_size=12))
def test_a_consensus_ignores_order_and_equals_any_where_all_agree(
    answers: list[str | None],
) -> None:
    marks = [answer == "7" for answer in answers]
    value = consensus(answers, marks)
    assert consensus(answers[::-1], marks[::-1]) == value
    assert 0 <= value <= pass_at_k(len(marks), sum(marks), k=len(marks))
    if 2 * sum(marks) > len(marks):
        assert value == 1.0
