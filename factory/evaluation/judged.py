"""Answers of an evaluation that a judge decides, and its agreement with rules on others."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from factory.core.context import Context, Metrics
from factory.core.errors import DataError
from factory.core.records import EvalSample, Problem, Verdict
from factory.evaluation.runs import OwnRun
from factory.grading import check_ungradable
from factory.grading.judge import JudgeSettings, require_basis
from factory.sampling.judging import Item, Vote, agreement, ask_judge, is_ruled, spread

Graded = Mapping[str, Sequence[EvalSample]]
"""Samples by the name of their run."""


@dataclass
class Judging:
    """Asks the judge once all answers are drawn, so that one engine is open at a time."""

    settings: JudgeSettings
    model: Path
    context: Context
    votes: list[Vote] = field(default_factory=list)
    metrics: Metrics = field(default_factory=dict)

    def check(self, runs: Sequence[OwnRun]) -> None:
        """DataError where a problem gives a judge nothing to go by."""
        for run in runs:
            require_basis(run.problems, self.settings)

    def decide(self, runs: Sequence[OwnRun], graded: Graded) -> dict[str, list[EvalSample]]:
        """The samples with the judge's verdicts where no rule could tell; equal answers to a
        problem are one question to it.

        EngineError if it leaves more than `max_ungradable` of them undecided.
        """
        problems = {(run.name, problem.id): problem for run in runs for problem in run.problems}
        waiting: dict[str, Item] = {}
        rules: list[EvalSample] = []
        for name, samples in graded.items():
            for sample in samples:
                problem = problems[name, sample.trace.problem_id]
                for verdict in (sample.trace.verdict, sample.lenient):
                    if _waits(problem, verdict):
                        item = _item(sample, problem, verdict)
                        waiting.setdefault(item.key, item)
                if is_ruled(problem, sample.trace.verdict):
                    rules.append(sample)
        compared = [rules[i] for i in spread(range(len(rules)), self.settings.agreement)]
        others = {
            item.key: item
            for sample in compared
            for item in [
                _item(sample, problems[_run(sample), sample.trace.problem_id], sample.trace.verdict)
            ]
        }
        items = [*waiting.values(), *others.values()]
        results = ask_judge(items, self.settings, model=self.model, context=self.context)
        self.votes = [vote for result in results for vote in result.votes]
        by_key = {item.key: r.verdict for item, r in zip(items, results, strict=True)}
        check_ungradable([by_key[key] for key in waiting], limit=self.settings.max_ungradable)
        self.metrics = {
            "judged": float(len(waiting)),
            **agreement(
                [
                    (sample.trace.verdict, by_key[_key(sample, sample.trace.verdict)])
                    for sample in compared
                ]
            ),
        }
        return {
            name: [
                _judged(sample, problems[name, sample.trace.problem_id], by_key)
                for sample in samples
            ]
            for name, samples in graded.items()
        }


def check_open(runs: Sequence[OwnRun], limit: float, *, has_judge: bool) -> None:
    """DataError, before anything is drawn, where only a judge could decide and there is none."""
    for run in () if has_judge else runs:
        waiting = [problem.id for problem in run.problems if problem.kind == "open"]
        if len(waiting) > limit * len(run.problems):
            raise DataError(
                f"benchmark {run.benchmark}: {len(waiting)} of {len(run.problems)} problems are of "
                f"kind open (the first: {waiting[0]}), which no rule can check: give the stage a "
                "`judge: {model: ...}`, or leave the benchmark out"
            )


def _run(sample: EvalSample) -> str:
    return f"{sample.benchmark}.{sample.mode}"


def _waits(problem: Problem, verdict: Verdict) -> bool:
    return problem.kind == "open" and verdict.outcome == "ungradable" and verdict.answer is not None


def _key(sample: EvalSample, verdict: Verdict) -> str:
    answer = (verdict.answer or "").encode("utf-8", "backslashreplace")
    digest = hashlib.sha256(answer).hexdigest()[:16]
    return f"{sample.benchmark}/{sample.trace.problem_id}/{digest}"


def _item(sample: EvalSample, problem: Problem, verdict: Verdict) -> Item:
    key = _key(sample, verdict)
    return Item(key, problem, sample.trace.sample, verdict.answer or "", seeded_by=("judge", key))


def _judged(sample: EvalSample, problem: Problem, by_key: Mapping[str, Verdict]) -> EvalSample:
    """Strictly, what the judge says of the answer block; leniently the same where there is one."""
    strict, lenient = sample.trace.verdict, sample.lenient
    if _waits(problem, strict):
        verdict = by_key[_key(sample, strict)]
        trace = sample.trace.model_copy(update={"verdict": verdict})
        return sample.model_copy(update={"trace": trace, "lenient": verdict})
    if _waits(problem, lenient):
        return sample.model_copy(update={"lenient": by_key[_key(sample, lenient)]})
    return sample
