"""The door of problem sources: where the questions of a `problems` stage come from, by `type`.

@source(Tickets, version=1, is_endless=True)
def tickets(config: Tickets, seed: int) -> Iterator[Problem]: ...
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar, get_args

from pydantic import Field

from factory.core.errors import PluginError
from factory.core.plugin_files import guarded
from factory.core.records import Problem
from factory.core.registry import Door, current_origin
from factory.core.variants import Variant, VariantOf
from factory.problems.foreign import checked_problems
from factory.problems.sizes import QUESTION_CHARACTERS, mean
from factory.problems.splits import Supply, problem_id

Fields = dict[str, Any]
"""A config as JSON values."""
QUESTIONS_READ = 8
"""Of a source that makes its questions: their mean length stands for all."""
Make = Callable[[Any, int], Iterable[Problem]]
F = TypeVar("F", bound=Make)


class ProblemSource(Variant):
    """Base of the sources' configs; each adds `type: Literal[...]`, its name in a recipe."""

    door: ClassVar[str] = "sources"

    def outlook(self) -> list[str]:
        """What a plan says of the source beforehand; DataError where its file is none that it can
        read."""
        return []


class SourceConfig(ProblemSource):
    """Base of a source that is told how many problems each split takes."""

    train: int = Field(default=0, ge=0, le=10**8)
    """How many."""
    held_out: int = Field(default=0, ge=0, le=10**8)
    """How many."""


class SourceSize(NamedTuple):
    """What an estimate needs: the source's label, problems of each split, characters of one."""

    label: str
    train: int
    held_out: int
    characters: float


@dataclass(frozen=True)
class Source:
    """A way to get problems. No field has a default: what is forgotten fails at import."""

    config: type[ProblemSource]
    function: Make | None
    """A plug-in's, which is called in a process of its own."""
    supply: Callable[[Any, int, int], Supply]
    """By config, seed and the processes that it may take."""
    size: Callable[[Any, int], SourceSize]
    """By config and seed; Unpriced where it cannot be said."""
    small: Callable[[Fields], Fields | None]
    """Its config for a rehearsal, whose numbers are lowered by the stage; None where it is not at
    hand, and shipped questions stand in for it."""
    files: Callable[[Any], tuple[Path, ...]]
    """Files outside the store that decide what it gives."""
    graders: Callable[[Any], set[str]]
    """Graders of plug-ins that decide its problems."""
    missing: Callable[[Any], list[str]]
    """What a recipe leaves open, e.g. `revision: the commit of ...`."""
    licence: str
    """Of its problems in case they state none."""
    gives: ClassVar[type[Problem]] = Problem


SOURCES: Door[Source] = Door(
    "sources",
    "problem source",
    [
        f"factory.problems.{name}"
        for name in ("reasoning_gym", "local", "bundled", "hub", "code_templates")
    ],
)

AnySource = Annotated[ProblemSource, VariantOf("sources")]
"""A field that takes the config of any source, built-in or of a plug-in."""


def generating(
    config: type[SourceConfig],
    supply: Callable[[Any, int], Supply],
    *,
    label: Callable[[Any], str],
    licence: str = "",
) -> Source:
    """The row of a source that makes its questions: their length is that of the first few."""

    def size(chosen: Any, seed: int) -> SourceSize:
        questions = islice(supply(chosen, seed).problems, QUESTIONS_READ)
        length = mean(len(problem.prompt) for problem in questions)
        return SourceSize(label(chosen), chosen.train, chosen.held_out, length)

    return Source(
        config=config,
        function=None,
        supply=lambda chosen, seed, processes: supply(chosen, seed),
        size=size,
        small=as_it_stands,
        files=no_files,
        graders=no_graders,
        missing=nothing_missing,
        licence=licence,
    )


def of_splits(
    chosen: Any, label: str, characters: float, *, count: Callable[[], int]
) -> SourceSize:
    """The size of a source of which a split may take all that remain; `count` is of all."""
    if chosen.held_out is None:
        return SourceSize(label, 0, count(), characters)
    if chosen.train is None:
        return SourceSize(label, max(0, count() - chosen.held_out), chosen.held_out, characters)
    return SourceSize(label, chosen.train, chosen.held_out, characters)


def source(
    config: type[SourceConfig],
    *,
    version: int,
    is_endless: bool = False,
    licence: str = "",
    graders: tuple[str, ...] = (),
    size: Callable[[Any], float] | None = None,
    small: Callable[[Fields], Fields | None] | None = None,
    files: Callable[[Any], tuple[Path, ...]] | None = None,
) -> Callable[[F], F]:
    """Register a function of config and seed as a source; raise `version` when it gives others.

    The split takes as many as the config asks for. `is_endless`: questions repeat instead of
    ending. `graders`: kinds of plug-ins that its problems have. `size`: mean characters of a
    question. What it does wrong stops the stage, with source, function and row.
    """
    name = variant_name(config, SourceConfig)

    def registered(function: F) -> F:
        origin = current_origin()
        where = f"problem source {name}"

        def supply(chosen: Any, seed: int, processes: int) -> Supply:
            problems = checked_problems(
                name, chosen, seed=seed, graders=graders, is_endless=is_endless, licence=licence
            )
            return Supply(name, problems, chosen.held_out, chosen.train, is_endless=is_endless)

        def sized(chosen: Any, seed: int) -> SourceSize:
            length = QUESTION_CHARACTERS if size is None else float(size(chosen))
            return SourceSize(name, chosen.train, chosen.held_out, length)

        row = Source(
            config=config,
            function=function,
            supply=supply,
            size=guarded(sized, f"{where}: size", origin, SourceSize),
            small=guarded(small or as_it_stands, f"{where}: small", origin, dict | None),
            files=guarded(files or no_files, f"{where}: files", origin, tuple),
            graders=lambda chosen: set(graders),
            missing=nothing_missing,
            licence=licence,
        )
        SOURCES.register(name, row, version=version)
        return function

    return registered


def variant_name(config: type[Variant], base: type[Variant]) -> str:
    """The name of a config's `type: Literal["..."]`; PluginError where there is none."""
    if not (isinstance(config, type) and issubclass(config, base)):
        raise PluginError(f"{config!r} is no {base.__name__}: derive its settings from that")
    names = get_args(config.model_fields["type"].annotation)
    if len(names) != 1 or not isinstance(names[0], str):
        raise PluginError(f'{config.__name__} needs `type: Literal["..."]`, its name in a recipe')
    return names[0]


def new_problem(
    label: str,
    question: str,
    *,
    reference: str,
    kind: str,
    licence: str = "",
    data: dict[str, Any] | None = None,
) -> Problem:
    """A problem whose id follows from the label of its source and its question."""
    return Problem(
        id=problem_id(label, question),
        prompt=question,
        reference=reference,
        kind=kind,
        source=label,
        licence=licence,
        data=data or {},
    )


def as_it_stands(fields: Fields) -> Fields:
    return fields


def no_files(config: Any) -> tuple[Path, ...]:
    return ()


def no_graders(config: Any) -> set[str]:
    return set()


def nothing_missing(config: Any) -> list[str]:
    return []
