"""Stage `review`: traces that people accept, edit or reject; what they left, by a stated policy.

In R1's cold start people verified a second time what a model had rewritten (arXiv 2501.12948 v2,
B.3.2). `factory review` appends their decisions to a file that this stage reads. An artifact never
looks more human than it is: it says how many traces a person decided and which policy let the
others pass.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from factory.core.artifacts import Artifact, Inputs
from factory.core.blocks import Block, Text
from factory.core.context import Context, Metrics
from factory.core.data_file import DataFile
from factory.core.errors import DataError
from factory.core.jsonl import read_records, write_records
from factory.core.readable import percent
from factory.core.records import Problem, ProblemsRef, Trace, TracesRef
from factory.cost.context import CostContext, StageCost
from factory.cost.flows import Answers
from factory.cost.work import line_work
from factory.grading import GRADING_PACKAGES, GradeItem, GradingPool
from factory.preferences.review import Decision, Decisions, final, passes_agree, pending, standing
from factory.stages.fates import fates
from factory.stages.fitness import Fitness, Rejected, fault
from factory.stages.small import keeping_all
from factory.stages.stage import (
    Fields,
    Shows,
    light_stage,
    register,
)
from factory.text.chat import OutputForm, canonical_text, parse

NOT_REVIEWED = "not reviewed by a person"


class ReviewConfig(Fitness):
    """Writes traces.jsonl, rejected.jsonl (each with its reason) and review.json."""

    kind: Literal["review"]
    traces: TracesRef
    problems: ProblemsRef
    """Where the questions come from: an edited answer is graded again."""
    decisions: DataFile | None = None
    """JSONL that `factory review` appends to, relative to the recipe or to the current folder; it
    need not be there yet."""
    policy: Literal["wait", "accept", "filters"] = "wait"
    """What becomes of traces that nobody decided. `wait`: the stage refuses to go on, also where a
    second pass is missing. `accept`: they pass. `filters`: those pass that pass the tests."""
    second_pass: float = Field(default=1.0, ge=0.0, le=1.0)
    """Share of the traces that a second reviewer looks at, without seeing the first decision; the
    second decision counts. The paper had all of them verified a second time."""
    form: OutputForm | None = None
    """The output form of the traces; None: the four tags."""


def run(config: ReviewConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Apply decisions and policy; metrics `kept`, `by_person`, `by_policy`, `edited`,
    `rejected.<reason>`, and `agreement.n`, `.share`, `.kappa` where traces were looked at twice.
    """
    traces = list(inputs["traces"].traces())
    decisions = read_decisions(config)
    if config.policy == "wait":
        _refuse_to_wait(config, traces, decisions)
    fates = _fates(config, traces, decisions, inputs)
    kept = [trace for trace, reason in fates if reason is None]
    counts = Counter(reason for _, reason in fates if reason is not None)
    if not kept:
        counted = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
        raise DataError(
            f"review: none of the {len(traces)} traces is left ({counted or 'none came'})"
        )
    write_records(out / "traces.jsonl", kept)
    write_records(
        out / "rejected.jsonl",
        (Rejected(reason=reason, trace=trace) for trace, reason in fates if reason is not None),
    )
    chosen = [final(trace, decisions) for trace in traces]
    people = [decision for decision in chosen if decision is not None]
    agreed = passes_agree(traces, decisions)
    metrics = {
        "kept": float(len(kept)),
        "by_person": float(len(people)),
        "by_policy": float(len(traces) - len(people)),
        "edited": float(sum(decision.choice == "edit" for decision in people)),
        **{f"rejected.{reason}": float(counts[reason]) for reason in sorted(counts)},
    }
    if agreed is not None:
        metrics |= {"agreement.n": float(agreed.n), "agreement.share": agreed.share}
        metrics |= {} if agreed.kappa is None else {"agreement.kappa": agreed.kappa}
    counted = statement(len(people), len(traces), config.policy)
    row = {"statement": counted, "policy": config.policy, **metrics}
    (out / "review.json").write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")
    context.note(f"review: {counted}")
    return metrics


def statement(people: int, traces: int, policy: str) -> str:
    """Who decided, in words: what artifact and report say."""
    if people == 0:
        return f"{NOT_REVIEWED}: all {traces} traces were left to the policy `{policy}`"
    rest = traces - people
    text = f"{people} of {traces} traces were decided by a person"
    return text + (f"; {rest} {NOT_REVIEWED}, by the policy `{policy}`" if rest else "")


def decision_files(config: ReviewConfig) -> tuple[Path, ...]:
    """The file of decisions, where there is one yet."""
    path = Path(config.decisions) if config.decisions is not None else None
    return (path,) if path is not None and path.is_file() else ()


