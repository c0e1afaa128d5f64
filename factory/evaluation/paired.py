"""Two models on the same problems: tests, resampling, corrections for many tests, and power.

Values are per-problem shares of right samples, the same problems in the same order on both sides.
`groups` are the problems' clusters (`statistics.cluster_of`); None takes each problem for its own.
"""

import math
from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np

from factory.core.records import Record
from factory.evaluation.statistics import (
    Interval,
    Z,
    cluster_sums,
    mcnemar,
    paired_difference,
    paired_error,
    paired_values,
)

ALPHA = 0.05
"""A difference is called one below this p-value, after Holm's correction where there are many."""
DRAWS = 10_000
"""Resamples: a p-value of 0.05 then has a standard error of 0.002."""
CHUNK = 500
"""Resamples made at a time: thousands of problems then take megabytes."""
EXACT_UNITS = 13
"""Up to this many clusters that differ, all sign patterns (8192) are counted instead of drawn."""
Z_POWER = 0.8416212335729143
"""80 % quantile of the normal distribution: the power that `power` speaks of."""

Groups = Sequence[Hashable] | None


class Paired(Record):
    """What two models' answers to the same problems say about their difference."""

    difference: Interval
    """Student's t on the differences: `statistics.paired_difference`."""
    p_value: float
    test: Literal["mcnemar", "permutation"]
    clusters: int


class Power(Record):
    """What a comparison can see: differences that it would find significant four times in five."""

    visible: float
    """The smallest such difference with the problems and samples at hand."""
    effect: float
    """The difference that was asked about."""
    samples: int | None
    """Samples a problem, of both models, that would show `effect` on these problems; None where no
    number does, or where one sample a problem cannot tell how much samples vary."""
    problems: int
    """Problems like these that would show `effect` with the present samples."""
    knows_sampling: bool
    """Whether both sides have several samples a problem."""


def paired(
    a: Sequence[float], b: Sequence[float], *, samples: int, groups: Groups = None, seed: int = 0
) -> Paired:
    """The difference with its interval and its p-value.

    With shares of 0 and 1 only and no clusters the test is McNemar's, exact; else the permutation
    test. `samples` is the smaller number of samples a problem.
    """
    units = cluster_sums(paired_values(a, b), groups).size
    is_single = units == len(a) and {*a, *b} <= {0.0, 1.0}
    if is_single:
        p_value = mcnemar([x == 1 for x in a], [x == 1 for x in b])
    else:
        p_value = permutation_p(a, b, groups=groups, seed=seed)
    return Paired(
        difference=paired_difference(a, b, samples=samples, groups=groups),
        p_value=p_value,
        test="mcnemar" if is_single else "permutation",
        clusters=units,
    )


