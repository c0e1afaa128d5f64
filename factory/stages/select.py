"""Stage `select`: rejection sampling. Keeps the traces worth learning from, and says why not."""

from array import array
from collections import Counter
from collections.abc import Container, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from factory.core.artifacts import Inputs
from factory.core.context import Context, Metrics
from factory.core.errors import DataError
from factory.core.jsonl import read_records
from factory.core.parallel import in_order
from factory.core.records import AddedLater, Problem, ProblemsRef, Trace, TracesRef
from factory.core.stored import BLOCK, StoredRecords, in_blocks, write_made
from factory.cost.context import CostContext, StageCost
from factory.cost.flows import Answers, kept_rows
from factory.cost.work import line_work
from factory.problems.equal import Digests
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
    among: Annotated[ProblemsRef | None, AddedLater()] = None
    """Only traces of the train split of these problems are kept (else `not_among`): those of a
    `pass_rates` stage leave out what is too easy or too hard."""
    prefer: Preference = "first"
    """Which of a problem's good traces are kept: the first sampled, the shortest, or those whose
    words overlap least with the ones already kept."""


def run(config: SelectConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Judge every trace; metrics `kept`, `problems` and `rejected.<reason>`."""
    traces = inputs["traces"].stored_traces()
    processes = context.machine.thread_count()
    reasons, problems = select(traces, config, among=_among(inputs), processes=processes)
    counts = Counter(reason for reason in reasons if reason is not None)
    if len(reasons) == counts.total():
        counted = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
        raise DataError(
            f"select: none of the {len(reasons)} traces is left ({counted or 'there were none'}); "
            "loosen the settings or generate more"
        )

    def rejected(index: int) -> Rejected:
        return Rejected(reason=str(reasons[index]), trace=traces[index])

    kept = array("Q", (index for index, reason in enumerate(reasons) if reason is None))
    others = array("Q", (index for index, reason in enumerate(reasons) if reason is not None))
    write_made(out / "traces.jsonl", kept, traces.__getitem__, traces.at_once, processes)
    write_made(out / "rejected.jsonl", others, rejected, traces.at_once, processes)
    by_problem = Digests(b"".join(problems[index] for index in kept))
    different = len(kept) - len(by_problem.repeated())
    by_reason = {f"rejected.{reason}": float(counts[reason]) for reason in sorted(counts)}
    return {"kept": float(len(kept)), "problems": float(different), **by_reason}


def _among(inputs: Inputs) -> set[str] | None:
    """Ids of the problems that count; None where all do."""
    if "among" not in inputs:
        return None
    return {problem.id for problem in read_records(inputs["among"].file("train.jsonl"), Problem)}


def select(
    traces: Sequence[Trace] | StoredRecords[Trace],
    config: SelectConfig,
    *,
    among: Container[str] | None = None,
    processes: int = 1,
) -> tuple[list[str | None], Digests]:
    """(why each trace is rejected, None for those that are kept, in the order given; its problem).

    Of identical completions of a problem only the first can be kept, whatever the settings. About
    60 bytes a trace are held.
    """

    def looked(places: Sequence[int]) -> list[tuple[str | None, bytes, bytes, int]]:
        rows = []
        for trace in map(traces.__getitem__, places):
            is_among = among is None or trace.problem_id in among
            reason = fault(trace, config) or (None if is_among else "not_among")
            digests = Digests.of(trace.problem_id), Digests.of(trace.completion)
            rows.append((reason, *digests, trace.completion_tokens))
        return rows

    reasons: list[str | None] = []
    problems, texts, lengths = Digests(), Digests(), array("Q")
    blocks = in_order(looked, in_blocks(range(len(traces)), BLOCK), processes)
    for reason, problem, text, length in chain.from_iterable(blocks):
        reasons.append(reason)
        problems.append(problem)
        texts.append(text)
        lengths.append(length)
    for places in problems.groups():
        seen: set[bytes] = set()
        distinct = []
        for index in (index for index in places if reasons[index] is None):
            if texts[index] in seen:
                reasons[index] = "duplicate"
            else:
                distinct.append(index)
            seen.add(texts[index])
        if len(distinct) > config.max_per_problem:
            chosen = _preferred(traces, distinct, lengths, config)
            for index in distinct:
                if index not in chosen:
                    reasons[index] = "over_quota"
    return reasons, problems


def _preferred(
    traces: Sequence[Trace] | StoredRecords[Trace],
    places: Sequence[int],
    lengths: Sequence[int],
    config: SelectConfig,
) -> set[int]:
    """Of the places of a problem's good traces, those to keep."""
    count = config.max_per_problem
    if config.prefer == "diverse":
        chosen = _least_alike([traces[index].completion for index in places], count)
        return {places[at] for at in chosen}
    if config.prefer == "shortest":
        places = sorted(places, key=lambda index: (lengths[index], index))
    return set(places[:count])


def _least_alike(texts: Sequence[str], count: int) -> set[int]:
    """Greedy: the first, then always the one whose words overlap least with those chosen."""
    words = [set(text.split()) for text in texts]

    def overlap(a: int, b: int) -> float:
        return len(words[a] & words[b]) / max(1, len(words[a] | words[b]))

    chosen: list[int] = []
    while len(chosen) < min(count, len(texts)):
        rest = (i for i in range(len(texts)) if i not in chosen)
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
