"""Tables of the report as rows of short texts, the same for HTML and Markdown."""

from dataclasses import dataclass

from markupsafe import Markup

from factory.evaluation.strata import UNSTATED
from factory.records import OUTCOMES, SamplingConfig, Score
from factory.report.figures import share_bar
from factory.report.records import (
    Browser,
    Comparison,
    Contamination,
    Evaluation,
    Report,
    StageRow,
    Strata,
)
from factory.report.scorecard import benchmarks, find_score
from factory.report.text import count, listing, percent, plural, point_span, points, span

METRICS = ("pass@1", "pass@1_lenient", "greedy", "greedy_lenient")
"""First columns of a scorecard: strict and lenient extraction side by side."""

OUTCOME_WORDS = {
    "correct": "correct",
    "wrong": "wrong",
    "no_answer": "no answer",
    "truncated": "cut off",
    "timeout": "too slow",
    "crashed": "crashed",
    "ungradable": "not gradable",
}

OUTCOME_MARKS = {
    "correct": "✓",
    "wrong": "✗",
    "no_answer": "∅",
    "truncated": "✂",
    "timeout": "⧗",
    "crashed": "↯",
    "ungradable": "?",
}

PUBLISHED_INTRO = (
    "pass@1 of unchanged models on the same problems. The noise band holds 95 % of differences "
    "between two runs of one model. Reproduced: the difference lies inside a band of at most 3 "
    "points to either side."
)

RELATIONS = {
    "start": "where its weights started",
    "teacher": "the model that taught it",
    "order": "the checkpoint before it",
}


@dataclass(frozen=True)
class Outcomes:
    """Counts of one way of sampling, in the fixed order of outcomes."""

    mode: str
    settings: str
    counts: tuple[tuple[str, int], ...]

    @property
    def words(self) -> str:
        """`341 correct, 102 wrong, 37 cut off`."""
        parts = [f"{count(n)} {OUTCOME_WORDS[name]}" for name, n in self.counts if n]
        return ", ".join(parts) or "none"


@dataclass(frozen=True)
class CardRow:
    """One checkpoint on one benchmark."""

    evaluation: Evaluation
    cells: tuple[Score | None, ...]
    clean: tuple[str, str]
    """The main score without problems that overlap with training texts, and their number."""
    sizes: str
    outcomes: tuple[Outcomes, ...]


@dataclass(frozen=True)
class Scorecard:
    """Every checkpoint on one benchmark."""

    benchmark: str
    versions: str
    metrics: tuple[str, ...]
    rows: tuple[CardRow, ...]


def scorecards(report: Report) -> list[Scorecard]:
    """One card for each benchmark, the main one first."""
    return [_card(report, benchmark) for benchmark in benchmarks(report.evaluations)]


def _card(report: Report, benchmark: str) -> Scorecard:
    scores = [
        score for row in report.evaluations for score in row.scores if score.benchmark == benchmark
    ]
    measured = dict.fromkeys(score.metric for score in scores)
    metrics = [name for name in METRICS if name in measured]
    metrics += [name for name in measured if name not in METRICS]
    overlaps = [one for one in report.contaminations if one.benchmark == benchmark]
    rows = [_card_row(row, benchmark, metrics, overlaps) for row in report.evaluations]
    return Scorecard(
        benchmark=benchmark,
        versions=", ".join(dict.fromkeys(score.version for score in scores)),
        metrics=tuple(metrics),
        rows=tuple(row for row in rows if any(cell is not None for cell in row.cells)),
    )


def _card_row(
    row: Evaluation,
    benchmark: str,
    metrics: list[str],
    contaminations: list[Contamination],
) -> CardRow:
    cells = tuple(find_score(row, benchmark, metric) for metric in metrics)
    sizes = dict.fromkeys(f"{cell.n} x {cell.k}" for cell in cells if cell is not None)
    outcomes = []
    for mode, metric in (("sampled", "pass@1"), ("greedy", "greedy")):
        score = find_score(row, benchmark, metric)
        if score is not None:
            counts = tuple((name, score.outcomes.get(name, 0)) for name in OUTCOMES)
            words = settings(score.sampling, score.prompt_style)
            if score.stopped is not None:
                words += f"; {score.stopped.summary(score.k)}"
            outcomes.append(Outcomes(mode, words, counts))
    clean = next(
        (clean_score(c) for c in contaminations if c.label == row.label), ("not known", "")
    )
    return CardRow(row, cells, clean, ", ".join(sizes), tuple(outcomes))


def outcome_bar(outcomes: Outcomes) -> Markup:
    """The counts as a bar."""
    parts = [(f"o-{name}", float(n)) for name, n in outcomes.counts]
    return share_bar(parts, f"Outcomes, {outcomes.mode}: {outcomes.words}")


def settings(sampling: SamplingConfig, style: str) -> str:
    """`temperature 0.6, top-p 0.95, 512 new tokens at most, chat prompt`."""
    drawn = (
        "greedy"
        if sampling.temperature == 0
        else f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}"
    )
    return f"{drawn}, {count(sampling.max_new_tokens)} new tokens at most, {style} prompt"


def metric_title(metric: str) -> str:
    """`pass@1_lenient` -> `pass@1, lenient`."""
    name, _, suffix = metric.partition("_")
    return f"{name}, {suffix.replace('_', ' ')}" if suffix else name


def value_with_span(score: Score) -> str:
    return f"{percent(score.value)} {span(score.low, score.high)}"


