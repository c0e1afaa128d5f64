"""Beside each score: what of its benchmark its model's weights were trained on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from factory.evaluation.contamination import (
    Overlap,
    Text,
    index_of,
    merged,
    overlaps,
    strict_interval,
)
from factory.jsonl import read_records
from factory.problems.overlap import HeldOut
from factory.records import Problem
from factory.report.lineage import weight_ancestors
from factory.report.records import CleanScore, Contamination, Evaluation, Step
from factory.report.scorecard import MODES, AllAnswers, benchmarks
from factory.report.text import size

MOST_BYTES = 128 * 2**20
"""Of a file of training texts: that takes a minute, and a report should not take more."""
FILES = {"traces": "traces.jsonl", "problems": "train.jsonl"}
"""What a stage that trains reads of its inputs."""


Questions = frozenset[tuple[str, str]]
"""A benchmark's (problem id, question)."""


@dataclass(frozen=True)
class Training:
    """Texts that weights were trained on."""

    stage: str
    """Whose artifact holds them."""
    sources: tuple[str, ...]
    """Of problems: only these sources, all where there is none."""
    texts: Callable[[], Iterator[Text]]


def contaminations(
    rows: Sequence[Evaluation], answers: AllAnswers, by_name: Mapping[str, Step]
) -> list[Contamination]:
    """One for each evaluation and benchmark, benchmark by benchmark in stage order.

    Trained on is what the stages read that made the model's weights and its ancestors': traces,
    question and text, and the questions of RL. What a teacher was trained on counts through its
    traces only.
    """
    looked: dict[tuple[str, tuple[str, ...], Questions], tuple[int, dict[str, Overlap]]] = {}
    indices: dict[Questions, HeldOut] = {}
    found = []
    for benchmark in benchmarks(rows):
        for row in rows:
            questions = _questions(answers, row.label, benchmark)
            if not questions:
                continue
            asked = frozenset(questions.items())
            trained, unknown = trained_on(row.model, by_name)
            for one in trained:
                key = (one.stage, one.sources, asked)
                if asked not in indices:
                    indices[asked] = index_of(questions)
                if key not in looked:
                    looked[key] = overlaps(indices[asked], one.texts(), one.stage)
            seen = [looked[one.stage, one.sources, asked] for one in trained]
            hits = merged(overlaps_of for _, overlaps_of in seen)
            found.append(
                Contamination(
                    label=row.label,
                    benchmark=benchmark,
                    problems=len(questions),
                    texts=sum(count for count, _ in seen),
                    stages=tuple(dict.fromkeys(one.stage for one in trained)),
                    unknown=tuple(unknown),
                    overlaps=tuple(hits[name] for name in questions if name in hits),
                    scores=tuple(_scores(answers, row.label, benchmark, without=hits)),
                )
            )
    return found


def _questions(answers: AllAnswers, label: str, benchmark: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for mode in MODES:
        for name, samples in answers[label].get((benchmark, mode), {}).items():
            found.setdefault(name, samples[0].trace.question)
    return found


def _scores(
    answers: AllAnswers, label: str, benchmark: str, *, without: Mapping[str, Overlap]
) -> Iterator[CleanScore]:
    for mode in MODES:
        problems = answers[label].get((benchmark, mode), {})
        whole = strict_interval(problems)
        if whole is not None:
            clean = {name: some for name, some in problems.items() if name not in without}
            yield CleanScore(mode=mode, whole=whole, clean=strict_interval(clean))


def trained_on(model: str, by_name: Mapping[str, Step]) -> tuple[list[Training], list[str]]:
    """What a model's weights were trained on, own stage first, and what is not known of it."""
    trained: list[Training] = []
    unknown: list[str] = []
    for name in [model, *weight_ancestors(model, by_name)]:
        step = by_name[name]
        if step.stage == "model" and not _is_random(step.config.get("source")):
            unknown.append(f"what {name} was pre-trained on")
        if step.stage == "pretrain":
            unknown.append(f"the corpus of {name}, which is made as it is read and not kept")
        for path, source in step.inputs.items():
            # A watch measures on held-out problems; it trains on nothing.
            if path.startswith("watch") or source not in by_name:
                continue
            if path == "teacher":
                unknown.append(f"what {source} was trained on, whose distribution {name} learned")
            file = FILES.get(by_name[source].produces)
            if file is not None:
                chosen = step.config.get("sources") if path == "problems" else None
                one = _training(by_name[source], file, tuple(chosen or ()))
                if isinstance(one, str):
                    unknown.append(one)
                else:
                    trained.append(one)
    distinct = {(one.stage, one.sources): one for one in trained}
    return list(distinct.values()), list(dict.fromkeys(unknown))


def _is_random(source: Any) -> bool:
    """Whether a model stage makes random weights, which were trained on nothing."""
    return isinstance(source, Mapping) and source.get("type") == "tiny"


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
