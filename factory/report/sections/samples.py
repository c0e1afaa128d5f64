"""Completions worth showing, picked by rule: the same problem before and after each stage."""

from collections.abc import Callable, Mapping, Sequence

from factory.core.blocks import LONGEST_SAMPLE, Block, Code, Sample, Samples, Section, Text
from factory.core.readable import clip
from factory.core.records import EvalSample, Mode, Record
from factory.report.asked import eval_problems
from factory.report.build import Build, once
from factory.report.scorecard import main_benchmark
from factory.report.section import section

MOST = 3
"""Problems shown."""
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


class Story(Record):
    """One problem and what each checkpoint made of it."""

    title: str
    rule: str
    """How the problem was picked: always by rule, never by taste."""
    benchmark: str
    problem_id: str
    question: str
    samples: tuple[Sample, ...]


@section("samples", after="stages")
def samples(build: Build) -> Section | None:
    rows = stories(build)
    if not rows:
        return None
    intro = (
        f"Picked by rule on {rows[0].benchmark}, not by taste. All text below was written by "
        "models."
    )
    parts = [Section(row.title, _blocks(row), note=row.rule) for row in rows]
    return Section("The same problem at every checkpoint", (Text(intro), *parts), facts=tuple(rows))


def _blocks(row: Story) -> tuple[Block, ...]:
    return (
        Code(row.question, "quote"),
        Text(f"Problem {row.problem_id} of {row.benchmark}", "dim"),
        Samples(row.samples),
    )


@once
def stories(build: Build) -> list[Story]:
    """Up to three problems of the main benchmark, one for each kind of change that occurs.

    None of a benchmark whose questions may not be shown.
    """
    rows, answers = build.evaluations, build.answers
    benchmark = main_benchmark(rows)
    if benchmark is None or any(
        questions.is_protected
        for (_, name), questions in eval_problems(build).items()
        if name == benchmark
    ):
        return []
    shown = [(row.label, _first_answers(answers[row.label], benchmark)) for row in rows]
    shown = [(label, first) for label, first in shown if first]
    if not shown:
        return []
    (_, first), (_, last) = shown[0], shown[-1]
    picked = []
    for title, rule, fits in PICKS:
        for problem, sample in first.items():
            if problem in last and fits(_is_right(sample), _is_right(last[problem])):
                story = _story(title, rule, benchmark=benchmark, problem=problem, shown=shown)
                picked.append(story)
                break
    return picked[:MOST]


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
    question, _ = clip(samples[0][1].trace.question, LONGEST_SAMPLE)
    return Story(
        title=title,
        rule=rule,
        benchmark=benchmark,
        problem_id=problem,
        question=question,
        samples=tuple(Sample.of(label, sample.trace) for label, sample in samples),
    )
