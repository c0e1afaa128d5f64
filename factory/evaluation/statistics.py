"""Scores of a benchmark with their uncertainty. The unit is the problem, never the sample.

Several samples of one problem share its difficulty, so n problems with k samples each are n
observations, not n*k (Miller 2024, arXiv 2411.00640). Problems that share a passage or a template
are one cluster, and where there are clusters they are what is drawn anew. Every function refuses to
say anything about nothing: ValueError. Comparisons of two models stand in `paired.py`.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence

import numpy as np

from factory.core.records import Record
from factory.grading.votes import canonical

EXACT_SAMPLES = 256
"""Up to so many samples of a problem, all subsets are counted behind cons@k."""
Z = 1.959963984540054
"""97.5 % quantile of the normal distribution: all intervals here are 95 %."""


class Interval(Record):
    """A value with its 95 % confidence interval over n problems."""

    value: float
    low: float
    high: float
    n: int


class Errors(Record):
    """The two standard errors of a mean over problems, each an answer to another question."""

    sampling: float | None
    """Same problems, new samples: what another seed would change. None with one sample a
    problem, which cannot tell."""
    question: float | None
    """New problems and new samples: it holds the sampling error. None with one cluster."""
    clusters: int
    """Groups of problems that were drawn independently; problems where none share a group."""


def cluster_of(problem_id: str) -> str:
    """What a problem shares with others: the part of its id before `#`, else the whole id.

    `passage-7#2` is the second question about passage 7.
    """
    return problem_id.partition("#")[0]


def clusters(problem_ids: Sequence[str]) -> list[str] | None:
    """The cluster of each problem; None where no two share one, so that nothing is to be added."""
    names = [cluster_of(problem) for problem in problem_ids]
    return names if len(set(names)) < len(names) else None


def score_errors(
    correct: Sequence[int], samples: Sequence[int], *, groups: Sequence[Hashable] | None = None
) -> Errors:
    """Both errors of pass@1 from `correct[i]` right of `samples[i]` samples of problem i.

        sampling^2 = sum_i p_i (1 - p_i) / (k_i - 1) / n^2
        question^2 = G / (G - 1) * sum_g (sum_{i in g} (p_i - p))^2 / n^2

    with p_i = correct / k_i, p their mean, and G clusters (Miller 2024, arXiv 2411.00640, sections
    2.2 and 3.1; G / (G - 1) is the usual correction for few clusters). With every problem in a
    cluster of its own the second is s / sqrt(n).
    """
    rates = [c / k for c, k in zip(correct, samples, strict=True)]
    values = _in_unit_interval(rates, "score_errors")
    sampling = None
    if min(samples) > 1:
        noise = sum(p * (1 - p) / (k - 1) for p, k in zip(rates, samples, strict=True))
        sampling = math.sqrt(noise) / values.size
    sums = cluster_sums(values - values.mean(), groups)
    question = None
    if sums.size > 1:
        squares = float((sums**2).sum())
        question = math.sqrt(squares * sums.size / (sums.size - 1)) / values.size
    return Errors(sampling=sampling, question=question, clusters=sums.size)


def sampling_half_width(correct: Sequence[int], samples: int) -> float:
    """Half of the 95 % interval of pass@1 over new samples of the same problems.

        z sqrt((sum_i p_i (1 - p_i) + 1 / k) / (k - 1)) / n

    1 / k is added as if one more problem had been right once in k: otherwise a few samples that
    all agree would be an error of zero. Stopping at the first round whose half width is small
    enough keeps its coverage: 93 to 97 % in simulation, from 30 problems and 4 samples on.
    """
    if samples < 2:
        raise ValueError(f"sampling_half_width: {samples} samples a problem, at least 2 can tell")
    rates = _in_unit_interval([c / samples for c in correct], "sampling_half_width")
    squares = float((rates * (1 - rates)).sum()) + 1 / samples
    return Z * math.sqrt(squares / (samples - 1)) / rates.size


def cluster_sums(values: np.ndarray, groups: Sequence[Hashable] | None) -> np.ndarray:
    """Sum of the values of each group, groups in order of appearance; the values without groups."""
    if groups is None:
        return values
    if len(groups) != values.size:
        raise ValueError(f"{values.size} problems in {len(groups)} groups' rows")
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    return np.bincount([numbers[group] for group in groups], weights=values)


def mean_interval(
    values: Sequence[float],
    *,
    samples: int = 1,
    groups: Sequence[Hashable] | None = None,
    sizes: Sequence[int] | None = None,
) -> Interval:
    """Mean of per-problem values in [0, 1], each a mean over `samples` draws, with its interval.

    Wilson's interval at an effective number of problems

        m = p (1 - p) n / s^2 * (z / t_{n-1})^2,   n <= m <= n * samples

    where s^2 is the variance between the values: the more alike the problems, the more each sample
    tells (Korn and Graubard 1998, with Wilson's instead of the exact interval). For values 0 and 1
    it is Wilson's own interval; where all values are 0, or all 1, it stays that wide whatever the
    number of samples. In simulation it covers 94 to 98 % from 30 problems on, and 90 % in the worst
    case tried, where a few problems carry nearly every success.

    With `groups` (a problem's passage or template) s^2 / n is the clustered error of `score_errors`
    instead, t has G - 1 degrees of freedom, and m lies between G and n * samples.

    With `sizes` problem i has so many parts, values are shares of them, and the value is the share
    of all parts: sum size_i v_i / sum size_i. Then s^2 is that of size_i (v_i - value) / mean size
    (the linearised ratio, Cochran 1977, 6.4), and m lies below sum size_i * samples.
    """
    array = _in_unit_interval(values, "mean_interval")
    if samples < 1:
        raise ValueError(f"mean_interval: samples is {samples}; it must be at least 1")
    n = array.size
    parts = np.ones(n) if sizes is None else np.asarray(sizes, dtype=np.float64)
    if parts.size != n or parts.min() < 1:
        raise ValueError(f"mean_interval: {n} values need as many sizes of at least 1")
    value = float((parts * array).sum() / parts.sum())
    units = cluster_sums(parts * (array - value) / parts.mean(), groups)
    effective = float(units.size)
    if 0.0 < value < 1.0 and units.size > 1:
        variance = float((units**2).sum()) * units.size / (units.size - 1) / n
        shrink = (Z / t_quantile(units.size - 1)) ** 2
        most = float(parts.sum() * samples)
        effective = value * (1 - value) * n / variance * shrink if variance > 0 else most
        effective = min(max(effective, float(units.size)), most)
    low, high = wilson(value, effective)
    return Interval(value=value, low=low, high=high, n=n)


def wilson(proportion: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % score interval of a proportion seen in n trials (n need not be whole)."""
    if n <= 0:
        raise ValueError("wilson: no trials")
    square = Z * Z
    centre = (proportion + square / (2 * n)) / (1 + square / n)
    spread = proportion * (1 - proportion) / n + square / (4 * n * n)
    half = Z / (1 + square / n) * math.sqrt(spread)
    # At 0 and 1 one end is the proportion itself, but for rounding.
    low = 0.0 if proportion == 0.0 else centre - half
    high = 1.0 if proportion == 1.0 else centre + half
    return max(low, 0.0), min(high, 1.0)


def pass_at_k(samples: int, correct: int, *, k: int) -> float:
    """Chance that at least one of k samples is right, unbiased, from `correct` right of `samples`.

        1 - C(n - c, k) / C(n, k) = 1 - prod_{i = n-c+1}^{n} (1 - k / i)

    Source: Chen et al. 2021 (arXiv 2107.03374), eq. 1, in the product form that cannot overflow.
    ValueError with fewer samples than k: no estimate from fewer is unbiased.
    """
    if not 0 <= correct <= samples:
        raise ValueError(f"pass_at_k: {correct} correct of {samples} samples")
    if not 1 <= k <= samples:
        raise ValueError(f"pass_at_k: k is {k}; with {samples} samples it may be 1 to {samples}")
    if samples - correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(samples - correct + 1, samples + 1))


def consensus(answers: Sequence[str | None], correct: Sequence[bool]) -> float:
    """Chance that a majority vote over one problem's answers is right; cons@k for k answers.

    Votes are by value: right answers are one candidate, and so are wrong ones of one canonical form
    (`grading/votes.py`). A sample without answer (None) has no vote. A tie is broken at random,
    hence split: two leading answers, one right, give 1/2. No votes at all give 0.
    """
    if not answers:
        raise ValueError("consensus: no answers")
    right, wrong, _ = candidates(answers, correct)
    if right == 0 or right < max(wrong, default=0):
        return 0.0
    return 1 / (1 + wrong.count(right))


def candidates(
    answers: Sequence[str | None], correct: Sequence[bool]
) -> tuple[int, list[int], int]:
    """(votes for the right answer, votes for each wrong one, samples without a vote)."""
    given = [(a, c) for a, c in zip(answers, correct, strict=True) if a is not None]
    wrong = Counter(canonical(answer) for answer, is_correct in given if not is_correct)
    right = sum(is_correct for _, is_correct in given)
    return right, list(wrong.values()), len(answers) - len(given)


def consensus_at(
    answers: Sequence[str | None], correct: Sequence[bool], *, k: int, seed: int, draws: int = 1000
) -> float:
    """cons@k of one problem from n >= k samples: the mean of `consensus` over all subsets of k.

    With k = 1 it is the share of right samples, pass@1; with k = n it is `consensus` itself. All
    subsets are counted; above EXACT_SAMPLES samples that takes long, and `draws` random ones stand
    for all (standard error at most 0.5 / sqrt(draws)). ValueError with fewer than k.
    """
    n = len(answers)
    if not 1 <= k <= n:
        raise ValueError(f"consensus_at: k is {k}; with {n} samples it may be 1 to {n}")
    if k == n:
        return consensus(answers, correct)
    right, wrong, silent = candidates(answers, correct)
    if k == 1:
        return right / n
    if n <= EXACT_SAMPLES:
        return _mean_consensus(right, wrong, silent, k=k)
    forms = [a and ("" if c else canonical(a)) for a, c in zip(answers, correct, strict=True)]
    random = np.random.default_rng(seed)
    subsets: Iterator[list[int]] = (
        [int(i) for i in random.choice(n, size=k, replace=False)] for _ in range(draws)
    )
    return sum(consensus([forms[i] for i in s], [correct[i] for i in s]) for s in subsets) / draws


def _mean_consensus(right: int, wrong: Sequence[int], silent: int, *, k: int) -> float:
    """The mean vote over all subsets of k of right + sum(wrong) + silent samples.

        sum_m C(right, m) sum_t W(m, t) / (1 + t) / C(n, k)

    where W(m, t) counts the ways to fill the other k - m places so that no wrong candidate has more
    than m votes and t of them have m: a product of polynomials, one for each candidate with m or
    more votes to give; what the others and the silent ones give does not matter.
    """
    n = right + sum(wrong) + silent
    total = 0.0
    for m in range(1, min(right, k) + 1):
        rivals = [votes for votes in wrong if votes >= m]
        rest = n - right - sum(rivals)
        ways = np.zeros(((k - m) // m + 1, k - m + 1))
        ways[0, 0] = 1.0
        for votes in rivals:
            ways = _with_rival(ways, votes, m)
        places = [math.comb(rest, k - m - taken) for taken in range(k - m + 1)]
        shares = 1.0 / (1.0 + np.arange(len(ways)))
        total += math.comb(right, m) * float(shares @ ways @ np.array(places, dtype=np.float64))
    return total / math.comb(n, k)


def _with_rival(ways: np.ndarray, votes: int, m: int) -> np.ndarray:
    """Ways by (candidates with m votes, votes taken), after one more that has `votes` to give."""
    longer = np.zeros_like(ways)
    most = ways.shape[1]
    for taken in range(min(m, most)):
        longer[:, taken:] += math.comb(votes, taken) * ways[:, : most - taken]
    if m < most:
        longer[1:, m:] += math.comb(votes, m) * ways[:-1, : most - m]
    return longer


def paired_difference(
    a: Sequence[float],
    b: Sequence[float],
    *,
    samples: int = 1,
    groups: Sequence[Hashable] | None = None,
) -> Interval:
    """Mean of a_i - b_i over problems that both answered, with its interval.

    Student's t on the differences, with 1 / samples added to their sum of squares, as if one more
    problem had differed by the sampling noise of one mean:

        half width = t_{n-1} sqrt((sum (d_i - d)^2 + 1 / samples) / (n (n - 1)))

    so that two models which agree on every problem seen are not called equal to within nothing.
    Covers 93 % or more in simulation from 5 problems on. `samples` is the smaller of both. With
    `groups` the squares are those of the clusters' sums, n (n - 1) becomes n^2 (G - 1) / G, and t
    has G - 1 degrees of freedom.
    """
    differences = paired_values(a, b)
    n, value = differences.size, float(differences.mean())
    error, degrees = paired_error(differences, samples=samples, groups=groups)
    half = t_quantile(degrees) * error if degrees else 2.0
    return Interval(value=value, low=max(value - half, -1.0), high=min(value + half, 1.0), n=n)


def paired_values(a: Sequence[float], b: Sequence[float]) -> np.ndarray:
    """a_i - b_i of per-problem values in [0, 1]."""
    first, second = (_in_unit_interval(x, "paired_difference") for x in (a, b))
    if first.size != second.size:
        raise ValueError(f"paired_difference: {first.size} values against {second.size}")
    return first - second


def paired_error(
    differences: np.ndarray, *, samples: int, groups: Sequence[Hashable] | None
) -> tuple[float, int]:
    """Standard error of `paired_difference` and its degrees of freedom; 2 and 0 of one cluster."""
    sums = cluster_sums(differences - differences.mean(), groups)
    if sums.size < 2:
        return 2.0, 0
    squares = (float((sums**2).sum()) + 1 / samples) * sums.size / (sums.size - 1)
    return math.sqrt(squares) / differences.size, sums.size - 1


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> float:
    """Exact two-sided p-value that two models are equally often right on the same problems.

    Only problems that one got right and the other wrong count; under the null each is a fair
    coin: p = min(1, 2 P(X <= min(b, c))), X ~ Binomial(b + c, 1/2).
    """
    if not a:
        raise ValueError("mcnemar: no problems")
    pairs = list(zip(a, b, strict=True))
    only_a = sum(x and not y for x, y in pairs)
    only_b = sum(y and not x for x, y in pairs)
    discordant = only_a + only_b
    tail = sum(math.comb(discordant, i) for i in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**discordant)


def t_quantile(degrees: int) -> float:
    """97.5 % quantile of Student's t: exact for 1 and 2 degrees of freedom, else within 1 %.

    Expansion in 1 / degrees: Abramowitz and Stegun 26.7.5.
    """
    if degrees < 1:
        raise ValueError("t_quantile: needs at least one degree of freedom")
    if degrees == 1:
        return math.tan(math.pi * 0.475)
    if degrees == 2:
        return 0.95 * math.sqrt(2 / (4 * 0.975 * 0.025))
    z = Z
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / degrees**power for power, term in enumerate(terms))


def _in_unit_interval(values: Sequence[float], where: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError(f"{where}: no problems")
    if not ((array >= 0.0) & (array <= 1.0)).all():
        raise ValueError(f"{where}: values outside [0, 1]: {array.min()} to {array.max()}")
    return array
