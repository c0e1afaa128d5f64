"""Two evaluations on the same problems: paired differences with their uncertainty."""

from collections.abc import Callable

from factory.artifacts import Artifact
from factory.errors import DataError
from factory.evaluation.statistics import Interval, mcnemar, paired_difference
from factory.jsonl import read_records
from factory.records import EvalSample, Record, Verdict

Answers = dict[str, list[EvalSample]]
"""Samples by problem id, in the file's order."""


class Comparison(Record):
    """How much better the first evaluation does than the second on one metric."""

    benchmark: str
    metric: str
    """pass@1, greedy, and both with the suffix `_lenient`."""
    a: str
    b: str
    difference: Interval
    """Mean over problems of a's share of right samples minus b's."""
    p_value: float | None
    """Exact McNemar test; None where a problem has several samples."""
    n: int


def compare(a: Artifact, b: Artifact) -> list[Comparison]:
    """The comparisons of all benchmarks and modes that two scores artifacts share.

    DataError if a benchmark of one name was asked on different problems: such numbers do not pair.
    """
    first, second = _read(a), _read(b)
    comparisons = []
    for benchmark, mode in first:
        if (benchmark, mode) not in second:
            continue
        ours, theirs = first[benchmark, mode], second[benchmark, mode]
        if ours.keys() != theirs.keys():
            raise DataError(
                f"benchmark {benchmark}: {a.name} and {b.name} were asked different problems "
                f"({len(ours)} and {len(theirs)}, {len(ours.keys() & theirs.keys())} in common)"
            )
        metric = "greedy" if mode == "greedy" else "pass@1"
        for name, verdict in ((metric, _strict), (f"{metric}_lenient", _lenient)):
            difference, p_value = _compare(ours, theirs, verdict)
            comparisons.append(
                Comparison(
                    benchmark=benchmark,
                    metric=name,
                    a=a.name,
                    b=b.name,
                    difference=difference,
                    p_value=p_value,
                    n=difference.n,
                )
            )
    return comparisons


def _read(artifact: Artifact) -> dict[tuple[str, str], Answers]:
    read: dict[tuple[str, str], Answers] = {}
    for sample in read_records(artifact.file("samples.jsonl"), EvalSample):
        answers = read.setdefault((sample.benchmark, sample.mode), {})
        answers.setdefault(sample.trace.problem_id, []).append(sample)
    return read


def _strict(sample: EvalSample) -> Verdict:
    return sample.trace.verdict


def _lenient(sample: EvalSample) -> Verdict:
    return sample.lenient


def _compare(
    ours: Answers, theirs: Answers, verdict: Callable[[EvalSample], Verdict]
) -> tuple[Interval, float | None]:
    # In the order of the first, whatever the order of the other's file.
    a, b = (
        [[verdict(sample).is_correct for sample in answers[key]] for key in ours]
        for answers in (ours, theirs)
    )
    samples = min(map(len, a + b))
    difference = paired_difference(
        [sum(marks) / len(marks) for marks in a],
        [sum(marks) / len(marks) for marks in b],
        samples=samples,
    )
    if max(map(len, a + b)) > 1:
        return difference, None
    return difference, mcnemar([marks[0] for marks in a], [marks[0] for marks in b])
