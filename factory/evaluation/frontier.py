"""Accuracy against thinking tokens: a curve a model, and who is ahead of whom on both for certain.

A point is on the front where no other takes as few tokens of thought and is right as often. It is
behind for certain where another takes fewer **and** is right more often, both shown on the same
problems: the larger of the two p-values (Berger 1982), corrected for all pairs of points (Holm).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from factory.core.artifacts import Artifact
from factory.core.jsonl import read_records
from factory.core.records import Mode, Record
from factory.evaluation.budgets import FILE, Spent
from factory.evaluation.paired import ALPHA, CHUNK, holm
from factory.evaluation.statistics import (
    Interval,
    cluster_sums,
    clusters,
    mean_interval,
    paired_error,
    t_quantile,
)

DRAWS = 2_000
"""Of problems drawn anew, behind the interval of a ratio."""
Standing = Literal["front", "behind", "behind for certain"]
Key = tuple[str, Mode]


class CurvePoint(Record):
    """One model under one budget of thinking tokens."""

    model: str
    benchmark: str
    mode: Mode
    budget: int | None
    """None: thoughts as they were drawn."""
    n: int
    k: int
    closed: float
    """Share of the answers whose thoughts were closed."""
    accuracy: Interval
    """Strict pass@1, 95 % over problems."""
    thinking: Interval
    """Mean tokens of thought, 95 % over problems."""
    tokens: float
    """Mean tokens of an answer, thoughts and all."""
    tokens_per_right: float | None
    """Tokens drawn for each right answer; None where none is right."""
    tokens_per_right_low: float | None
    tokens_per_right_high: float | None
    """95 % over problems drawn anew; None without bound."""
    standing: Standing = "front"
    """Among all points of this benchmark that are shown together."""


class Side:
    """One model's answers under one budget: means by problem, in the order of their names."""

    def __init__(self, model: str, budget: int | None, rows: Sequence[Spent]) -> None:
        groups: dict[str, list[Spent]] = {}
        for row in rows:
            groups.setdefault(row.problem_id, []).append(row)
        self.model, self.budget, self.rows = model, budget, rows
        self.names = sorted(groups)
        members = [groups[name] for name in self.names]
        self.samples = min(map(len, members))
        self.right, self.thinking, self.tokens = (
            np.array([np.mean([value(row) for row in group]) for group in members])
            for value in (_right, _thinking, _tokens)
        )
        self.groups = clusters(self.names)

    def point(self) -> CurvePoint:
        """The point of the curve; everybody is on the front until compared."""
        low, high = _ratio_interval(self.tokens, self.right, self.groups)
        right = float(self.right.mean())
        return CurvePoint(
            model=self.model,
            benchmark=self.rows[0].benchmark,
            mode=self.rows[0].mode,
            budget=self.budget,
            n=len(self.names),
            k=self.samples,
            closed=sum(row.closed is not None for row in self.rows) / len(self.rows),
            accuracy=mean_interval(self.right.tolist(), samples=self.samples, groups=self.groups),
            thinking=_tokens_interval(self.thinking, self.groups),
            tokens=float(self.tokens.mean()),
            tokens_per_right=float(self.tokens.mean()) / right if right else None,
            tokens_per_right_low=low,
            tokens_per_right_high=high,
        )

    def ahead_p(self, other: "Side") -> float | None:
        """p-value against "not ahead on both"; None where it is not ahead as it stands."""
        if self.names != other.names:
            return None
        more, fewer = self.right - other.right, other.thinking - self.thinking
        if more.mean() <= 0 or fewer.mean() <= 0:
            return None
        samples = min(self.samples, other.samples)
        error, degrees = paired_error(more, samples=samples, groups=self.groups)
        return max(
            _t_p(float(more.mean()), error, degrees),
            _t_p(float(fewer.mean()), *_error(fewer, self.groups)),
        )


def _right(row: Spent) -> float:
    return float(row.is_correct)


def _thinking(row: Spent) -> float:
    return float(row.thinking_tokens)


def _tokens(row: Spent) -> float:
    return float(row.tokens)


