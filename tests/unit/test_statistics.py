"""Golden numbers of the evaluation statistics, worked out by hand, and their coverage."""

import numpy as np
import pytest

from factory.evaluation.statistics import (
    Z,
    consensus,
    mcnemar,
    mean_interval,
    paired_difference,
    pass_at_k,
    t_quantile,
    wilson,
)

EXACT = 1e-9


def test_wilsons_interval_of_eight_in_ten() -> None:
    # z^2 = 3.841459; centre (0.8 + 3.841459/20) / (1 + 0.3841459) = 0.716739;
    # half 1.959964 / 1.3841459 * sqrt(0.016 + 3.841459/400) = 0.226579
    assert wilson(0.8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-5)


def test_all_wrong_keeps_an_upper_end() -> None:
    # 0 of 10: z^2 / (n + z^2) = 3.841459 / 13.841459
    interval = mean_interval([0.0] * 10, samples=16)
    assert (interval.value, interval.low, interval.n) == (0.0, 0.0, 10)
    assert interval.high == pytest.approx(0.277533, abs=1e-6)


def test_one_sample_a_problem_is_wilsons_interval() -> None:
    interval = mean_interval([1.0] * 8 + [0.0] * 2)
    assert (interval.low, interval.high) == pytest.approx(wilson(0.8, 10), abs=EXACT)


def test_problems_are_the_unit_not_samples() -> None:
    # 50 problems always right, 50 always wrong: 16 samples each tell no more than one.
    settled = mean_interval([1.0] * 50 + [0.0] * 50, samples=16)
    assert (settled.low, settled.high) == pytest.approx(wilson(0.5, 100), abs=EXACT)


def test_alike_problems_let_every_sample_count() -> None:
    # No variance between problems: 20 * 4 coin flips.
    alike = mean_interval([0.5] * 20, samples=4)
    assert (alike.low, alike.high) == pytest.approx(wilson(0.5, 80), abs=EXACT)


def test_the_effective_number_of_problems_is_the_documented_one() -> None:
    # Values 1/4 and 3/4, 10 each: p = 1/2, s^2 = 20 * (1/16) / 19 = 5/76, so
    # p (1 - p) n / s^2 = 76, times (1.959964 / t_19 = 2.093024)^2 = 0.876896 gives 66.6441.
    interval = mean_interval([0.25] * 10 + [0.75] * 10, samples=4)
    assert (interval.low, interval.high) == pytest.approx(wilson(0.5, 66.6441), abs=1e-5)


def test_t_quantiles_are_those_of_the_tables() -> None:
    table = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 9: 2.2622, 30: 2.0423, 1000: 1.9623}
    for degrees, value in table.items():
        assert t_quantile(degrees) == pytest.approx(value, rel=0.01)
    assert t_quantile(9) == pytest.approx(2.26216, abs=5e-4)


def test_pass_at_k_of_four_samples_with_one_right() -> None:
    # 1 - C(3, 2) / C(4, 2) = 1 - 3/6
    assert pass_at_k(4, 1, k=2) == pytest.approx(0.5, abs=EXACT)
    # The naive 1 - (1 - 1/4)^2 would be 0.4375.
    assert pass_at_k(4, 1, k=1) == pytest.approx(0.25, abs=EXACT)
    assert pass_at_k(4, 1, k=4) == 1.0


def test_pass_at_k_of_ten_thousand_samples_does_not_overflow() -> None:
    # One right sample of n is among k drawn with chance k / n.
    assert pass_at_k(10_000, 1, k=100) == pytest.approx(0.01, abs=EXACT)


def test_a_majority_decides_and_no_answer_has_no_vote() -> None:
    assert consensus(["7", "7", "8", None], [True, True, False, False]) == 1.0
    assert consensus(["8", "8", "7"], [False, False, True]) == 0.0
    assert consensus([None, None, None, "7"], [False, False, False, True]) == 1.0
    assert consensus([None, None], [False, False]) == 0.0


def test_a_tie_is_split() -> None:
    assert consensus(["7", "8"], [True, False]) == 0.5
    assert consensus(["1", "2", "3"], [False, True, False]) == pytest.approx(1 / 3, abs=EXACT)


def test_answers_that_differ_in_white_space_vote_together() -> None:
    assert consensus(["1  2", "1 2\n", "3", "3 4"], [True, True, False, False]) == 1.0


def test_a_paired_difference_and_its_width() -> None:
    # Differences 1, 0, 0, 0: mean 1/4, squares 3/4 + 1 = 7/4 with the added one;
    # half width t_3 sqrt(7/4 / 12) = 3.159 * 0.381881 = 1.20636, cut at 1.
    difference = paired_difference([1, 1, 0, 1], [0, 1, 0, 1])
    assert (difference.value, difference.high, difference.n) == (0.25, 1.0, 4)
    assert difference.low == pytest.approx(0.25 - 3.15899 * 0.381881, abs=1e-4)


