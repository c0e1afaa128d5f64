"""Stored answers of an evaluation graded again with the present graders, without a model."""

import json
from pathlib import Path
from typing import Literal, get_args

from factory.core.artifacts import Artifact, find
from factory.core.errors import ArtifactError
from factory.core.jsonl import read_records
from factory.core.records import EvalSample, Problem, Record, Verdict
from factory.evaluation.asked import problems_by_id
from factory.evaluation.scores import both_readings
from factory.grading import GradeItem, GradingPool
from factory.problems.benchmark import BENCHMARKS
from factory.stages.evaluate import EvaluateConfig

Reading = Literal["strict", "lenient"]


class Change(Record):
    """One verdict that is another now."""

    benchmark: str
    mode: str
    problem_id: str
    sample: int
    reading: Reading
    before: Verdict
    after: Verdict


class Rescored(Record):
    """One benchmark in one mode and reading: how many answers are right, then and now."""

    benchmark: str
    mode: str
    reading: Reading
    answers: int
    right_before: int
    right_after: int
    changed: int
    """Answers with another outcome, which may cancel in the sum."""


def rescore(
    artifact: Artifact, store: Path, *, processes: int
) -> tuple[list[Rescored], list[Change], list[str]]:
    """Totals, the changed verdicts in the file's order, and benchmarks that others grade.

    ArtifactError where the problems are not in the store. Explanations and times are not compared.
    """
    config = EvaluateConfig.model_validate_json(json.dumps(artifact.manifest.config))
    problems = {
        benchmark.name: _problems(artifact, store, config, number)
        for number, benchmark in enumerate(config.benchmarks)
    }
    samples = [
        sample
        for sample in read_records(artifact.file("samples.jsonl"), EvalSample)
        if problems[sample.benchmark]
    ]
    items = [
        item
        for sample in samples
        for item in _items(sample, problems[sample.benchmark], config, artifact)
    ]
    with GradingPool(processes) as pool:
        verdicts = pool.grade(items)
    changes: list[Change] = []
    totals: dict[tuple[str, str, Reading], list[int]] = {}
    for sample, *now in zip(samples, verdicts[::2], verdicts[1::2], strict=True):
        before = (sample.trace.verdict, sample.lenient)
        if problems[sample.benchmark][sample.trace.problem_id].kind == "open":
            now = before  # a judge's, whom nobody asks again here
        for reading, old, new in zip(get_args(Reading), before, now, strict=True):
            is_changed = old.outcome != new.outcome
            counts = totals.setdefault((sample.benchmark, sample.mode, reading), [0, 0, 0, 0])
            marks = (1, old.is_correct, new.is_correct, is_changed)
            totals[sample.benchmark, sample.mode, reading] = [
                count + mark for count, mark in zip(counts, marks, strict=True)
            ]
            if is_changed:
                changes.append(_change(sample, reading, old, new))
    rows = [
        Rescored(
            benchmark=benchmark, mode=mode, reading=reading,
            answers=n, right_before=before, right_after=after, changed=changed,
        )
        for (benchmark, mode, reading), (n, before, after, changed) in totals.items()
    ]  # fmt: skip
    return rows, changes, [name for name, own in problems.items() if not own]


def _problems(
    artifact: Artifact, store: Path, config: EvaluateConfig, number: int
) -> dict[str, Problem]:
    """A benchmark's problems by id; none where lm-eval brings and grades its own."""
    benchmark, source = config.benchmarks[number], None
    if benchmark.problems is not None:
        entry = artifact.manifest.inputs[f"benchmarks.{number}.problems"]
        source = find(store, entry.fingerprint)
        if source is None:
            raise ArtifactError(
                f"benchmark {benchmark.name}: its problems ({entry.name}, fingerprint "
                f"{entry.fingerprint[:12]}) are not under {store}"
            )
    if f"benchmarks/{benchmark.task}" in artifact.manifest.plugins:
        BENCHMARKS.row(str(benchmark.task))  # says how a plug-in is named that is missing
    return problems_by_id(benchmark.task, source)


def _items(
    sample: EvalSample, problems: dict[str, Problem], config: EvaluateConfig, artifact: Artifact
) -> list[GradeItem]:
    trace = sample.trace
    problem = problems.get(trace.problem_id)
    if problem is None:
        raise ArtifactError(
            f"{artifact.name}: benchmark {sample.benchmark}: problem {trace.problem_id} is not "
            "among its problems any more"
        )
    return both_readings(problem, trace.completion, trace.finish_reason, config.prompt)


def _change(sample: EvalSample, reading: Reading, before: Verdict, after: Verdict) -> Change:
    return Change(
        benchmark=sample.benchmark,
        mode=sample.mode,
        problem_id=sample.trace.problem_id,
        sample=sample.trace.sample,
        reading=reading,
        before=before,
        after=after,
    )