def read_decisions(config: ReviewConfig) -> Decisions:
    """What counts of the file of decisions; DataError names a broken line."""
    return standing(
        decision for path in decision_files(config) for decision in read_records(path, Decision)
    )


def _refuse_to_wait(config: ReviewConfig, traces: Sequence[Trace], decisions: Decisions) -> None:
    first = pending(traces, decisions, 1, second_pass=config.second_pass)
    second = pending(traces, decisions, 2, second_pass=config.second_pass)
    if first or second:
        raise DataError(
            f"review: {len(first)} of {len(traces)} traces wait for a person and {len(second)} for "
            "a second one: run `factory review` on the recipe, or state a policy"
        )


def _fates(
    config: ReviewConfig, traces: Sequence[Trace], decisions: Decisions, inputs: Inputs
) -> list[tuple[Trace, str | None]]:
    """Each trace as it is kept, or with the reason why it is not."""
    edits: dict[int, Trace] = {}
    fates: list[tuple[Trace, str | None]] = []
    for index, trace in enumerate(traces):
        decision = final(trace, decisions)
        if decision is None:
            reason = fault(trace, config) if config.policy == "filters" else None
            fates.append((trace, reason))
        elif decision.choice == "edit":
            edits[index] = edited(trace, decision, config.form)
            fates.append((edits[index], None))
        else:
            fates.append((trace, decision.reason and f"reviewer: {decision.reason}"))
    for index, graded in _graded(config, edits, inputs).items():
        reason = fault(graded, config)
        fates[index] = (graded, reason and f"edit: {reason}")
    return fates


def edited(trace: Trace, decision: Decision, form: OutputForm | None) -> Trace:
    """The trace with a reviewer's text in it, as if it had been written so; not graded yet."""
    reasoning, ending = decision.reasoning or "", decision.ending or ""
    text = canonical_text(reasoning, ending, ending, form)
    response = parse(text, form=form)
    return trace.model_copy(
        update={
            "completion": text,
            "reasoning": response.reasoning,
            "answer": response.answer,
            "summary": response.summary,
            "finish_reason": "stop",
            "completion_tokens": 0,
            "style": "written",
        }
    )


def _graded(config: ReviewConfig, edits: dict[int, Trace], inputs: Inputs) -> dict[int, Trace]:
    """Edited traces with their new verdicts; DataError where a problem is missing."""
    if not edits:
        return {}
    problems = {p.id: p for p in read_records(inputs["problems"].file("train.jsonl"), Problem)}
    strange = sorted({t.problem_id for t in edits.values()} - set(problems))
    if strange:
        raise DataError(
            f"review: an edited trace is about {strange[0]}, none of the training problems of "
            f"{inputs['problems'].name}, so it could not be graded again"
        )
    items = [
        GradeItem(problems[trace.problem_id], trace.completion, form=config.form)
        for trace in edits.values()
    ]
    with GradingPool() as pool:
        verdicts = pool.grade(items)
    return {
        index: trace.model_copy(update={"verdict": verdict})
        for (index, trace), verdict in zip(edits.items(), verdicts, strict=True)
    }


def estimate(config: ReviewConfig, cost: CostContext) -> tuple[StageCost, Answers]:
    return line_work(cost.read("traces"))


def small(fields: Fields) -> Fields:
    return {**keeping_all(fields), "decisions": None, "policy": "accept"}


def shown(artifact: Artifact) -> Sequence[Block]:
    manifest = artifact.manifest
    remark = review_remark(manifest.metrics, str(manifest.config.get("policy")))
    return [Text(f"{remark}.", "strong"), *fates(artifact)]


def review_remark(metrics: Mapping[str, float], policy: str) -> str:
    """Who decided about a review's traces, and how far two passes agree."""
    people, rest = round(metrics.get("by_person", 0)), round(metrics.get("by_policy", 0))
    text = statement(people, people + rest, policy)
    if "agreement.n" not in metrics:
        return text
    kappa = metrics.get("agreement.kappa")
    shown = "not defined" if kappa is None else f"{kappa:.2f}"
    return (
        f"{text}; two passes agree on {percent(metrics['agreement.share'], 0)} of "
        f"{round(metrics['agreement.n'])} traces, Cohen's kappa {shown}"
    )


STAGE = register(
    light_stage(
        ReviewConfig,
        produces="traces",
        version=3,
        run=run,
        estimate=estimate,
        small=small,
        packages=("py3langid", *GRADING_PACKAGES),
        external_files=decision_files,
        shows=Shows("selection", shown),
    )
)
