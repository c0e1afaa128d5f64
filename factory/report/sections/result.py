"""The result in plain sentences, computed from the scores: also where a stage did not help."""

from collections.abc import Iterable, Sequence

from factory.core.artifacts import Manifest
from factory.core.blocks import Block, Bullets, Figure, Figures, Fold, Legend, Section, Text
from factory.core.readable import listing, percent, plural, point_span, points, span
from factory.core.records import Score
from factory.report.build import Build, once
from factory.report.figures import interval_panel
from factory.report.picture import LEGEND, picture
from factory.report.records import Comparison, Evaluation, Headline, StageRow
from factory.report.scorecard import benchmarks, find_score, main_benchmark, main_score, traps
from factory.report.section import section
from factory.report.sections.contamination import Contamination, contaminations
from factory.report.verdict import verdict

NOTICEABLE = 0.10
"""Shares above this (answers cut off, strict against lenient grading) are said in a sentence."""

MOST_LINES = 5
"""Of each of the three things to know."""

MARKS = Legend(
    (
        ("strict", "pass@1, strict: inside the answer tags"),
        ("ring lenient", "pass@1, lenient: the answer that the whole text offers"),
        ("diamond greedy", "greedy, strict"),
        ("", "lines are 95 % intervals over problems"),
    )
)


@section("result")
def result(build: Build) -> Section:
    """The first screen: verdict, picture, three things to know, cost; the rest is folded."""
    said, short = headline(build), verdict(build)
    parts: list[Block] = [Text(short.sentence, "headline"), Text(f"How sure: {short.sureness}")]
    image = picture(build)
    if image is not None:
        parts += [LEGEND, image]
    parts += [
        _point("What helped", short.helped or ("Nothing is shown to help.",)),
        _point("What did not", short.unhelped or ("Nothing was compared.",)),
        _point("What is unproven", (*short.unproven, *caveats(build))),
    ]
    parts.append(Text(f"{short.built} Cost: {short.cost}."))
    detail: list[Block] = [Text(said.sentence)]
    if said.remarks:
        detail.append(Bullets(said.remarks, "remarks"))
    names = benchmarks(build.evaluations)
    if names:
        figures = [Figure(name, interval_panel(build.evaluations, name)) for name in names]
        detail += [MARKS, Figures(tuple(figures), "wide")]
    number = plural(len(names), "benchmark")
    parts.append(Fold(f"Every score on {number}, and every remark", tuple(detail)))
    return Section("Result", tuple(parts))


def _point(title: str, lines: Sequence[str]) -> Section:
    """One of the three things to know; what has no room is in the fold below."""
    shown = [*lines[:MOST_LINES]]
    if len(lines) > MOST_LINES:
        shown.append(f"and {len(lines) - MOST_LINES} more, below")
    return Section(title, (Bullets(tuple(shown)),), look="point")


@once
def caveats(build: Build) -> tuple[str, ...]:
    """What a fair reader must know beside the verdict, the gravest first."""
    rows = build.evaluations
    benchmark = main_benchmark(rows)
    lines = [*_unfinished(build.stages), *_trained_on(contaminations(build))]
    lines += _unsandboxed(build.manifests)
    lines += traps(rows, build.answers)
    if benchmark is not None:
        cut = _cut_off(rows)
        if len(cut) > 2:
            share = percent(NOTICEABLE, 0)
            cut = [f"{len(cut)} evaluations had more than {share} of their answers cut off, below"]
        lines += [*_extraction(rows, benchmark), *cut]
    return (*lines, *_unreviewed(build.stages))


@once
def headline(build: Build) -> Headline:
    """One sentence on the main benchmark, and what a fair reader must know beside it.

    The remarks also say which zero scores measure the protocol and not the model, and what else
    would mislead.
    """
    rows, comparisons = build.evaluations, build.comparisons
    remarks = [*_unfinished(build.stages), *_unreviewed(build.stages)]
    remarks += traps(rows, build.answers)
    remarks += [*_unsandboxed(build.manifests), *_trained_on(contaminations(build))]
    benchmark = main_benchmark(rows)
    if benchmark is None:
        sentence = (
            "No checkpoint of this build is evaluated yet, so nothing can be said about how well "
            "its models solve problems."
        )
        return Headline(benchmark=None, sentence=sentence, remarks=tuple(remarks))
    remarks += _changes(comparisons)
    remarks += _extraction(rows, benchmark)
    remarks += _cut_off(rows)
    return Headline(
        benchmark=benchmark,
        sentence=_sentence(rows, comparisons, benchmark),
        remarks=tuple(remarks),
    )


def _unsandboxed(manifests: Sequence[Manifest]) -> list[str]:
    """A warning about artifacts that were made with the sandbox switched off."""
    names = [manifest.name for manifest in manifests if manifest.machine.get("unsandboxed")]
    if not names:
        return []
    return [f"unsandboxed: made while models' programs ran without isolation: {', '.join(names)}"]


def _trained_on(rows: Iterable[Contamination]) -> list[str]:
    """A warning about scores on questions that the model was trained on as they are."""
    return [
        f"{row.label} was trained on {row.same} of {plural(row.problems, 'question')} of "
        f"{row.benchmark} as they are."
        for row in rows
        if row.same
    ]