def test_models_that_agree_everywhere_are_not_equal_to_within_nothing() -> None:
    # t_99 sqrt(1 / (100 * 99)) = 1.98422 * 0.0100504
    same = paired_difference([1.0] * 100, [1.0] * 100)
    assert (same.value, same.high) == pytest.approx((0.0, 0.019942), abs=1e-5)


def test_mcnemars_exact_p_value() -> None:
    # Nine problems changed hands, one of them the other way: 2 * (1 + 9) / 2^9
    a = [True] * 8 + [False] + [True] * 5
    b = [False] * 8 + [True] + [True] * 5
    assert mcnemar(a, b) == pytest.approx(20 / 512, abs=EXACT)
    assert mcnemar(b, a) == mcnemar(a, b)
    assert mcnemar([True, False], [True, False]) == 1.0
    assert mcnemar([True, False], [False, True]) == 1.0


def test_a_statistic_of_nothing_raises() -> None:
    with pytest.raises(ValueError, match="no problems"):
        mean_interval([])
    with pytest.raises(ValueError, match="no problems"):
        paired_difference([], [])
    with pytest.raises(ValueError, match="no problems"):
        mcnemar([], [])
    with pytest.raises(ValueError, match="no answers"):
        consensus([], [])
    with pytest.raises(ValueError, match="no trials"):
        wilson(0.5, 0)


def test_pass_at_k_refuses_fewer_samples_than_k() -> None:
    with pytest.raises(ValueError, match="with 4 samples it may be 1 to 4"):
        pass_at_k(4, 1, k=5)
    with pytest.raises(ValueError, match="5 correct of 4"):
        pass_at_k(4, 5, k=1)


def test_values_outside_the_unit_interval_are_refused() -> None:
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        mean_interval([0.5, 1.5])
    with pytest.raises(ValueError, match="2 values against 1"):
        paired_difference([0.5, 0.5], [0.5])


@pytest.mark.parametrize(
    ("alpha", "beta", "n", "k"),
    [(0.2, 0.2, 30, 4), (2, 2, 100, 4), (0.5, 5, 30, 1), (0.5, 5, 100, 16), (5, 1, 30, 4)],
)
def test_the_interval_of_a_mean_covers_the_truth(alpha: float, beta: float, n: int, k: int) -> None:
    # New problems of Beta-distributed difficulty in each of 1000 repetitions; the standard error
    # of a coverage of 0.95 is 0.007 there. Treating n * k samples as independent gives 0.76 in
    # the first case.
    random = np.random.default_rng(0)
    rates = random.binomial(k, random.beta(alpha, beta, (1000, n))) / k
    truth = alpha / (alpha + beta)
    intervals = [mean_interval(row, samples=k) for row in rates]
    covered = np.mean([interval.low <= truth <= interval.high for interval in intervals])
    assert 0.93 <= covered <= 0.985


def test_the_interval_of_a_difference_covers_the_truth() -> None:
    # Model b is right half as often as a on every problem, on Beta(1, 1) problems: difference 1/4.
    random = np.random.default_rng(0)
    rates = random.beta(1, 1, (1000, 40))
    a, b = random.binomial(4, rates) / 4, random.binomial(4, rates / 2) / 4
    pairs = zip(a, b, strict=True)
    intervals = [paired_difference(x, y, samples=4) for x, y in pairs]
    covered = np.mean([interval.low <= 0.25 <= interval.high for interval in intervals])
    assert 0.93 <= covered <= 0.985


def test_problems_of_several_parts_count_by_their_parts() -> None:
    # Shares 1, 0 and 1/2 of 1, 2 and 2 parts: 2 of 5. Deviations size (v - 0.4) / (5/3) are 0.36,
    # -0.48 and 0.12, their squares 0.3744; twenty times over, s^2 = 20 * 0.3744 / 59.
    result = mean_interval([1, 0, 0.5] * 20, sizes=[1, 2, 2] * 20)
    effective = 0.24 * 60 / (20 * 0.3744 / 59) * (Z / t_quantile(59)) ** 2
    # More than the 100 parts would be more than there is.
    assert effective > 100
    assert (result.value, result.n) == (pytest.approx(0.4, abs=1e-12), 60)
    assert (result.low, result.high) == pytest.approx(wilson(0.4, 100), abs=1e-9)
    # All or nothing of a problem's parts: 60 problems of 5/3 parts tell less than 100 alone.
    apart = mean_interval([1, 0, 0] * 20, sizes=[1, 2, 2] * 20)
    squares = 20 * (0.8**2 + 2 * 0.4**2) * 0.6**2
    expected = wilson(0.2, 0.16 * 60 / (squares / 59) * (Z / t_quantile(59)) ** 2)
    assert (apart.low, apart.high) == pytest.approx(expected, abs=1e-9)
    with pytest.raises(ValueError, match="2 values need as many sizes"):
        mean_interval([0, 1], sizes=[1])
