"""Two evaluations on the same problems: paired differences with their uncertainty."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from factory.core.artifacts import Artifact
from factory.core.errors import DataError
from factory.core.records import EvalSample, Record, Verdict
from factory.evaluation.paired import ALPHA, Power, bootstrap_interval, fall_p, holm, paired, power
from factory.evaluation.statistics import Interval, clusters
from factory.evaluation.summary import ByMode, common_samples, read_answers

EFFECT = 0.02
"""The difference that advice on power speaks of: two points."""


class Comparison(Record):
    """How much better the first evaluation does than the second on one metric."""

    benchmark: str
    metric: str
    """pass@1, greedy, and both with the suffix `_lenient`."""
    a: str
    b: str
    value_a: float
    value_b: float
    difference: Interval
    """Mean over problems of a's share of right samples minus b's."""
    bootstrap: Interval
    """The same by drawing problems anew."""
    test: str
    """`mcnemar`, exact, where every problem has one sample, else `permutation`."""
    p_value: float
    p_corrected: float
    """Holm's, for the number of strict (or of lenient) comparisons made at once."""
    fall_p: float | None
    """Corrected p-value against "a did not fall further than allowed"; None where nobody asked, or
    of a lenient metric."""
    n: int
    samples: tuple[int, int]
    """Samples a problem that are compared, of a and of b: the first that both have."""
    samples_drawn: tuple[int, int]
    """Samples a problem that a and b have."""
    power: Power

    @property
    def is_difference(self) -> bool:
        """Whether the corrected test and the interval agree that there is one."""
        return is_apart(self.difference) and self.p_corrected < ALPHA

    @property
    def has_fallen(self) -> bool:
        """Whether it is shown that a fell further than allowed."""
        return self.fall_p is not None and self.fall_p < ALPHA


def is_apart(difference: Interval) -> bool:
    """Whether an interval leaves zero out."""
    return difference.low > 0 or difference.high < 0


@dataclass(frozen=True)
class Pairing:
    """One metric of one benchmark, problem by problem: shares of right samples."""

    benchmark: str
    metric: str
    a: list[float]
    b: list[float]
    samples: tuple[int, int]
    samples_drawn: tuple[int, int]
    groups: list[str] | None


def compare(a: Artifact, b: Artifact, *, allowed_fall: float | None = None) -> list[Comparison]:
    """The comparisons of all benchmarks and modes that two scores artifacts share.

    With `allowed_fall` (-0.01: one point) the strict ones are also tested against falling further.
    DataError if a benchmark of one name was asked on different problems: such numbers do not pair.
    """
    names, sides = (a.name, b.name), (read_answers(a), read_answers(b))
    strict, lenient = (
        _pairings(*sides, names, is_lenient=is_lenient) for is_lenient in (False, True)
    )
    rows = _family(strict, names, allowed_fall) + _family(lenient, names)
    order = {pairing.benchmark: index for index, pairing in enumerate(strict)}
    return sorted(rows, key=lambda row: order[row.benchmark])


def _pairings(
    first: ByMode, second: ByMode, names: tuple[str, str], *, is_lenient: bool
) -> list[Pairing]:
    pairings: list[Pairing] = []
    for benchmark, mode in first:
        if (benchmark, mode) not in second:
            continue
        ours, theirs = first[benchmark, mode], second[benchmark, mode]
        if ours.keys() != theirs.keys():
            raise DataError(
                f"benchmark {benchmark}: {names[0]} and {names[1]} were asked different problems "
                f"({len(ours)} and {len(theirs)}, {len(ours.keys() & theirs.keys())} in common)"
            )
        samples = (min(map(len, ours.values())), min(map(len, theirs.values())))
        ours, theirs, k = common_samples(ours, theirs)
        metric = "greedy" if mode == "greedy" else "pass@1"
        name, judge = (f"{metric}_lenient", _lenient) if is_lenient else (metric, _strict)
        # In the order of the first, whatever the order of the other's file.
        sides = [[answers[problem] for problem in ours] for answers in (ours, theirs)]
        pairings.append(
            Pairing(
                benchmark=benchmark,
                metric=name,
                a=_shares(sides[0], judge),
                b=_shares(sides[1], judge),
                samples=(k, k),
                samples_drawn=samples,
                groups=clusters(list(ours)),
            )
        )
    return pairings


def _strict(sample: EvalSample) -> Verdict:
    return sample.trace.verdict


def _lenient(sample: EvalSample) -> Verdict:
    return sample.lenient


def _shares(
    problems: Sequence[Sequence[EvalSample]], judge: Callable[[EvalSample], Verdict]
) -> list[float]:
    return [sum(judge(sample).is_correct for sample in group) / len(group) for group in problems]


def _family(
    pairings: Sequence[Pairing], names: tuple[str, str], allowed_fall: float | None = None
) -> list[Comparison]:
    """Comparisons corrected for each other's number."""
    results = [paired(o.a, o.b, samples=min(o.samples), groups=o.groups) for o in pairings]
    corrected = holm([result.p_value for result in results])
    falls: list[float | None] = [None] * len(pairings)
    if allowed_fall is not None:
        tests = [
            fall_p(
                pairing.a,
                pairing.b,
                beyond=allowed_fall,
                samples=min(pairing.samples),
                groups=pairing.groups,
            )
            for pairing in pairings
        ]
        falls = list(holm(tests))
    return [
        Comparison(
            benchmark=pairing.benchmark,
            metric=pairing.metric,
            a=names[0],
            b=names[1],
            value_a=sum(pairing.a) / len(pairing.a),
            value_b=sum(pairing.b) / len(pairing.b),
            difference=result.difference,
            bootstrap=bootstrap_interval(pairing.a, pairing.b, groups=pairing.groups),
            test=result.test,
            p_value=result.p_value,
            p_corrected=p_corrected,
            fall_p=fall,
            n=result.difference.n,
            samples=pairing.samples,
            samples_drawn=pairing.samples_drawn,
            power=power(
                pairing.a, pairing.b, effect=EFFECT, samples=pairing.samples, groups=pairing.groups
            ),
        )
        for pairing, result, p_corrected, fall in zip(
            pairings, results, corrected, falls, strict=True
        )
    ]
