"""Samples of a benchmark in whole rounds, until its error bar is as narrow as was asked for.

Every problem gets the same number of samples, so that no problem weighs more than another, and only
the width of the bar decides, never how a model stands against another. A round follows from the
answers before it alone, so that an interrupted evaluation goes on to the same end.
"""

from collections.abc import Callable, Iterator, Sequence

from factory.evaluation.runs import EvalRequest, Run, Verdicts
from factory.evaluation.statistics import sampling_half_width
from factory.records import Stopped, Verdict

IsEnough = Callable[[Run, int], bool]
"""Whether so many samples a problem are enough of a run that may end early."""


def rounds(draws: Sequence[EvalRequest], is_enough: IsEnough) -> Iterator[list[int]]:
    """Places of the draws of each round; `is_enough` is asked once the round before is graded.

    A run without a rule has all its draws in the first round, one with a rule `least` samples a
    problem in each.
    """
    runs = {draw.run.name: draw.run for draw in draws}
    drawn = dict.fromkeys(runs, 0)
    going = set(runs)
    while going:
        upto = {
            name: run.samples if run.stop_at is None else drawn[name] + run.stop_at.least
            for name, run in runs.items()
            if name in going
        }
        yield [
            place
            for place, draw in enumerate(draws)
            if draw.run.name in going and drawn[draw.run.name] <= draw.sample < upto[draw.run.name]
        ]
        drawn |= {name: min(upto[name], runs[name].samples) for name in going}
        going = {
            name
            for name in going
            if drawn[name] < runs[name].samples and not is_enough(runs[name], drawn[name])
        }


def is_narrow(run: Run, samples: int, verdicts: Verdicts) -> bool:
    """Whether the strict verdicts of a run make its sampling error as small as its rule asks."""
    if run.stop_at is None:
        return False
    graded = [verdicts[run.name, problem.id] for problem in run.problems or ()]
    right = [sum(strict.is_correct for strict, _ in pairs) for pairs in graded]
    return sampling_half_width(right, samples) <= run.stop_at.half_width


def stopped(run: Run, groups: Sequence[Sequence[Verdict]]) -> Stopped | None:
    """What became of a run's rule, from the strict verdicts drawn of each problem; None without."""
    if run.stop_at is None:
        return None
    right = [sum(verdict.is_correct for verdict in group) for group in groups]
    reached = sampling_half_width(right, len(groups[0]))
    return Stopped(asked=run.samples, rule=run.stop_at, half_width=reached)
