"""The door of trace sources: where the worked examples of a `written` stage come from, by `type`.

@trace_source(Forum, version=1, files=lambda config: (Path(config.path),))
def forum(config: Forum) -> Iterator[WorkedExample]: ...
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field

from factory.data_file import DataFile
from factory.jsonl import read_records
from factory.plugin_files import guarded
from factory.problems.foreign import foreign_rows
from factory.problems.local import plugin_kinds
from factory.problems.source import no_files, variant_name
from factory.records import ProblemKind, Record
from factory.registry import Door, current_origin
from factory.variants import Variant, VariantOf

F = TypeVar("F", bound=Callable[[Any], Iterable["WorkedExample"]])


class WorkedExample(Record):
    """A question with the thoughts and the answer that somebody wrote."""

    question: str
    reasoning: str
    answer: str
    reference: str | None = None
    """The right answer, where it is not the answer's own text."""
    kind: ProblemKind = "math"
    topic: str = Field(default="written", pattern=r"^[a-z0-9_]{1,40}$")
    """What it is about, e.g. translation: the beginning of its problem's id."""
    origin: str = ""
    """Where it comes from and under which licence; not read."""


class TraceSourceConfig(Variant):
    """Base of the configs; each adds `type: Literal[...]`, its name in a recipe."""

    door: ClassVar[str] = "trace_sources"


@dataclass(frozen=True)
class TraceSource:
    """A way to get worked examples."""

    config: type[TraceSourceConfig]
    function: Callable[[Any], Iterable[WorkedExample]] | None
    """A plug-in's, which is called in a process of its own."""
    examples: Callable[[Any], Iterator[WorkedExample]]
    files: Callable[[Any], tuple[Path, ...]]
    """Files outside the store that decide what it gives."""
    graders: Callable[[Any], set[str]]
    """Graders of plug-ins that decide its examples."""
    size: Callable[[Any], int] | None
    """How many it gives; None: the lines of its files."""
    gives: ClassVar[type[WorkedExample]] = WorkedExample


TRACE_SOURCES: Door[TraceSource] = Door(
    "trace_sources", "trace source", ["factory.problems.trace_source"]
)

AnyTraceSource = Annotated[TraceSourceConfig, VariantOf("trace_sources")]
"""A field that takes the config of any trace source, built-in or of a plug-in."""


def trace_source(
    config: type[TraceSourceConfig],
    *,
    version: int,
    graders: tuple[str, ...] = (),
    size: Callable[[Any], int] | None = None,
    files: Callable[[Any], tuple[Path, ...]] | None = None,
) -> Callable[[F], F]:
    """Register a function of a config as a source; raise `version` when it gives other examples.

    `graders`: kinds of plug-ins that its examples have. `size`: how many it gives. `files` decide
    what it gives and enter the fingerprint. What it does wrong stops the stage, with source,
    function and row.
    """
    name = variant_name(config, TraceSourceConfig)

    def registered(function: F) -> F:
        origin = current_origin()
        where = f"trace source {name}"
        row = TraceSource(
            config=config,
            function=function,
            examples=lambda chosen: foreign_rows(
                "trace_sources", name, chosen, WorkedExample, graders=graders
            ),
            files=guarded(files or no_files, f"{where}: files", origin, tuple),
            graders=lambda chosen: set(graders),
            size=size and guarded(size, f"{where}: size", origin, int),
        )
        TRACE_SOURCES.register(name, row, version=version)
        return function

    return registered


class LocalExamples(TraceSourceConfig):
    """Lines of a JSONL file; `path` of the stage itself is short for it."""

    type: Literal["local"] = "local"
    path: DataFile
    """Relative to the recipe, or to the current folder."""


TRACE_SOURCES.register(
    "local",
    TraceSource(
        config=LocalExamples,
        function=None,
        examples=lambda source: read_records(Path(source.path), WorkedExample),
        files=lambda source: (Path(source.path),),
        graders=lambda source: plugin_kinds(Path(source.path)),
        size=None,
    ),
    version=1,
)
