"""Every evaluated checkpoint on every benchmark, with what became of each answer."""

from collections.abc import Iterator, Sequence

from factory.core.blocks import Bar, Block, Cell, Fold, Section, Table, Text
from factory.core.readable import count, percent, span
from factory.core.records import OUTCOMES, SamplingConfig
from factory.report.build import Build
from factory.report.records import Evaluation
from factory.report.scorecard import benchmarks, find_score, outcome_words
from factory.report.section import section
from factory.report.sections.contamination import (
    CLEAN_TITLE,
    Contamination,
    clean_score,
    contaminations,
)
from factory.report.sections.difficulty import OUTCOMES as LEGEND

METRICS = ("pass@1", "pass@1_lenient", "greedy", "greedy_lenient")
"""First columns of a scorecard: strict and lenient extraction side by side."""
INTRO = (
    "Every evaluated checkpoint in stage order, with 95 % intervals over problems. Strict grading "
    "reads the answer inside the tags only; lenient grading takes the answer that the whole text "
    "offers. Without overlaps is strict pass@1, or greedy, on the problems that overlap with no "
    "text the model was trained on (see Contamination)."
)


@section("scorecard", after="flow")
def scorecard(build: Build) -> Section | None:
    names = benchmarks(build.evaluations)
    cards = [_card(build, name, is_first=name == names[0]) for name in names]
    return Section("Scorecard", (Text(INTRO), *cards)) if cards else None


def _card(build: Build, benchmark: str, *, is_first: bool) -> Section:
    scores = [
        score for row in build.evaluations for score in row.scores if score.benchmark == benchmark
    ]
    measured = dict.fromkeys(score.metric for score in scores)
    metrics = [name for name in METRICS if name in measured]
    metrics += [name for name in measured if name not in METRICS]
    overlaps = [row for row in contaminations(build) if row.benchmark == benchmark]
    rows = [row for row in build.evaluations if any(find_score(row, benchmark, m) for m in metrics)]
    titles = [metric_title(metric) for metric in metrics]
    table = Table(
        ("checkpoint", *titles, CLEAN_TITLE, "n x k"),
        tuple(_cells(row, benchmark, metrics, overlaps) for row in rows),
        numbers=tuple(range(1, len(metrics) + 3)),
        label=f"Scores on {benchmark}",
    )
    versions = ", ".join(dict.fromkeys(score.version for score in scores))
    blocks: tuple[Block, ...] = (table, _outcomes(rows, benchmark, is_open=is_first))
    return Section(benchmark, blocks, note=f"version {versions}")


def _outcomes(rows: Sequence[Evaluation], benchmark: str, *, is_open: bool) -> Fold:
    table = Table(
        ("checkpoint", "sampling", "outcomes, strict grading"),
        tuple(cells for row in rows for cells in outcome_rows(row, benchmark)),
        label=f"Outcomes on {benchmark}",
        look="outcomes",
    )
    title = "Outcomes of every answer, and how it was sampled"
    return Fold(title, (LEGEND, table), is_open=is_open)


def outcome_rows(row: Evaluation, benchmark: str) -> Iterator[tuple[str, str, Cell]]:
    """What became of the answers of each way of sampling."""
    for mode, metric in (("sampled", "pass@1"), ("greedy", "greedy")):
        score = find_score(row, benchmark, metric)
        if score is None:
            continue
        words = outcome_words((name, score.outcomes.get(name, 0)) for name in OUTCOMES)
        parts = tuple((f"o-{name}", float(score.outcomes.get(name, 0))) for name in OUTCOMES)
        how = settings(score.sampling, score.prompt_style)
        if score.stopped is not None:
            how += f"; {score.stopped.summary(score.k)}"
        bar = Bar(parts, f"Outcomes, {mode}: {words}")
        yield row.label, how, Cell(words, look="dim", bar=bar)


def _cells(
    row: Evaluation, benchmark: str, metrics: Sequence[str], overlaps: Sequence[Contamination]
) -> tuple[Cell, ...]:
    scores = [find_score(row, benchmark, metric) for metric in metrics]
    sizes = list(dict.fromkeys(f"{score.n} x {score.k}" for score in scores if score is not None))
    clean = next((clean_score(c) for c in overlaps if c.label == row.label), ("not known", ""))
    role = f", {row.role}" if row.role else ""
    return (
        Cell(row.label, f"{row.model_kind}{role}"),
        *(
            Cell("not measured", look="dim")
            if score is None
            else Cell(percent(score.value), span(score.low, score.high))
            for score in scores
        ),
        Cell(*clean),
        Cell(sizes[0], ", ".join(sizes[1:])),
    )


def settings(sampling: SamplingConfig, style: str) -> str:
    """`temperature 0.6, top-p 0.95, 512 new tokens at most, chat prompt`."""
    how = (
        "greedy"
        if sampling.temperature == 0
        else f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}"
    )
    return f"{how}, {count(sampling.max_new_tokens)} new tokens at most, {style} prompt"


def metric_title(metric: str) -> str:
    """`pass@1_lenient` -> `pass@1, lenient`."""
    name, _, suffix = metric.partition("_")
    return f"{name}, {suffix.replace('_', ' ')}" if suffix else name