def difference_with_span(row: Comparison) -> str:
    found = f"{points(row.difference)} {point_span(row.low, row.high)}"
    return found if row.samples is None else f"{found}, first {plural(row.samples, 'sample')}"


def shown_comparisons(report: Report, benchmark: str) -> list[Comparison]:
    """What a figure shows: against start and teacher, sampled where both were sampled."""
    rows = [row for row in report.comparisons if row.benchmark == benchmark]
    rows = [row for row in rows if row.relation != "order"]
    sampled = {(row.before, row.after) for row in rows if row.mode == "sampled"}
    return [row for row in rows if row.mode == "sampled" or (row.before, row.after) not in sampled]


@dataclass(frozen=True)
class Totals:
    """What the whole build took."""

    seconds: float
    tokens: int
    peak_memory_gib: float
    size_bytes: int


def totals(report: Report) -> Totals | None:
    """Sums (and the peak of memory) over the sealed stages; None where none is sealed."""
    made = [row.made for row in report.stages if row.made is not None]
    if not made:
        return None
    return Totals(
        seconds=sum(one.seconds for one in made),
        tokens=sum(one.sampled_tokens or 0 for one in made),
        peak_memory_gib=max(one.peak_memory_gib for one in made),
        size_bytes=sum(one.size_bytes for one in made),
    )


CLEAN_TITLE = "without overlaps"
CONTAMINATION_INTRO = (
    "Which problems overlap with the texts that a model's weights, or their ancestors', were "
    "trained on in this build: the same question; 8 words in a row of a training question; 13 "
    "words of the question in a row in a training text; numbers masked too, except in runs that "
    "are mostly numbers. Signs do not count, so among sums those with the same numbers overlap. A "
    "phrase of three questions or more is no overlap, and a paraphrase is missed."
)
CONTAMINATION_HEADER = (
    "checkpoint", "trained on", "problems", "same question", "shared words", "score", CLEAN_TITLE,
    "not known",
)  # fmt: skip
STRATA_HEADER = ("checkpoint", "answers", "part", "problems", "strict", "95 %", "outcomes")


def clean_score(found: Contamination) -> tuple[str, str]:
    """The main score (sampled, else greedy) without overlaps, and on how many problems."""
    if not found.scores or found.scores[0].clean is None:
        return "no problem left", f"0 of {count(found.problems)}"
    clean = found.scores[0].clean
    value = f"{percent(clean.value)} {span(clean.low, clean.high)}"
    return value, f"{count(clean.n)} of {plural(found.problems, 'problem')}"


def contamination_rows(report: Report, benchmark: str) -> list[list[str]]:
    """A row an evaluation, under CONTAMINATION_HEADER."""
    rows = []
    for one in report.contaminations:
        if one.benchmark != benchmark:
            continue
        texts = f"{plural(one.texts, 'text')} of {listing(list(one.stages))}" if one.stages else ""
        whole = one.scores[0].whole if one.scores else None
        rows.append(
            [
                one.label,
                texts or "none trained on",
                count(one.problems),
                count(one.same),
                count(len(one.overlaps) - one.same),
                "" if whole is None else f"{percent(whole.value)} {span(whole.low, whole.high)}",
                ", on ".join(clean_score(one)),
                "; ".join(one.unknown),
            ]
        )
    return rows


def shown_strata(report: Report, benchmark: str) -> list[Strata]:
    """One for each evaluation that has any: of sampled answers where there are such."""
    found: dict[str, Strata] = {}
    for one in report.strata:
        if one.benchmark == benchmark:
            found.setdefault(one.label, one)
    return list(found.values())


def cut_name(report: Report, benchmark: str) -> str:
    """What a benchmark is cut by: `level`, `num_terms`; `source` where its parts share no word."""
    names = {
        part.name.replace("/", " ").rpartition(" ")[0]
        for one in report.strata
        if one.benchmark == benchmark
        for part in one.parts
        if part.name != UNSTATED
    }
    return names.pop() if len(names) == 1 else "source"


def strata_rows(report: Report, benchmark: str) -> list[list[str]]:
    """A row a part, under STRATA_HEADER; sampled and greedy answers."""
    return [
        [
            one.label,
            one.mode,
            part.name,
            count(part.score.n),
            percent(part.score.value),
            span(part.score.low, part.score.high),
            Outcomes(one.mode, "", tuple(part.outcomes.items())).words,
        ]
        for one in report.strata
        if one.benchmark == benchmark
        for part in one.parts
    ]


def browser_intro(found: Browser) -> str:
    """How many answers the page's browser holds, which ones, and why the others are not there."""
    parts = []
    if found.left_out:
        parts.append(
            f"{count(found.shown)} of {plural(found.shown + found.left_out, 'answer')}, all "
            "written by models. Problems are taken from the benchmarks in turn, in each "
            "benchmark's order and with every answer to them, as far as the page has room; the "
            "others are in the evaluations' samples.jsonl."
        )
    elif found.shown:
        parts.append(f"{plural(found.shown, 'answer')}, all written by models.")
    for benchmark, number in found.protected.items():
        parts.append(
            f"{plural(number, 'answer')} to {benchmark} are not shown: its authors ask not to "
            "reprint its questions."
        )
    return " ".join(parts)


def input_text(row: StageRow) -> str:
    """`model: base, problems: sums`."""
    return ", ".join(f"{field}: {name}" for field, name in row.inputs.items()) or "nothing"


def recipe_yaml(report: Report) -> str:
    """The resolved configs as YAML, in plan order."""
    import yaml

    stages = {row.name: row.config for row in report.stages}
    content = {"name": report.recipe, "stages": stages}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
