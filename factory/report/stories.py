"""Completions worth showing, picked by rule: the same problem before and after each stage."""

from collections.abc import Callable, Mapping, Sequence

from pydantic import ConfigDict

from factory.artifacts import Artifact
from factory.jsonl import read_records
from factory.records import EvalSample, Mode, Record, Trace
from factory.report.asked import AllAsked
from factory.report.records import Evaluation, Sample, Story
from factory.report.scorecard import AllAnswers, main_benchmark
from factory.report.text import clip

LIMIT = 4000
"""Characters shown of one text."""

Pick = tuple[str, str, Callable[[bool, bool], bool]]

PICKS: tuple[Pick, ...] = (
    (
        "Learned",
        "the first problem that the first checkpoint gets wrong and the last gets right",
        lambda first, last: last and not first,
    ),
    (
        "Still wrong",
        "the first problem that the first and the last checkpoint get wrong",
        lambda first, last: not first and not last,
    ),
    (
        "Lost",
        "the first problem that the first checkpoint gets right and the last gets wrong",
        lambda first, last: first and not last,
    ),
    (
        "Right from the start",
        "the first problem that the first and the last checkpoint get right",
        lambda first, last: first and last,
    ),
)


class Rollout(Record):
    """A line of rollouts.jsonl, as far as it is read."""

    model_config = ConfigDict(extra="ignore")

    step: int
    trace: Trace


def read_rollouts(artifact: Artifact) -> list[Rollout]:
    """The completions that an RL stage kept, in order; none of one that kept none."""
    if "rollouts.jsonl" not in artifact.manifest.files:
        return []
    return list(read_records(artifact.file("rollouts.jsonl"), Rollout))


def rollouts(artifact: Artifact) -> list[Sample]:
    """The first and the last rollout of an RL stage, where it kept any."""
    rows = read_rollouts(artifact)
    chosen = [rows[0], rows[-1]] if len(rows) > 1 else rows
    return [sample_of(f"step {row.step}", row.trace) for row in chosen]


def sample_of(label: str, trace: Trace) -> Sample:
    """A trace as shown, each text cut at LIMIT characters."""
    prompt, _ = clip(trace.prompt, LIMIT)
    completion, cut = clip(trace.completion, LIMIT)
    reasoning = None if trace.reasoning is None else clip(trace.reasoning, LIMIT)[0]
    answer = None if trace.answer is None else clip(trace.answer, LIMIT)[0]
    return Sample(
        label=label,
        prompt=prompt,
        reasoning=reasoning,
        answer=answer,
        completion=completion,
        outcome=trace.verdict.outcome,
        explanation=clip(trace.verdict.explanation, LIMIT)[0],
        tokens=trace.completion_tokens,
        cut=cut,
    )


def stories(
    rows: Sequence[Evaluation], answers: AllAnswers, asked: AllAsked, *, most: int = 3
) -> list[Story]:
    """Up to `most` problems of the main benchmark, one for each kind of change that occurs.

    None of a benchmark whose questions may not be shown.
    """
    benchmark = main_benchmark(rows)
    if benchmark is None or any(
        one.is_protected for (_, name), one in asked.items() if name == benchmark
    ):
        return []
    shown = [(row.label, _first_answers(answers[row.label], benchmark)) for row in rows]
    shown = [(label, samples) for label, samples in shown if samples]
    if not shown:
        return []
    (_, first), (_, last) = shown[0], shown[-1]
    found = []
    for title, rule, fits in PICKS:
        for problem, sample in first.items():
            if problem in last and fits(_is_right(sample), _is_right(last[problem])):
                found.append(_story(title, rule, benchmark=benchmark, problem=problem, shown=shown))
                break
    return found[:most]


def _is_right(sample: EvalSample) -> bool:
    return sample.trace.verdict.is_correct


def _first_answers(
    groups: Mapping[tuple[str, Mode], Mapping[str, Sequence[EvalSample]]], benchmark: str
) -> dict[str, EvalSample]:
    """One answer a problem: the greedy one where there is one, else sample 0."""
    group = groups.get((benchmark, "greedy")) or groups.get((benchmark, "sampled")) or {}
    return {problem: samples[0] for problem, samples in group.items()}


def _story(
    title: str,
    rule: str,
    *,
    benchmark: str,
    problem: str,
    shown: Sequence[tuple[str, Mapping[str, EvalSample]]],
) -> Story:
    samples = [(label, answers[problem]) for label, answers in shown if problem in answers]
    question, _ = clip(samples[0][1].trace.question, LIMIT)
    return Story(
        title=title,
        rule=rule,
        benchmark=benchmark,
        problem_id=problem,
        question=question,
        samples=tuple(sample_of(label, sample.trace) for label, sample in samples),
    )
