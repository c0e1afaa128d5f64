"""The factory's own benchmarks: ask, grade, score. Tasks of lm-eval's registry are not run here."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from factory.core.errors import EngineError
from factory.core.records import EvalSample, Verdict
from factory.evaluation.asking import EvaluatedModel
from factory.evaluation.budgets import ClosedRequest, Closing
from factory.evaluation.documents import pass_rates
from factory.evaluation.judged import Judging
from factory.evaluation.rounds import is_narrow
from factory.evaluation.runs import EvalRequest, OwnRun, Results, Run, Sampled
from factory.evaluation.scores import both_readings, graded_sample, own_scores
from factory.grading import GradeItem, GradingPool, check_ungradable


def evaluate_own(
    runs: Sequence[OwnRun],
    model: EvaluatedModel,
    *,
    judging: Judging | None = None,
    max_ungradable: float = 0.01,
    budgets: Sequence[int] = (),
) -> Results:
    """Ask for every completion of these runs, grade and score them; then once more with thoughts
    closed at each of the `budgets`.

    EngineError if the grader itself failed on more than `max_ungradable` of a benchmark's samples
    in a round: such an outage must not be read as wrong answers. Answers that no rule can check
    wait for `judging`.
    """
    if judging is not None:
        judging.check(runs)
    graded: dict[str, list[EvalSample]] = {run.name: [] for run in runs}
    requests = [request for run in runs for request in _requests(run, model)]
    closing = Closing(budgets, runs, model)
    machine = model.context.machine

    def is_enough(run: Run, samples: int) -> bool:
        return isinstance(run, OwnRun) and is_narrow(run, graded[run.name])

    with GradingPool(machine.thread_count(), is_isolated=not machine.unsandboxed) as pool:
        batches = model.ask(
            requests, segment="samples", is_enough=is_enough,
            then=closing.requests, at_most=closing.at_most(requests),
        )  # fmt: skip
        for sampled in batches:
            is_closed = isinstance(sampled[0][0], ClosedRequest)
            sampled = [
                (r, r.completed(c) if isinstance(r, ClosedRequest) else c) for r, c in sampled
            ]
            samples = _graded(sampled, runs, pool=pool, model=model)
            _refuse_ungradable(samples, runs, limit=max_ungradable, has_judge=judging is not None)
            closing.take(sampled, samples)
            for sample in () if is_closed else samples:
                graded[f"{sample.benchmark}.{sample.mode}"].append(sample)
    graded = {run.name: _in_order(run, graded[run.name]) for run in runs}
    if judging is not None:
        graded = judging.decide(runs, graded)
    style = model.prompt.style
    return Results(
        by_run={
            run.name: (own_scores(run, graded[run.name], prompt_style=style), graded[run.name])
            for run in runs
        },
        record=_harness_record(runs, graded),
        completion_tokens=sum(
            sample.trace.completion_tokens for samples in graded.values() for sample in samples
        ),
        spent=tuple(closing.in_order()),
    )


def _requests(run: OwnRun, model: EvaluatedModel) -> list[EvalRequest]:
    return [
        request
        for problem in run.problems
        for request in model.requests(
            run, problem.id, model.render(problem.prompt),
            samples=run.samples, sampling=run.sampling, question=problem.prompt,
        )
    ]  # fmt: skip


def _graded(
    sampled: Sampled, runs: Sequence[OwnRun], *, pool: GradingPool, model: EvaluatedModel
) -> list[EvalSample]:
    problems = {(run.name, problem.id): problem for run in runs for problem in run.problems}
    items: list[GradeItem] = []
    for request, completion in sampled:
        problem = problems[request.run.name, request.document]
        items += both_readings(problem, completion.text, completion.finish_reason, model.prompt)
    verdicts = pool.grade(items)
    pairs = zip(verdicts[::2], verdicts[1::2], strict=True)
    return [
        graded_sample(
            request, completion, verdicts=pair, prompt=model.prompt, model=model.fingerprint
        )
        for (request, completion), pair in zip(sampled, pairs, strict=True)
    ]


def _refuse_ungradable(
    samples: Sequence[EvalSample], runs: Sequence[OwnRun], *, limit: float, has_judge: bool
) -> None:
    """EngineError by benchmark, reading by reading; what waits for a judge counts without one."""
    judged = {(run.benchmark, p.id) for run in runs for p in run.problems if p.kind == "open"}
    readings: dict[str, tuple[list[Verdict], list[Verdict]]] = {}
    for sample in samples:
        if has_judge and (sample.benchmark, sample.trace.problem_id) in judged:
            continue
        strict, lenient = readings.setdefault(sample.benchmark, ([], []))
        strict.append(sample.trace.verdict)
        lenient.append(sample.lenient)
    for benchmark, both in readings.items():
        try:
            for verdicts in both:
                check_ungradable(verdicts, limit=limit)
        except EngineError as error:
            raise EngineError(f"benchmark {benchmark}: {error}") from error


def _in_order(run: OwnRun, samples: Sequence[EvalSample]) -> list[EvalSample]:
    index = {problem.id: number for number, problem in enumerate(run.problems)}
    return sorted(samples, key=lambda s: (index[s.trace.problem_id], s.trace.sample))


def _harness_record(
    runs: Sequence[OwnRun], graded: Mapping[str, Sequence[EvalSample]]
) -> dict[str, dict[str, Any]]:
    """The runs' means and settings in the words of lm-eval, as it writes them of
    `evals/factory_problems.yaml`: harness.json has them beside those of registry tasks."""
    record: dict[str, dict[str, Any]] = {}
    for run in runs:
        means = _means(graded[run.name])
        count = len(run.problems)
        entries = {
            "results": {
                "name": run.name,
                "alias": run.name,
                "sample_len": count,
                **{f"{metric},samples": mean for metric, mean in means.items()},
                **{f"{metric}_stderr,samples": "N/A" for metric in means},
            },
            "versions": int(run.version),
            "n-shot": 0,
            "n-samples": {"original": count, "effective": count},
            "higher_is_better": dict.fromkeys(means, True),
            "configs": {
                "output_type": "generate_until",
                "repeats": run.samples,
                "num_fewshot": 0,
                "generation_kwargs": {
                    "until": list(run.sampling.stop),
                    "do_sample": run.sampling.temperature > 0,
                    "temperature": run.sampling.temperature,
                    "top_p": run.sampling.top_p,
                    "max_gen_toks": run.sampling.max_new_tokens,
                },
                "metric_list": [
                    {"metric": metric, "aggregation": "mean", "higher_is_better": True}
                    for metric in means
                ],
            },
        }
        for key, entry in entries.items():
            record.setdefault(key, {})[run.name] = entry
    return record


def _means(samples: Sequence[EvalSample]) -> dict[str, float]:
    """pass@1 by both readings: means over problems, whose samples stand together."""
    rates = [
        pass_rates([(sample.trace.verdict, sample.lenient) for sample in group])
        for _, group in groupby(samples, key=lambda sample: sample.trace.problem_id)
    ]
    return {metric: sum(rate[metric] for rate in rates) / len(rates) for metric in rates[0]}
