"""Comparisons of two models: golden numbers by hand, against scipy, and by simulation."""

import numpy as np
import pytest
from scipy import stats

from factory.evaluation.paired import (
    advice,
    bootstrap_interval,
    fall_p,
    holm,
    paired,
    permutation_p,
    power,
)
from factory.evaluation.statistics import (
    Z,
    cluster_of,
    consensus_at,
    mcnemar,
    mean_interval,
    paired_difference,
    score_errors,
    wilson,
)

EXACT = 1e-9


def test_both_errors_of_three_problems_by_hand() -> None:
    # p = 0, 1/2, 1 of 2 samples each: sampling^2 = (1/4) / (2 - 1) / 9 = 1/36;
    # question = s / sqrt(3) with s^2 = (1/4 + 0 + 1/4) / 2 = 1/4.
    errors = score_errors([0, 1, 2], [2, 2, 2])
    assert errors.sampling == pytest.approx(1 / 6, abs=EXACT)
    assert errors.question == pytest.approx(0.5 / 3**0.5, abs=EXACT)
    assert errors.clusters == 3
    # Twice the samples with equal shares: p (1 - p) / 3 instead of / 1; the other one stays.
    more = score_errors([0, 2, 4], [4, 4, 4])
    assert more.sampling == pytest.approx((0.25 / 3) ** 0.5 / 3, abs=EXACT)
    assert more.question == errors.question


def test_problems_of_one_passage_are_one_observation() -> None:
    # Two passages of two: deviations from 1/2 sum to +1 and -1: sqrt(2/1 * 2) / 4 = 1/2; taken one
    # by one they would give 0.5774 / 2.
    ids = ["p1#a", "p1#b", "p2#a", "p2#b"]
    errors = score_errors([1, 1, 0, 0], [1] * 4, groups=[cluster_of(i) for i in ids])
    assert (errors.question, errors.clusters) == (pytest.approx(0.5, abs=EXACT), 2)
    alone = score_errors([1, 1, 0, 0], [1] * 4)
    assert alone.question == pytest.approx((1 / 3) ** 0.5 / 2, abs=EXACT)
    assert alone.sampling is None and score_errors([1], [4]).question is None


def test_question_error_is_that_of_scipy() -> None:
    rates = np.random.default_rng(0).binomial(8, 0.3, 50)
    expected = stats.sem(rates / 8)
    assert score_errors(list(rates), [8] * 50).question == pytest.approx(expected, abs=EXACT)


def test_clusters_of_their_own_change_no_interval() -> None:
    a, b = [0.25, 0.5, 1.0, 0.75], [0.5, 0.5, 0.25, 0.0]
    groups = [1, 2, 3, 4]
    apart, plain = (mean_interval(a, samples=4, groups=g) for g in (groups, None))
    assert (apart.low, apart.high) == pytest.approx((plain.low, plain.high), abs=EXACT)
    apart, plain = (paired_difference(a, b, samples=4, groups=g) for g in (groups, None))
    assert (apart.low, apart.high) == pytest.approx((plain.low, plain.high), abs=EXACT)


