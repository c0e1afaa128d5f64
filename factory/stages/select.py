"""Stage `select`: rejection sampling. Keeps the traces worth learning from, and says why not."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field

from factory.artifacts import Inputs
from factory.context import Context, Metrics
from factory.cost.context import CostContext, StageCost
from factory.cost.flows import Answers, kept_rows
from factory.cost.work import line_work
from factory.errors import DataError
from factory.jsonl import write_records
from factory.records import Trace, TracesRef
from factory.stages.fates import fates
from factory.stages.fitness import Fitness, Rejected, fault
from factory.stages.small import keeping_all
from factory.stages.stage import Shows, light_stage, register

Preference = Literal["first", "shortest", "diverse"]


class SelectConfig(Fitness):
    """Writes traces.jsonl (kept) and rejected.jsonl (each with its first failing reason)."""

    kind: Literal["select"]
    traces: TracesRef
    max_per_problem: int = Field(default=4, ge=1, le=10**6)
    """Good traces of a problem beyond these are rejected (`over_quota`)."""
    prefer: Preference = "first"
    """Which of a problem's good traces are kept: the first sampled, the shortest, or those whose
    words overlap least with the ones already kept."""


def run(config: SelectConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Judge every trace; metrics `kept`, `problems` and `rejected.<reason>`."""
    traces = list(inputs["traces"].traces())
    reasons = select(traces, config)
    kept = [trace for trace, reason in zip(traces, reasons, strict=True) if reason is None]
    counts = Counter(reason for reason in reasons if reason is not None)
    if not kept:
        counted = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
        raise DataError(
            f"select: none of the {len(traces)} traces is left ({counted or 'there were none'}); "
            "loosen the settings or generate more"
        )
    write_records(out / "traces.jsonl", kept)
    write_records(
        out / "rejected.jsonl",
        (
            Rejected(reason=reason, trace=trace)
            for trace, reason in zip(traces, reasons, strict=True)
            if reason is not None
        ),
    )
    problems = len({trace.problem_id for trace in kept})
    rejected = {f"rejected.{reason}": float(counts[reason]) for reason in sorted(counts)}
    return {"kept": float(len(kept)), "problems": float(problems), **rejected}


def select(traces: list[Trace], config: SelectConfig) -> list[str | None]:
    """Why each trace is rejected, None for those that are kept, in the order given.

    Of identical completions of a problem only the first can be kept, whatever the settings.
    """
    reasons = [fault(trace, config) for trace in traces]
    by_problem: dict[str, list[int]] = {}
    for index, trace in enumerate(traces):
        if reasons[index] is None:
            by_problem.setdefault(trace.problem_id, []).append(index)
    for indices in by_problem.values():
        seen: set[str] = set()
        distinct = []
        for index in indices:
            if traces[index].completion in seen:
                reasons[index] = "duplicate"
            else:
                distinct.append(index)
            seen.add(traces[index].completion)
        chosen = _preferred([traces[i] for i in distinct], config.prefer, config.max_per_problem)
        for position, index in enumerate(distinct):
            if position not in chosen:
                reasons[index] = "over_quota"
    return reasons


def _preferred(traces: list[Trace], prefer: Preference, count: int) -> set[int]:
    """Positions of the traces to keep."""
    if prefer == "diverse":
        return _least_alike(traces, count)
    order: Iterable[int] = range(len(traces))
    if prefer == "shortest":
        order = sorted(order, key=lambda i: (traces[i].completion_tokens, i))
    return set(list(order)[:count])


def _least_alike(traces: list[Trace], count: int) -> set[int]:
    """Greedy: the first, then always the one whose words overlap least with those chosen."""
    words = [set(trace.completion.split()) for trace in traces]

    def overlap(a: int, b: int) -> float:
        return len(words[a] & words[b]) / max(1, len(words[a] | words[b]))

    chosen: list[int] = []
    while len(chosen) < min(count, len(traces)):
        rest = (i for i in range(len(traces)) if i not in chosen)
        chosen.append(min(rest, key=lambda i: (max([overlap(i, c) for c in chosen] or [0.0]), i)))
    return set(chosen)


def estimate(config: SelectConfig, cost: CostContext) -> tuple[StageCost, Answers]:
    traces: Answers = cost.read("traces")
    share = cost.kept.get(cost.name)
    assumed = kept_rows(traces, config.max_per_problem)
    rows = assumed if share is None else share * traces.rows
    problems = min(rows, traces.problems)
    return line_work(Answers(rows, problems, traces.question, traces.completion), read=traces.rows)


STAGE = register(
    light_stage(
        SelectConfig,
        produces="traces",
        version=2,
        run=run,
        estimate=estimate,
        small=keeping_all,
        packages=("py3langid",),
        shows=Shows("selection", fates),
    )
)
