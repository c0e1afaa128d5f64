"""Stage `judge`: a model compares open answers with their references, so that `select` can use it.

R1 had such a judge for the answers of its 600k reasoning samples that no rule can check
(arXiv 2501.12948 v2, B.3.3).
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from factory.core.artifacts import Inputs
from factory.core.context import Context, Metrics
from factory.core.errors import DataError
from factory.core.jsonl import read_records, write_records
from factory.core.records import Problem, ProblemsRef, Trace, TracesRef
from factory.cost.context import CostContext, StageCost
from factory.cost.flows import Answers
from factory.grading import check_ungradable
from factory.grading.judge import JudgeSettings
from factory.sampling.judging import (
    Item,
    Opinion,
    agreement,
    ask_judge,
    is_ruled,
    spread,
)
from factory.stages.judged import judge_blocks, judge_work
from factory.stages.small import small_judge
from factory.stages.stage import (
    Shows,
    StageConfig,
    register,
    sampling_stage,
)


class JudgeConfig(JudgeSettings, StageConfig):
    """Writes traces.jsonl, open ones with the judge's verdict, and judgements.jsonl."""

    kind: Literal["judge"]
    traces: TracesRef
    problems: ProblemsRef
    """What the traces answer; their references are in it."""


def run(config: JudgeConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Judge the answers to open problems; all other traces stay as they are.

    EngineError if more than `max_ungradable` of them stay undecided.
    """
    traces = list(inputs["traces"].traces())
    problems = {
        problem.id: problem
        for split in ("train", "held_out")
        for problem in read_records(inputs["problems"].file(f"{split}.jsonl"), Problem)
    }
    waiting = [index for index, trace in enumerate(traces) if _waits(trace, problems)]
    if not waiting:
        context.note(f"judge: none of the {len(traces)} traces answers a problem of kind open")
    ruled = [
        index
        for index, trace in enumerate(traces)
        if is_ruled(problems[trace.problem_id], trace.verdict)
    ]
    compared = spread(ruled, config.agreement)
    items = [_item(traces[index], problems) for index in (*waiting, *compared)]
    results = ask_judge(items, config, model=inputs["model"].path, context=context)
    write_records(out / "judgements.jsonl", (vote for result in results for vote in result.votes))
    verdicts = {i: result.verdict for i, result in zip(waiting, results, strict=False)}
    check_ungradable(list(verdicts.values()), limit=config.max_ungradable)
    write_records(
        out / "traces.jsonl",
        (
            trace.model_copy(update={"verdict": verdicts.get(index, trace.verdict)})
            for index, trace in enumerate(traces)
        ),
    )
    judges = [result.verdict for result in results[len(waiting) :]]
    rules = [traces[index].verdict for index in compared]
    return {
        **_metrics(len(traces), results[: len(waiting)]),
        **agreement(list(zip(rules, judges, strict=True))),
    }


def _item(trace: Trace, problems: dict[str, Problem]) -> Item:
    return Item(
        f"{trace.problem_id}/{trace.sample}", problems[trace.problem_id], trace.sample,
        trace.answer or "", seeded_by=("judge", trace.problem_id, trace.sample),
    )  # fmt: skip


def _waits(trace: Trace, problems: dict[str, Problem]) -> bool:
    """Whether a trace waits for a judge; DataError if its problem is not among `problems`."""
    problem = problems.get(trace.problem_id)
    if problem is None:
        raise DataError(
            f"judge: problems holds no {trace.problem_id!r}, which the traces answer; "
            "name the stage that these traces were generated from"
        )
    is_undecided = trace.verdict.outcome == "ungradable" and trace.answer is not None
    return problem.kind == "open" and is_undecided


def _metrics(traces: int, results: Sequence[Opinion]) -> Metrics:
    counts = Counter(result.verdict.outcome for result in results)
    votes = [vote for result in results for vote in result.votes]
    return {
        "traces": float(traces),
        "judged": float(len(results)),
        **{name: float(counts[name]) for name in ("correct", "wrong", "ungradable")},
        "unread_share": sum(vote.judgement is None for vote in votes) / max(1, len(votes)),
    }


def estimate(config: JudgeConfig, cost: CostContext) -> tuple[StageCost, Answers]:
    traces: Answers = cost.read("traces")
    return judge_work(
        cost, "model", config, question=traces.question, completion=traces.completion,
        rows=traces.rows,
    ), traces  # fmt: skip


STAGE = register(
    sampling_stage(
        JudgeConfig,
        produces="traces",
        version=2,
        run=run,
        estimate=estimate,
        small=small_judge,
        shows=Shows("stages", judge_blocks),
    )
)