def read_spent(artifact: Artifact) -> dict[Key, list[Spent]]:
    """By benchmark and mode what answers took; empty where the evaluation has no budgets."""
    by_key: dict[Key, list[Spent]] = {}
    if FILE in artifact.manifest.files:
        for row in read_records(artifact.file(FILE), Spent):
            by_key.setdefault((row.benchmark, row.mode), []).append(row)
    return by_key


def curves(models: Mapping[str, Mapping[Key, Sequence[Spent]]]) -> list[CurvePoint]:
    """The points of all models by benchmark and mode, model, and rising budget, with standings."""
    keys = dict.fromkeys(key for spent in models.values() for key in spent)
    return [
        point
        for key in keys
        for point in _compared([s for m, spent in models.items() for s in _sides(m, spent, key)])
    ]


def _sides(model: str, spent: Mapping[Key, Sequence[Spent]], key: Key) -> list[Side]:
    by_budget: dict[int | None, list[Spent]] = {}
    for row in spent.get(key, ()):
        by_budget.setdefault(row.budget, []).append(row)
    order = sorted(by_budget, key=lambda budget: math.inf if budget is None else budget)
    return [Side(model, budget, by_budget[budget]) for budget in order]


def _compared(sides: Sequence[Side]) -> list[CurvePoint]:
    points = [side.point() for side in sides]
    pairs = [
        (behind, p_value)
        for side in sides
        for behind, other in enumerate(sides)
        if side is not other and (p_value := side.ahead_p(other)) is not None
    ]
    corrected = holm([p_value for _, p_value in pairs])
    beaten = {at for (at, _), p in zip(pairs, corrected, strict=True) if p < ALPHA}
    return [
        point.model_copy(update={"standing": _standing(point, points, is_beaten=at in beaten)})
        for at, point in enumerate(points)
    ]


def together(points: Sequence[CurvePoint]) -> list[CurvePoint]:
    """Points of several reports on one front; what is certain rests on answers, which they lack."""
    return [
        point.model_copy(update={"standing": _standing(point, points, is_beaten=False)})
        for point in points
    ]


def _standing(point: CurvePoint, points: Sequence[CurvePoint], *, is_beaten: bool) -> Standing:
    if is_beaten:
        return "behind for certain"
    mine = (point.thinking.value, -point.accuracy.value)
    for other in points:
        theirs = (other.thinking.value, -other.accuracy.value)
        if theirs != mine and theirs[0] <= mine[0] and theirs[1] <= mine[1]:
            return "behind"
    return "front"


def _error(values: np.ndarray, groups: Sequence[str] | None) -> tuple[float, int]:
    """Standard error of a mean of values without bounds, and its degrees of freedom."""
    sums = cluster_sums(values - values.mean(), groups)
    if sums.size < 2:
        return math.inf, 0
    squares = float((sums**2).sum()) * sums.size / (sums.size - 1)
    return math.sqrt(squares) / values.size, sums.size - 1


def _t_p(mean: float, error: float, degrees: int) -> float:
    """Two-sided, Student's t; 1 where one cluster leaves no error."""
    from scipy.special import stdtr

    if degrees == 0:
        return 1.0
    return 2 * float(stdtr(degrees, -abs(mean) / error)) if error else 0.0


def _tokens_interval(values: np.ndarray, groups: Sequence[str] | None) -> Interval:
    """Student's t over problems, never below 0; without width where there is one cluster."""
    mean, (error, degrees) = float(values.mean()), _error(values, groups)
    half = t_quantile(degrees) * error if degrees else 0.0
    return Interval(value=mean, low=max(0.0, mean - half), high=mean + half, n=values.size)


def _ratio_interval(
    tokens: np.ndarray, right: np.ndarray, groups: Sequence[str] | None
) -> tuple[float | None, float | None]:
    """Percentile bootstrap of sum(tokens) / sum(right) over problems."""
    above, below = cluster_sums(tokens, groups), cluster_sums(right, groups)
    random = np.random.default_rng(0)
    ratios: list[np.ndarray] = []
    for _ in range(DRAWS // CHUNK):
        picks = random.integers(above.size, size=(CHUNK, above.size), dtype=np.int32)
        with np.errstate(divide="ignore"):
            ratios.append(above[picks].sum(axis=1) / below[picks].sum(axis=1))
    low, high = np.quantile(np.concatenate(ratios), [0.025, 0.975], method="inverted_cdf")
    return _finite(low), _finite(high)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