def bootstrap_interval(
    a: Sequence[float], b: Sequence[float], *, groups: Groups = None, seed: int = 0
) -> Interval:
    """Mean difference with the 2.5 and 97.5 % quantiles over problems (clusters) drawn anew.

    The percentile bootstrap (Efron and Tibshirani 1993, 13.3), DRAWS resamples. It is narrow below
    some 30 problems, and of no width where all differences are equal: read it beside
    `paired_difference`, which is not.
    """
    differences = paired_values(a, b)
    sums = cluster_sums(differences, groups)
    sizes = cluster_sums(np.ones(differences.size), groups)
    random = np.random.default_rng(seed)
    means: list[np.ndarray] = []
    for _ in range(DRAWS // CHUNK):
        picks = random.integers(sums.size, size=(CHUNK, sums.size), dtype=np.int32)
        means.append(sums[picks].sum(axis=1) / sizes[picks].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    value = float(differences.mean())
    return Interval(value=value, low=float(low), high=float(high), n=differences.size)


def permutation_p(
    a: Sequence[float], b: Sequence[float], *, groups: Groups = None, seed: int = 0
) -> float:
    """Two-sided p-value that it does not matter which model an answer came from.

    Under the null each cluster's sum of differences may as well have the other sign. p is the share
    of sign patterns whose sum is at least as large as the one seen: of all of them with up to
    EXACT_UNITS clusters that differ, else (1 + hits) / (1 + DRAWS) over drawn ones (Phipson and
    Smyth 2010), which is never 0. With one sample a problem it is McNemar's exact test.
    """
    sums = cluster_sums(paired_values(a, b), groups)
    sums = sums[sums != 0]
    if sums.size == 0:
        return 1.0
    # Sums that differ by rounding only are equal.
    seen = abs(float(sums.sum())) - 1e-9
    if sums.size <= EXACT_UNITS:
        bits = np.arange(sums.size)
        patterns = np.asarray(np.arange(2**sums.size)[:, None] >> bits & 1, dtype=np.int64)
        return float(np.mean(abs((2 * patterns - 1) @ sums) >= seen))
    random = np.random.default_rng(seed)
    width, hits = -(-sums.size // 8), 0
    for _ in range(DRAWS // CHUNK):
        noise = np.frombuffer(random.bytes(CHUNK * width), dtype=np.uint8).reshape(CHUNK, width)
        bits = np.unpackbits(noise, axis=1, count=sums.size).astype(np.float64)
        hits += int((abs(2 * (bits @ sums) - sums.sum()) >= seen).sum())
    return (1 + hits) / (1 + DRAWS)


def fall_p(
    a: Sequence[float],
    b: Sequence[float],
    *,
    beyond: float,
    samples: int,
    groups: Groups = None,
) -> float:
    """One-sided p-value against "a - b is `beyond` or more": small where a has fallen further.

    Student's t with the error of `paired_difference`; 1 where one cluster leaves no error.
    """
    from scipy.special import stdtr

    differences = paired_values(a, b)
    error, degrees = paired_error(differences, samples=samples, groups=groups)
    if degrees == 0:
        return 1.0
    return float(stdtr(degrees, (float(differences.mean()) - beyond) / error))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in their order: below ALPHA none is wrong in 95 %.

    The i-th smallest of m is multiplied by m - i + 1 and is never below a smaller one's, nor above
    1 (Holm 1979).
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - rank)))
        corrected[index] = highest
    return corrected


def power(
    a: Sequence[float],
    b: Sequence[float],
    *,
    effect: float,
    samples: tuple[int, int],
    groups: Groups = None,
) -> Power:
    """What a comparison at 5 % and 80 % power can see, from the noise in the present one.

        visible^2 = (z_0.975 + z_0.8)^2 V / n,     V = between + within_a / k_a + within_b / k_b

    V is n times the squared error of `paired_difference`; within is the mean variance of a single
    sample, mean p_i (1 - p_i) k / (k - 1); between, the rest, is how much true differences vary
    over problems, which no number of samples lowers (Miller 2024, arXiv 2411.00640, section 5).
    The numbers are estimates: between rests on few problems, and is cut at 0.
    """
    differences = paired_values(a, b)
    n = differences.size
    error, degrees = paired_error(differences, samples=min(samples), groups=groups)
    quantiles = (Z + Z_POWER) ** 2
    total = error**2 * n
    wanted = effect**2 * n / quantiles
    knows_sampling = min(samples) > 1
    needed = None
    if knows_sampling and degrees:
        within = [
            float(np.mean([p * (1 - p) for p in rates])) * k / (k - 1)
            for rates, k in zip((a, b), samples, strict=True)
        ]
        noise = within[0] / samples[0] + within[1] / samples[1]
        between = max(total - noise, 0.0)
        if wanted > between:
            needed = max(1, math.ceil(sum(within) / (wanted - between)))
    return Power(
        visible=math.sqrt(quantiles * total / n),
        effect=effect,
        samples=needed,
        problems=math.ceil(quantiles * total / effect**2),
        knows_sampling=knows_sampling,
    )


def advice(result: Power, *, n: int, samples: tuple[int, int]) -> str:
    """What a comparison could see, and what it would take to see the effect asked about."""
    effect = f"{100 * result.effect:g} points"
    now = f"sees differences of {100 * result.visible:.1f} points or more (80 % power)"
    if result.visible <= result.effect:
        return now
    more = f"{result.problems} problems like these would show {effect}"
    if not result.knows_sampling:
        return f"{now}; {more}; one sample a problem cannot tell what more samples would"
    if result.samples is None:
        return f"{now}; {effect} cannot be seen on these {n} problems with any k; {more}"
    present = " and ".join(str(k) for k in dict.fromkeys(samples))
    return f"{now}; to see {effect} you need k = {result.samples} (now {present}); or {more}"