def _share(score: Score) -> str:
    return f"{percent(score.value)} {span(score.low, score.high)}"


def _named(row: Evaluation, words: str) -> str:
    """`, rl_2,` after `the teacher`; nothing where the model is called just that."""
    return "" if row.label == words else f", {row.label},"


def _sentence(rows: Sequence[Evaluation], comparisons: Sequence[Comparison], benchmark: str) -> str:
    first = rows[0]
    first_score = main_score(first, benchmark)
    if first_score is None:
        return f"{first.label} was not measured on {benchmark}, so there is no start to compare to."
    samples = f", {plural(first_score.k, 'sample')} each" if first_score.k > 1 else ""
    text = (
        f"On {benchmark} ({plural(first_score.n, 'problem')}{samples}) the first model"
        f"{_named(first, 'first model')} answers {_share(first_score)} correctly"
    )
    parts = [(role, row) for role in ("teacher", "student") for row in rows if row.role == role]
    if not parts:
        parts = [("last model", rows[-1])] if len(rows) > 1 else []
    for words, row in parts:
        score = main_score(row, benchmark)
        if row is not first and score is not None:
            joint = " and" if row is rows[-1] else ","
            text += f"{joint} the {words}{_named(row, words)} {_share(score)}"
    text += "."
    if len(rows) > 1:
        text += _gain_over_start(rows[-1], comparisons, benchmark)
    return text


def _gain_over_start(last: Evaluation, comparisons: Sequence[Comparison], benchmark: str) -> str:
    """A second clause: the last model against every evaluation of where its weights started."""
    changes = [
        row
        for row in comparisons
        if row.after == last.label and row.benchmark == benchmark and row.relation == "start"
    ]
    changes = [row for row in changes if row.mode == changes[0].mode]
    if not changes:
        return ""
    gains = [
        f"{points(row.difference)} points {point_span(row.low, row.high)} from {row.before}"
        for row in changes
    ]
    return f" On the same problems {last.label} differs by {listing(gains)}."


def _unfinished(stages: Sequence[StageRow]) -> list[str]:
    missing = [row.name for row in stages if row.made is None]
    if not missing:
        return []
    verb = "is" if len(missing) == 1 else "are"
    names = f" ({listing(missing)})" if len(missing) <= 6 else ""
    return [
        f"This build is unfinished: {len(missing)} of {plural(len(stages), 'stage')} "
        f"{verb} not made yet{names}."
    ]


def _unreviewed(stages: Sequence[StageRow]) -> list[str]:
    """Says of every review that no person took part in it."""
    return [
        f"The traces of {row.name} were not reviewed by a person: a policy decided."
        for row in stages
        if row.made is not None and row.made.metrics.get("by_person") == 0
    ]


def _changes(comparisons: Sequence[Comparison]) -> list[str]:
    """A sentence for every checkpoint that is not clearly better than where it started."""
    pairs = {(c.benchmark, c.before, c.after) for c in comparisons if c.mode == "sampled"}
    groups: dict[tuple[str, str, str], list[str]] = {}
    for row in comparisons:
        is_spare = row.mode == "greedy" and (row.benchmark, row.before, row.after) in pairs
        if row.relation != "start" or row.direction == "better" or is_spare:
            continue
        key = (row.after, row.direction, row.benchmark)
        figures = f"{points(row.difference)} points {point_span(row.low, row.high)}"
        groups.setdefault(key, []).append(f"{figures} against {row.before}")
    words = {"worse": "is worse than where it started", "unclear": "shows no clear change"}
    return [
        f"{after} {words[direction]} on {benchmark}: {listing(changes)}."
        for (after, direction, benchmark), changes in groups.items()
    ]


def _extraction(rows: Sequence[Evaluation], benchmark: str) -> list[str]:
    """Says how much of the start's loss is missing tags, which strict grading counts as wrong."""
    first = rows[0]
    for metric in ("pass@1", "greedy"):
        strict = find_score(first, benchmark, metric)
        lenient = find_score(first, benchmark, f"{metric}_lenient")
        if strict is None or lenient is None:
            continue
        gap = lenient.value - strict.value
        if gap > NOTICEABLE:
            return [
                f"Part of any gain over {first.label} on {benchmark} is format: strict grading "
                f"gives it {percent(strict.value)}, lenient grading of the same answers "
                f"{percent(lenient.value)}."
            ]
        return []
    return []


def _cut_off(rows: Sequence[Evaluation]) -> list[str]:
    remarks = []
    for row in rows:
        for benchmark in dict.fromkeys(score.benchmark for score in row.scores):
            score = main_score(row, benchmark)
            if score is None:
                continue
            total = sum(score.outcomes.values())
            share = score.outcomes.get("truncated", 0) / total if total else 0.0
            if share > NOTICEABLE:
                remarks.append(
                    f"{percent(share, 0)} of {row.label}'s answers on {benchmark} were cut at "
                    f"{score.sampling.max_new_tokens} tokens and count as not correct."
                )
    return remarks
