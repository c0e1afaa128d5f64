"""From completions to graded samples, and from graded samples to score rows."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from factory.core.records import (
    OUTCOMES,
    EvalSample,
    FinishReason,
    Problem,
    SamplingConfig,
    Score,
    Stopped,
    Trace,
    Verdict,
)
from factory.evaluation.rounds import stopped
from factory.evaluation.runs import EvalRequest, OwnRun, Run
from factory.evaluation.statistics import (
    Interval,
    clusters,
    consensus,
    mean_interval,
    pass_at_k,
)
from factory.evaluation.summary import votes
from factory.grading import GradeItem
from factory.sampling.sampler import Completion
from factory.text.chat import PromptConfig, parse_completion


def both_readings(
    problem: Problem, text: str, reason: FinishReason, prompt: PromptConfig
) -> list[GradeItem]:
    """A completion to be graded strictly, and then leniently."""
    strict = GradeItem.for_prompt(problem, text, reason, prompt)
    return [strict, replace(strict, lenient=True)]


def graded_sample(
    request: EvalRequest,
    completion: Completion,
    *,
    verdicts: tuple[Verdict, Verdict],
    prompt: PromptConfig | None,
    model: str,
) -> EvalSample:
    """One completion with its strict and lenient verdict, as kept in `samples.jsonl`; without a
    prompt protocol where the text was asked raw."""
    response = parse_completion(completion.text, completion.finish_reason, prompt or PromptConfig())
    strict, lenient = verdicts
    trace = Trace(
        problem_id=request.document,
        sample=request.sample,
        question=request.question,
        prompt=request.prompt,
        completion=completion.text,
        reasoning=response.reasoning,
        answer=response.answer,
        summary=response.summary,
        finish_reason=completion.finish_reason,
        completion_tokens=completion.tokens,
        seed=request.seed,
        sampling=request.sampling,
        style=prompt.style if prompt else "raw",
        model=model,
        verdict=strict,
    )
    return EvalSample(
        benchmark=request.run.benchmark, mode=request.run.mode, trace=trace, lenient=lenient
    )


def own_scores(run: OwnRun, samples: Sequence[EvalSample], *, prompt_style: str) -> list[Score]:
    """The score rows of one run of ours: pass@1, pass@k and cons@k, or greedy; each with n and k.

    `samples` are this run's, k a problem, fewer than asked for where it ended early. pass@1 is the
    mean over problems of the mean over k; where problems are instructions (IFEval),
    `_instructions` is the share of all instructions.
    """
    by_problem: dict[str, list[EvalSample]] = {}
    for sample in samples:
        by_problem.setdefault(sample.trace.problem_id, []).append(sample)
    groups, alike = list(by_problem.values()), clusters(list(by_problem))
    first = "greedy" if run.mode == "greedy" else "pass@1"
    k = len(groups[0])
    ended = stopped(run, [[sample.trace.verdict for sample in group] for group in groups])

    def row(
        metric: str,
        value: Callable[[list[EvalSample]], float],
        *,
        of: int,
        lenient: bool = False,
        sizes: Sequence[int] | None = None,
    ) -> Score:
        verdicts = [s.lenient if lenient else s.trace.verdict for s in samples]
        return score_row(
            run,
            metric,
            mean_interval(
                [value(group) for group in groups], samples=of, groups=alike, sizes=sizes
            ),
            k=k,
            ended=ended,
            outcomes=_outcomes(verdicts),
            sampling=samples[0].trace.sampling,
            prompt_style=prompt_style,
        )

    rows = [
        row(first, _share_right, of=k),
        row(f"{first}_lenient", _share_right_lenient, of=k, lenient=True),
    ]
    if k > 1:
        # Over problems these are single observations, however many samples went into each.
        rows[1:1] = [
            row(f"pass@{k}", _any_right, of=1),
            row(f"cons@{k}", _majority_right, of=1),
        ]
    sizes = _instruction_counts(run, by_problem)
    if sizes is not None:
        for suffix, is_lenient in (("", False), ("_lenient", True)):
            share = partial(_share_followed, lenient=is_lenient)
            name = f"{first}_instructions{suffix}"
            rows.append(row(name, share, of=k, lenient=is_lenient, sizes=sizes))
    return rows


def _instruction_counts(run: OwnRun, problem_ids: Iterable[str]) -> list[int] | None:
    """How many instructions each problem has; None where problems are no instructions."""
    if not run.problems or any(problem.kind != "instructions" for problem in run.problems):
        return None
    counts = {problem.id: len(problem.data["instructions"]) for problem in run.problems}
    return [counts[problem_id] for problem_id in problem_ids]


def _share_right(group: Sequence[EvalSample]) -> float:
    return sum(sample.trace.verdict.is_correct for sample in group) / len(group)


def _share_right_lenient(group: Sequence[EvalSample]) -> float:
    return sum(sample.lenient.is_correct for sample in group) / len(group)


def _share_followed(group: Sequence[EvalSample], *, lenient: bool) -> float:
    """Of a problem's instructions; a text without a response follows none."""
    verdicts = [sample.lenient if lenient else sample.trace.verdict for sample in group]
    shares = [
        sum(followed) / len(followed) for verdict in verdicts if (followed := verdict.followed)
    ]
    return sum(shares) / len(group)


def _any_right(group: Sequence[EvalSample]) -> float:
    right = sum(sample.trace.verdict.is_correct for sample in group)
    return pass_at_k(len(group), right, k=len(group))


def _majority_right(group: Sequence[EvalSample]) -> float:
    verdicts = [sample.trace.verdict for sample in group]
    return consensus(votes(verdicts), [verdict.is_correct for verdict in verdicts])


def _outcomes(verdicts: Sequence[Verdict]) -> dict[str, int]:
    counts = Counter(verdict.outcome for verdict in verdicts)
    return {outcome: counts[outcome] for outcome in OUTCOMES}


def score_row(
    run: Run,
    metric: str,
    interval: Interval,
    *,
    k: int,
    ended: Stopped | None = None,
    outcomes: dict[str, int],
    sampling: SamplingConfig,
    prompt_style: str,
) -> Score:
    """A score of this run, with everything a reader needs to judge it."""
    return Score(
        benchmark=run.benchmark,
        version=run.version,
        metric=metric,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        n=interval.n,
        k=k,
        stopped=ended,
        outcomes=outcomes,
        sampling=sampling,
        prompt_style=prompt_style,
    )
