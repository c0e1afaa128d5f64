"""Beside each score: what of its benchmark its model's weights were trained on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from factory.core.blocks import Section, Table, Text
from factory.core.jsonl import read_records
from factory.core.readable import count, listing, percent, plural, size, span
from factory.core.records import Mode, Problem, Record
from factory.evaluation.contamination import (
    Overlap,
    index_of,
    merged,
    overlaps,
    strict_interval,
)
from factory.evaluation.contamination import Text as TrainingText
from factory.evaluation.statistics import Interval
from factory.problems.overlap import SAME_QUESTION, HeldOut
from factory.report.build import Build, once
from factory.report.lineage import weight_ancestors
from factory.report.records import Step
from factory.report.scorecard import MODES, AllAnswers, benchmarks
from factory.report.section import section
from factory.stages import STAGES

MOST_BYTES = 128 * 2**20
"""Of a file of training texts: that takes a minute, and a report should not take more."""
FILES = {"traces": "traces.jsonl", "problems": "train.jsonl"}
"""What a stage that trains reads of its inputs."""


CLEAN_TITLE = "without overlaps"
INTRO = (
    "Which problems overlap with the texts that a model's weights, or their ancestors', were "
    "trained on in this build: the same question; 8 words in a row of a training question; 13 "
    "words of the question in a row in a training text; numbers masked too, except in runs that "
    "are mostly numbers. Signs do not count, so among sums those with the same numbers overlap. A "
    "phrase of three questions or more is no overlap, and a paraphrase is missed."
)
HEADER = (
    "checkpoint", "trained on", "problems", "same question", "shared words", "score", CLEAN_TITLE,
    "not known",
)  # fmt: skip

Questions = frozenset[tuple[str, str]]
"""A benchmark's (problem id, question)."""


@dataclass(frozen=True)
class Training:
    """Texts that weights were trained on."""

    stage: str
    """Whose artifact holds them."""
    sources: tuple[str, ...]
    """Of problems: only these sources, all where there is none."""
    texts: Callable[[], Iterator[TrainingText]]


class CleanScore(Record):
    """A strict score over all problems, and over those that overlap with no training text."""

    mode: Mode
    whole: Interval
    clean: Interval | None
    """None where no problem is left."""


class Contamination(Record):
    """What of a benchmark overlaps with the texts that a model's weights were trained on."""

    label: str
    benchmark: str
    problems: int
    texts: int
    """Training texts that were looked through."""
    stages: tuple[str, ...]
    """Whose artifacts hold them; none: none of the factory's training had a text."""
    unknown: tuple[str, ...]
    """What else it was trained on, that cannot be looked at."""
    overlaps: tuple[Overlap, ...]
    scores: tuple[CleanScore, ...]

    @property
    def same(self) -> int:
        """Problems that were trained on as they are."""
        return sum(overlap.rule == SAME_QUESTION for overlap in self.overlaps)


@section("contamination", after="thinking")
def contamination(build: Build) -> Section | None:
    rows = contaminations(build)
    parts = [
        Section(name, (Table(HEADER, contamination_rows(rows, name), label="Contamination"),))
        for name in dict.fromkeys(row.benchmark for row in rows)
    ]
    if not parts:
        return None
    return Section("Contamination", (Text(INTRO), *parts), facts=tuple(rows))


def clean_score(row: Contamination) -> tuple[str, str]:
    """The main score (sampled, else greedy) without overlaps, and on how many problems."""
    if not row.scores or row.scores[0].clean is None:
        return "no problem left", f"0 of {count(row.problems)}"
    clean = row.scores[0].clean
    value = f"{percent(clean.value)} {span(clean.low, clean.high)}"
    return value, f"{count(clean.n)} of {plural(row.problems, 'problem')}"


def contamination_rows(
    rows: Sequence[Contamination], benchmark: str
) -> tuple[tuple[str, ...], ...]:
    """A row an evaluation, under HEADER."""
    shown = []
    for row in rows:
        if row.benchmark != benchmark:
            continue
        texts = f"{plural(row.texts, 'text')} of {listing(list(row.stages))}" if row.stages else ""
        score = row.scores[0].whole if row.scores else None
        shown.append(
            (
                row.label,
                texts or "none trained on",
                count(row.problems),
                count(row.same),
                count(len(row.overlaps) - row.same),
                "" if score is None else f"{percent(score.value)} {span(score.low, score.high)}",
                ", on ".join(clean_score(row)),
                "; ".join(row.unknown),
            )
        )
    return tuple(shown)