def test_equal_problems_in_pairs_count_once() -> None:
    # Every problem twice, always alike: as many observations as pairs.
    doubled = mean_interval([1, 1, 0, 0] * 10, groups=[i // 2 for i in range(40)])
    assert (doubled.low, doubled.high) == pytest.approx(wilson(0.5, 20), abs=1e-2)
    assert doubled.high - doubled.low > 0.3 > 2 * (0.5 - wilson(0.5, 40)[0])


def test_consensus_at_fewer_samples_is_the_mean_over_subsets() -> None:
    # Of 7, 7, 8 a pair is (7, 7) in 1 of 3 and (7, 8), a tie, in 2 of 3: 1/3 + 2/3 * 1/2 = 2/3.
    value = consensus_at(["7", "7", "8"], [True, True, False], k=2, seed=0, draws=20_000)
    assert value == pytest.approx(2 / 3, abs=1e-2)
    assert consensus_at(["7", "7", "8"], [True, True, False], k=3, seed=0) == 1.0
    single = consensus_at(["7", "7", "8"], [True, True, False], k=1, seed=1, draws=20_000)
    assert single == pytest.approx(2 / 3, abs=1e-2)
    with pytest.raises(ValueError, match="with 3 samples it may be 1 to 3"):
        consensus_at(["7", "7", "8"], [True, True, False], k=4, seed=0)


def test_permutation_of_single_answers_is_mcnemars_exact_test() -> None:
    a, b = [1, 1, 1, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 1, 1, 0]
    expected = mcnemar([x == 1 for x in a], [x == 1 for x in b])
    assert expected == pytest.approx(14 / 64, abs=EXACT)
    assert permutation_p(a, b) == pytest.approx(expected, abs=EXACT)
    assert permutation_p(a, a) == 1.0
    # All five clusters one way: 2 of 32 sign patterns; the ten problems alone would give 2 / 1024.
    tens = ([1.0] * 10, [0.0] * 10)
    assert permutation_p(*tens, groups=[i // 2 for i in range(10)]) == 2 / 32


def test_drawn_permutations_agree_with_scipys() -> None:
    random = np.random.default_rng(4)
    a, b = random.binomial(4, 0.6, 60) / 4, random.binomial(4, 0.45, 60) / 4
    theirs = stats.permutation_test(
        (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=20_000, rng=1
    )
    ours = permutation_p(a.tolist(), b.tolist())
    assert 0.001 < ours < 0.2
    assert ours == pytest.approx(float(theirs.pvalue), abs=1e-2)


def test_bootstrap_interval_agrees_with_scipys() -> None:
    random = np.random.default_rng(5)
    a, b = random.binomial(4, 0.6, 80) / 4, random.binomial(4, 0.5, 80) / 4
    theirs = stats.bootstrap((a - b,), np.mean, method="percentile", n_resamples=20_000, rng=1)
    ours = bootstrap_interval(a.tolist(), b.tolist())
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=5e-3)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=5e-3)


def test_holms_correction_by_hand() -> None:
    # 0.01 * 4, 0.02 * 3, 0.04 * 2, and 0.03 * 2 = 0.06 in between; never falling.
    assert holm([0.04, 0.01, 0.02, 0.9]) == pytest.approx([0.08, 0.04, 0.06, 0.9], abs=EXACT)
    assert holm([0.01, 0.011]) == pytest.approx([0.02, 0.02], abs=EXACT)
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_fall_is_tested_against_the_margin_that_was_named() -> None:
    # 40 problems, ten of them lost, with scipy's t on the differences and the one added square.
    a, b = [0.0] * 10 + [1.0] * 30, [1.0] * 40
    squares = 10 * 0.75**2 + 30 * 0.25**2 + 1
    error = (squares / (40 * 39)) ** 0.5
    for beyond in (0.0, -0.1, -0.25):
        expected = stats.t.cdf((-0.25 - beyond) / error, 39)
        assert fall_p(a, b, beyond=beyond, samples=1) == pytest.approx(expected, abs=EXACT)
    assert fall_p(a, b, beyond=-0.25, samples=1) == pytest.approx(0.5, abs=EXACT)
    assert fall_p(b, a, beyond=0.0, samples=1) > 0.999
    assert fall_p([0.0], [1.0], beyond=0.0, samples=1) == 1.0


def test_a_paired_result_names_its_test() -> None:
    single = paired([1, 0, 1], [0, 0, 1], samples=1)
    assert (single.test, single.clusters) == ("mcnemar", 3)
    assert single.p_value == mcnemar([True, False, True], [False, False, True])
    assert paired([0.5, 0, 1], [0, 0, 1], samples=2).test == "permutation"
    assert paired([1, 0, 1], [0, 0, 1], samples=1, groups=[1, 1, 2]).test == "permutation"


def test_power_by_hand() -> None:
    # Both models 1 of 2 right on 100 problems: the squared error is the added square only,
    # (1/2) / (100 * 99); within = 1/4 * 2 / 1 each, so between is cut at 0, and 2 points need
    # k = (1/2 + 1/2) / (0.02^2 * 100 / (1.96 + 0.8416)^2) = 196.2.
    half = [0.5] * 100
    result = power(half, half, effect=0.02, samples=(2, 2))
    assert result.samples == 197
    assert result.visible == pytest.approx(
        ((Z + 0.8416212) ** 2 * 0.5 / (100 * 99)) ** 0.5, abs=1e-7
    )


def test_power_says_where_no_number_of_samples_helps() -> None:
    # Ten problems changed each way for good: between alone hides 2 points in 100 problems.
    a = [1.0] * 10 + [0.0] * 10 + [0.5] * 80
    b = [0.0] * 10 + [1.0] * 10 + [0.5] * 80
    result = power(a, b, effect=0.02, samples=(16, 16))
    assert (result.samples, result.knows_sampling) == (None, True)
    assert result.problems > 1000
    assert power(a, b, effect=0.5, samples=(16, 16)).samples == 1
    single = power([1.0, 0.0] * 20, [0.0, 1.0] * 20, effect=0.1, samples=(1, 1))
    assert (single.samples, single.knows_sampling) == (None, False)


def test_advice_names_the_samples_the_problems_or_neither() -> None:
    half, a, b = [0.5] * 100, [1.0] * 10 + [0.0] * 90, [0.0] * 90 + [1.0] * 10

    def advised(a: list[float], b: list[float], k: int, effect: float = 0.01) -> str:
        return advice(power(a, b, effect=effect, samples=(k, k)), n=len(a), samples=(k, k))

    assert "to see 1 points you need k = 785 (now 2); or 397 problems" in advised(half, half, 2)
    assert "1 points cannot be seen on these 100 problems with any k; " in advised(a, b, 4)
    assert advised(a, b, 1).endswith("one sample a problem cannot tell what more samples would")
    assert (
        advised(half, half, 2, effect=0.5) == "sees differences of 2.0 points or more (80 % power)"
    )


def test_a_difference_of_the_visible_size_is_found_four_times_in_five() -> None:
    # Model b is 5 points worse on every Beta(2, 2) problem (fewer near 0), 16 samples each.
    random = np.random.default_rng(6)
    result, visible = [], []
    for repetition in range(300):
        rates = random.beta(2, 2, 100)
        a, b = (
            random.binomial(16, rates) / 16,
            random.binomial(16, np.clip(rates - 0.05, 0, 1)) / 16,
        )
        result.append(permutation_p(a.tolist(), b.tolist(), seed=repetition) < 0.05)
        visible.append(power(a.tolist(), b.tolist(), effect=0.05, samples=(16, 16)).visible)
    # The standard error of the first is 0.023.
    assert np.mean(visible) == pytest.approx(0.05, abs=1e-2)
    assert 0.72 < np.mean(result) < 0.9


def test_one_model_against_itself_alarms_in_five_percent() -> None:
    # The standard error of the share is 0.010; with few samples the test is a little careful, since
    # equal sums count as extreme.
    random = np.random.default_rng(3)
    alarms = []
    for repetition in range(500):
        rates = random.beta(0.3, 0.3, 100)
        a, b = random.binomial(16, rates) / 16, random.binomial(16, rates) / 16
        alarms.append(permutation_p(a.tolist(), b.tolist(), seed=repetition) < 0.05)
    assert 0.02 <= np.mean(alarms) <= 0.08


@pytest.mark.parametrize(("alpha", "beta"), [(0.2, 0.2), (0.3, 0.5), (0.5, 0.2)])
def test_intervals_cover_between_93_and_97_percent_of_u_shaped_benchmarks(
    alpha: float, beta: float
) -> None:
    # Standard error of a coverage over 1000 repetitions: 0.007.
    random = np.random.default_rng(1)
    truth = alpha / (alpha + beta)
    for n, k in ((30, 1), (100, 4), (200, 8)):
        rates = random.binomial(k, random.beta(alpha, beta, (1000, n))) / k
        intervals = [mean_interval(row, samples=k) for row in rates]
        covered = np.mean([interval.low <= truth <= interval.high for interval in intervals])
        assert 0.93 <= covered <= 0.975, (n, k)


def test_intervals_over_passages_cover_and_plain_ones_do_not() -> None:
    random = np.random.default_rng(2)
    difficulty = np.repeat(random.beta(0.5, 0.5, (1000, 25)), 4, axis=1)
    rates = random.binomial(4, difficulty) / 4
    covered = {}
    for groups in ([i // 4 for i in range(100)], None):
        intervals = [mean_interval(row, samples=4, groups=groups) for row in rates]
        covered[groups is None] = np.mean(
            [interval.low <= 0.5 <= interval.high for interval in intervals]
        )
    assert 0.93 <= covered[False] <= 0.97
    assert covered[True] < 0.75


def test_the_sampling_error_is_what_new_samples_change() -> None:
    # The same 50 problems asked 2000 times: the spread of the score is the sampling error.
    random = np.random.default_rng(7)
    rates = random.beta(0.5, 0.5, 50)
    runs = random.binomial(8, rates, (2000, 50))
    # About 0.017, itself known to 1.6 %.
    spread = float(np.std(runs.mean(axis=1) / 8))
    estimates = [score_errors(list(run), [8] * 50).sampling or 0.0 for run in runs[:200]]
    assert np.sqrt(np.mean(np.square(estimates))) == pytest.approx(spread, abs=5e-4)
