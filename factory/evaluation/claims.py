"""Claims of a recipe, each measured on scores of its own stages and told as shown or not.

A claim compares two groups of evaluations on the same problems. A group holds one evaluation a
training seed, so that the interval speaks of other problems and other seeds alike.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from factory.core.records import EvalSample, Record
from factory.evaluation.claim import Claim
from factory.evaluation.measure import MEASURES, value_of
from factory.evaluation.statistics import Interval, t_quantile

ClaimVerdict = Literal["shown", "not shown", "contradicted"]
PerProblem = Mapping[str, float]


class Finding(Record):
    """A claim with what was measured."""

    claim: Claim
    mean_of: float
    mean_against: float
    difference: Interval
    p_value: float
    """Two-sided, that the difference is zero; Student's t with the interval's own error."""
    seeds: int
    verdict: ClaimVerdict


def measured(samples: Sequence[EvalSample], measure: str) -> dict[str, float]:
    """The measure by problem id, over its sampled completions; greedy ones do not count.

    A completion that it does not apply to is left out. PluginError where the measure fails.
    """
    by_problem: dict[str, list[float]] = {}
    for sample in samples:
        if sample.mode == "sampled" and (value := value_of(measure, sample)) is not None:
            by_problem.setdefault(sample.trace.problem_id, []).append(value)
    if MEASURES[measure].of_problem == "largest":
        return {problem: max(values) for problem, values in by_problem.items()}
    return {problem: sum(values) / len(values) for problem, values in by_problem.items()}


def decide(
    claim: Claim, groups: Sequence[tuple[PerProblem, PerProblem]], *, samples: int
) -> Finding | None:
    """The finding of a claim from (of, against) per training seed, each by problem id.

    None where fewer than two problems have a value on every side: there is no interval then.
    `samples` is the smallest number of completions behind a problem's value.
    """
    sides = [set(side) for pair in groups for side in pair]
    common = sides[0].intersection(*sides[1:])
    wanted = sorted(p for p in common if not claim.sources or p.startswith(claim.sources))
    if len(wanted) < 2:
        return None
    ours, theirs = (
        np.array([[pair[side][problem] for problem in wanted] for pair in groups])
        for side in (0, 1)
    )
    difference, p_value = crossed_difference(ours - theirs, samples=samples)
    return Finding(
        claim=claim,
        mean_of=float(ours.mean()),
        mean_against=float(theirs.mean()),
        difference=difference,
        p_value=p_value,
        seeds=len(groups),
        verdict=_verdict(claim, difference),
    )


def crossed_difference(values: np.ndarray, *, samples: int = 1) -> tuple[Interval, float]:
    """Mean of values (seeds, problems), its 95 % interval over other seeds and problems, and p.

        SE^2 = s_p^2 / P + s_s^2 / S,    degrees = SE^4 / ((s_p^2/P)^2/(P-1) + (s_s^2/S)^2/(S-1))

    s_p^2 is the variance over problems of the means over seeds, s_s^2 that over seeds of the means
    over problems (Welch and Satterthwaite's degrees of freedom). Noise inside a cell is in both
    terms, so the interval is a little wide. As in `paired_difference`, 1 / samples is added to the
    sum of squares over problems. One seed leaves the second term out: the interval then speaks of
    other problems only. p is two-sided, that the mean is zero.
    """
    from scipy.special import stdtr

    seeds, problems = values.shape
    mean = float(values.mean())
    if problems < 2:
        raise ValueError("crossed_difference: fewer than two problems")
    by_problem, by_seed = values.mean(axis=0), values.mean(axis=1)
    squares = float(((by_problem - mean) ** 2).sum()) + 1 / samples
    parts = [(squares / (problems - 1) / problems, problems - 1)]
    if seeds > 1:
        parts.append((float(by_seed.var(ddof=1)) / seeds, seeds - 1))
    variance = sum(part for part, _ in parts)
    degrees = variance**2 / sum(part**2 / free for part, free in parts)
    whole_degrees, error = max(1, math.floor(degrees)), math.sqrt(variance)
    half = t_quantile(whole_degrees) * error
    p_value = 2 * float(stdtr(whole_degrees, -abs(mean) / error))
    return Interval(value=mean, low=mean - half, high=mean + half, n=problems), p_value


def _verdict(claim: Claim, difference: Interval) -> ClaimVerdict:
    if claim.expect == "not lower":
        if difference.low > -claim.margin:
            return "shown"
        return "contradicted" if difference.high < -claim.margin else "not shown"
    sign = 1.0 if claim.expect == "higher" else -1.0
    low, high = sorted((sign * difference.low, sign * difference.high))
    if low > 0:
        return "shown"
    return "contradicted" if high < 0 else "not shown"