@once
def contaminations(build: Build) -> list[Contamination]:
    """One for each evaluation and benchmark, benchmark by benchmark in stage order.

    Trained on is what the stages read that made the model's weights and its ancestors': traces,
    question and text, and the questions of RL. What a teacher was trained on counts through its
    traces only.
    """
    rows, answers, by_name = build.evaluations, build.answers, build.by_name
    looked: dict[tuple[str, tuple[str, ...], Questions], tuple[int, dict[str, Overlap]]] = {}
    indices: dict[Questions, HeldOut] = {}
    results = []
    for benchmark in benchmarks(rows):
        for row in rows:
            questions = _questions(answers, row.label, benchmark)
            if not questions:
                continue
            key = frozenset(questions.items())
            trained, unknown = trained_on(row.model, by_name)
            for text in trained:
                if key not in indices:
                    indices[key] = index_of(questions)
                if (text.stage, text.sources, key) not in looked:
                    result = overlaps(indices[key], text.texts(), text.stage)
                    looked[text.stage, text.sources, key] = result
            seen = [looked[text.stage, text.sources, key] for text in trained]
            hits = merged(overlaps_of for _, overlaps_of in seen)
            results.append(
                Contamination(
                    label=row.label,
                    benchmark=benchmark,
                    problems=len(questions),
                    texts=sum(number for number, _ in seen),
                    stages=tuple(dict.fromkeys(text.stage for text in trained)),
                    unknown=tuple(unknown),
                    overlaps=tuple(hits[name] for name in questions if name in hits),
                    scores=tuple(_scores(answers, row.label, benchmark, without=hits)),
                )
            )
    return results


def _questions(answers: AllAnswers, label: str, benchmark: str) -> dict[str, str]:
    questions: dict[str, str] = {}
    for mode in MODES:
        for name, samples in answers[label].get((benchmark, mode), {}).items():
            questions.setdefault(name, samples[0].trace.question)
    return questions


def _scores(
    answers: AllAnswers, label: str, benchmark: str, *, without: Mapping[str, Overlap]
) -> Iterator[CleanScore]:
    for mode in MODES:
        problems = answers[label].get((benchmark, mode), {})
        score = strict_interval(problems)
        if score is not None:
            clean = {name: rows for name, rows in problems.items() if name not in without}
            yield CleanScore(mode=mode, whole=score, clean=strict_interval(clean))


def trained_on(model: str, by_name: Mapping[str, Step]) -> tuple[list[Training], list[str]]:
    """What a model's weights were trained on, own stage first, and what is not known of it."""
    trained: list[Training] = []
    unknown: list[str] = []
    for name in [model, *weight_ancestors(model, by_name)]:
        step = by_name[name]
        row = STAGES.get(step.stage)
        unseen = "" if row is None else row.unseen(step.config)
        if unseen:
            unknown.append(unseen.format(name=name))
        for path, source in step.inputs.items():
            # A watch measures on held-out problems; it trains on nothing.
            if path.startswith("watch") or source not in by_name:
                continue
            if path == "teacher":
                unknown.append(f"what {source} was trained on, whose distribution {name} learned")
            file = FILES.get(by_name[source].produces)
            if file is not None:
                chosen = step.config.get("sources") if path == "problems" else None
                texts = _training(by_name[source], file, tuple(chosen or ()))
                if isinstance(texts, str):
                    unknown.append(texts)
                else:
                    trained.append(texts)
    distinct = {(texts.stage, texts.sources): texts for texts in trained}
    return list(distinct.values()), list(dict.fromkeys(unknown))


def _training(source: Step, file: str, sources: tuple[str, ...]) -> Training | str:
    """The texts of a trained-on artifact, or why they are not looked at."""
    artifact = source.artifact
    if artifact is None or file not in artifact.manifest.files:
        return f"the texts of {source.name}, which are not here"
    bytes_ = artifact.manifest.files[file].size
    if bytes_ > MOST_BYTES:
        return (
            f"the texts of {source.name}: {size(bytes_)} are more than a report looks through "
            f"({size(MOST_BYTES)}); a mix stage with `unlike` leaves overlaps out"
        )
    path = artifact.file(file)
    if file == "train.jsonl":
        return Training(
            source.name,
            sources,
            lambda: (
                (problem.prompt, "")
                for problem in read_records(path, Problem)
                if not sources or problem.source in sources
            ),
        )
    return Training(
        source.name, (), lambda: ((t.question, t.completion) for t in artifact.traces())
    )
