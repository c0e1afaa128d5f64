"""Samples of a benchmark in whole rounds, until its error bar is as narrow as was asked for.

Every problem gets the same number of samples, so that no problem weighs more than another, and only
the width of the bar decides, never how a model stands against another. A round follows from the
answers before it alone, so that an interrupted evaluation goes on to the same end.
"""

from collections.abc import Callable, Iterator, Sequence

from factory.core.records import EvalSample, Stopped, Verdict
from factory.evaluation.runs import EvalRequest, OwnRun, Run
from factory.evaluation.statistics import sampling_half_width

IsEnough = Callable[[Run, int], bool]
"""Whether so many samples a problem are enough of a run that may end early."""


def rounds(requests: Sequence[EvalRequest], is_enough: IsEnough) -> Iterator[list[EvalRequest]]:
    """The requests of each round; `is_enough` is asked once the round before is graded.

    A run without a rule has all its requests in the first round, one with a rule `least` samples a
    problem in each.
    """
    runs = {request.run.name: request.run for request in requests}
    done = dict.fromkeys(runs, 0)
    going = set(runs)
    while going:
        upto = {
            name: run.samples if run.stop_at is None else done[name] + run.stop_at.least
            for name, run in runs.items()
            if name in going
        }
        yield [
            request
            for request in requests
            if (name := request.run.name) in going and done[name] <= request.sample < upto[name]
        ]
        done |= {name: min(upto[name], runs[name].samples) for name in going}
        going = {
            name
            for name in going
            if done[name] < runs[name].samples and not is_enough(runs[name], done[name])
        }


def is_narrow(run: OwnRun, samples: Sequence[EvalSample]) -> bool:
    """Whether the strict verdicts of a run make its sampling error as small as its rule asks."""
    if run.stop_at is None:
        return False
    right = {problem.id: 0 for problem in run.problems}
    for sample in samples:
        right[sample.trace.problem_id] += sample.trace.verdict.is_correct
    half_width = sampling_half_width(list(right.values()), len(samples) // len(right))
    return half_width <= run.stop_at.half_width


def stopped(run: Run, groups: Sequence[Sequence[Verdict]]) -> Stopped | None:
    """What became of a run's rule, from the strict verdicts of each problem; None without."""
    if run.stop_at is None:
        return None
    right = [sum(verdict.is_correct for verdict in group) for group in groups]
    reached = sampling_half_width(right, len(groups[0]))
    return Stopped(asked=run.samples, rule=run.stop_at, half_width=reached)
