"""Every evaluated checkpoint on every benchmark, with what became of each answer."""

from collections.abc import Sequence
from dataclasses import dataclass

from factory.blocks import Bar, Block, Cell, Fold, Section, Table, Text
from factory.readable import count, percent, span
from factory.records import OUTCOMES, Outcome, SamplingConfig, Score
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


@dataclass(frozen=True)
class Outcomes:
    """Counts of one way of sampling, in the fixed order of outcomes."""

    mode: str
    settings: str
    counts: tuple[tuple[Outcome, int], ...]


@dataclass(frozen=True)
class CardRow:
    """One checkpoint on one benchmark."""

    evaluation: Evaluation
    cells: tuple[Score | None, ...]
    clean: tuple[str, str]
    """The main score without problems that overlap with training texts, and their number."""
    sizes: tuple[str, ...]
    outcomes: tuple[Outcomes, ...]


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
    rows = [_card_row(row, benchmark, metrics, overlaps) for row in build.evaluations]
    rows = [row for row in rows if any(cell is not None for cell in row.cells)]
    titles = [metric_title(metric) for metric in metrics]
    table = Table(
        ("checkpoint", *titles, CLEAN_TITLE, "n x k"),
        tuple(map(_cells, rows)),
        numbers=tuple(range(1, len(metrics) + 3)),
        label=f"Scores on {benchmark}",
    )
    versions = ", ".join(dict.fromkeys(score.version for score in scores))
    blocks: tuple[Block, ...] = (table, _outcomes(rows, benchmark, is_open=is_first))
    return Section(benchmark, blocks, note=f"version {versions}")


def _outcomes(rows: Sequence[CardRow], benchmark: str, *, is_open: bool) -> Fold:
    table = Table(
        ("checkpoint", "sampling", "outcomes, strict grading"),
        tuple(
            (row.evaluation.label, result.settings, _outcome_cell(result))
            for row in rows
            for result in row.outcomes
        ),
        label=f"Outcomes on {benchmark}",
        look="outcomes",
    )
    title = "Outcomes of every answer, and how it was sampled"
    return Fold(title, (LEGEND, table), is_open=is_open)


def _outcome_cell(result: Outcomes) -> Cell:
    words = outcome_words(result.counts)
    parts = tuple((f"o-{name}", float(n)) for name, n in result.counts)
    return Cell(words, look="dim", bar=Bar(parts, f"Outcomes, {result.mode}: {words}"))


def _cells(row: CardRow) -> tuple[Cell, ...]:
    role = f", {row.evaluation.role}" if row.evaluation.role else ""
    return (
        Cell(row.evaluation.label, f"{row.evaluation.model_kind}{role}"),
        *(
            Cell("not measured", look="dim")
            if score is None
            else Cell(percent(score.value), span(score.low, score.high))
            for score in row.cells
        ),
        Cell(*row.clean),
        Cell(row.sizes[0], ", ".join(row.sizes[1:])),
    )


def _card_row(
    row: Evaluation,
    benchmark: str,
    metrics: Sequence[str],
    overlaps: Sequence[Contamination],
) -> CardRow:
    cells = tuple(find_score(row, benchmark, metric) for metric in metrics)
    sizes = dict.fromkeys(f"{cell.n} x {cell.k}" for cell in cells if cell is not None)
    outcomes = []
    for mode, metric in (("sampled", "pass@1"), ("greedy", "greedy")):
        score = find_score(row, benchmark, metric)
        if score is not None:
            counts: tuple[tuple[Outcome, int], ...] = tuple(
                (name, score.outcomes.get(name, 0)) for name in OUTCOMES
            )
            words = settings(score.sampling, score.prompt_style)
            if score.stopped is not None:
                words += f"; {score.stopped.summary(score.k)}"
            outcomes.append(Outcomes(mode, words, counts))
    clean = next((clean_score(c) for c in overlaps if c.label == row.label), ("not known", ""))
    return CardRow(row, cells, clean, tuple(sizes), tuple(outcomes))


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
