"""Each score by difficulty, where a benchmark's problems tell theirs."""

from collections.abc import Sequence

from factory.core.blocks import OUTCOME_WORDS, Figure, Figures, Fold, Legend, Section, Table, Text
from factory.core.readable import count, percent, span
from factory.core.records import Mode, Record
from factory.evaluation.strata import UNSTATED, Stratum, difficulty, strata
from factory.report.asked import eval_problems
from factory.report.build import Build, once
from factory.report.figures import strata_panel
from factory.report.scorecard import MODES, benchmarks, outcome_words
from factory.report.section import section

INTRO = (
    "Each benchmark cut by what its problems say of themselves: their level, a setting of their "
    "family, or their source. A column is all answers by outcome, right ones at the bottom; the "
    "circle is the strict score on that part with its 95 % interval, n the number of its problems."
)
HEADER = ("checkpoint", "answers", "part", "problems", "strict", "95 %", "outcomes")
OUTCOMES = Legend(tuple((f"o-{name}", words) for name, words in OUTCOME_WORDS.items()))


class Strata(Record):
    """One evaluation's score on one benchmark by difficulty."""

    label: str
    benchmark: str
    mode: Mode
    parts: tuple[Stratum, ...]


@section("difficulty", after="scorecard")
def by_difficulty(build: Build) -> Section | None:
    rows = all_strata(build)
    parts = [_part(rows, name) for name in dict.fromkeys(row.benchmark for row in rows)]
    if not parts:
        return None
    return Section("By difficulty", (Text(INTRO), OUTCOMES, *parts), facts=tuple(rows))


def _part(rows: Sequence[Strata], benchmark: str) -> Section:
    table = Table(HEADER, strata_rows(rows, benchmark), label="Parts")
    figures = tuple(
        Figure(row.label, strata_panel(row.label, benchmark, row.parts), (("", "", row.mode),))
        for row in _shown(rows, benchmark)
    )
    fold = Fold(f"All parts of {benchmark}, sampled and greedy", (table,))
    return Section(benchmark, (Figures(figures), fold), note=f"by {cut_name(rows, benchmark)}")


@once
def all_strata(build: Build) -> list[Strata]:
    """One for each evaluation, benchmark and mode, benchmark by benchmark in stage order."""
    rows = []
    for benchmark in benchmarks(build.evaluations):
        for row in build.evaluations:
            problems = eval_problems(build).get((row.label, benchmark))
            cut = None if problems is None else difficulty(list(problems.problems.values()))
            for mode in MODES:
                given = build.answers[row.label].get((benchmark, mode), {})
                if cut is not None and given:
                    parts = tuple(strata(given, cut))
                    rows.append(
                        Strata(label=row.label, benchmark=benchmark, mode=mode, parts=parts)
                    )
    return rows


def _shown(rows: Sequence[Strata], benchmark: str) -> list[Strata]:
    """One for each evaluation that has any: of sampled answers where there are such."""
    first: dict[str, Strata] = {}
    for row in rows:
        if row.benchmark == benchmark:
            first.setdefault(row.label, row)
    return list(first.values())


def cut_name(rows: Sequence[Strata], benchmark: str) -> str:
    """What a benchmark is cut by: `level`, `num_terms`; `source` where its parts share no word."""
    names = {
        part.name.replace("/", " ").rpartition(" ")[0]
        for row in rows
        if row.benchmark == benchmark
        for part in row.parts
        if part.name != UNSTATED
    }
    return names.pop() if len(names) == 1 else "source"


def strata_rows(rows: Sequence[Strata], benchmark: str) -> tuple[tuple[str, ...], ...]:
    """A row a part, under HEADER; sampled and greedy answers."""
    return tuple(
        (
            row.label,
            row.mode,
            part.name,
            count(part.score.n),
            percent(part.score.value),
            span(part.score.low, part.score.high),
            outcome_words(part.outcomes.items()),
        )
        for row in rows
        if row.benchmark == benchmark
        for part in row.parts
    )
