"""The door of trace sources: where the texts of `imported` and `written` come from, by `type`.

`local` and `hub` give rows of any shape, a plug-in's function gives worked examples:

@trace_source(Forum, version=1, files=lambda config: (Path(config.path),))
def forum(config: Forum) -> Iterator[WorkedExample]: ...
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field

from factory.core.data_file import DataFile
from factory.core.errors import DataError
from factory.core.plugin_files import guarded
from factory.core.records import COMMIT, AddedLater, ProblemKind, Record
from factory.core.registry import Door, current_origin
from factory.core.variants import Variant, VariantOf
from factory.problems.foreign import foreign_rows
from factory.problems.hub import data_set_rows
from factory.problems.local import plugin_kinds
from factory.problems.source import no_files, nothing_missing, variant_name
from factory.reading.files import RawRow, data_files, unparsed_rows
from factory.reading.survey import TableOfRows

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
    """What that gives."""
    tables: Callable[[Any], list[TableOfRows]] | None
    """Of a built-in one: its files, whose rows a recipe maps."""
    files: Callable[[Any], tuple[Path, ...]]
    """Files outside the store that decide what it gives."""
    graders: Callable[[Any], set[str]]
    """Graders of plug-ins that decide its examples."""
    size: Callable[[Any], int] | None
    """How many it gives; None: the lines of its files."""
    missing: Callable[[Any], list[str]]
    """What a recipe leaves open, e.g. the revision."""
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
            tables=None,
            files=guarded(files or no_files, f"{where}: files", origin, tuple),
            graders=lambda chosen: set(graders),
            size=size and guarded(size, f"{where}: size", origin, int),
            missing=nothing_missing,
        )
        TRACE_SOURCES.register(name, row, version=version)
        return function

    return registered


class LocalExamples(TraceSourceConfig):
    """Rows of files: JSON Lines, a JSON list, CSV, parquet, Arrow, plain or compressed by gzip or
    Zstandard. `path` of `written` is short for it."""

    type: Literal["local"] = "local"
    path: DataFile
    """A file, a pattern (`traces/*.jsonl.gz`) or a folder, as `datasets` saves one too; relative
    to the recipe, or to the current folder."""
    split: Annotated[str | None, AddedLater()] = None
    """Of a folder that holds several."""


class HubExamples(TraceSourceConfig):
    """Rows of a data set of the hub at a pinned revision."""

    type: Literal["hub"]
    id: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """Owner and name of the data set."""
    revision: str | None = Field(default=None, pattern=COMMIT)
    """The commit's 40 hex digits. A recipe may leave it open; `factory pin` writes it."""
    config: str | None = None
    """The data set's configuration (subset), where it has several."""
    split: str = "train"
    """Of the data set."""


def local_tables(source: LocalExamples) -> list[TableOfRows]:
    """The files of a path, each with its rows."""
    files = data_files(source.path, source.split)
    names = {file.name for file in files}

    def table(file: Path) -> TableOfRows:
        name = file.name if len(names) == len(files) else file.as_posix()
        return TableOfRows(name, lambda columns: unparsed_rows(file, columns=columns))

    return [table(file) for file in files]


def hub_tables(source: HubExamples) -> list[TableOfRows]:
    """The data set, which `datasets` keeps in memory-mapped files."""

    def rows(columns: Sequence[str] | None) -> Iterator[RawRow]:
        table = data_set_rows(
            source.id, source.revision, config=source.config, split=source.split, columns=()
        )
        if columns is not None:
            table = table.select_columns([n for n in table.column_names if n in columns])
        for number, fields in enumerate(table, start=1):
            yield RawRow(source.id, number, fields)

    return [TableOfRows(source.id, rows, source.id)]


def hub_gaps(source: HubExamples) -> list[str]:
    """The commit, where the recipe leaves it open."""
    if source.revision is not None:
        return []
    return [f"source.revision: the commit of huggingface.co/datasets/{source.id} to read"]


def _mapped(source: TraceSourceConfig) -> Iterator[WorkedExample]:
    raise DataError(f"trace source {source.type}: its rows are mapped, see factory/reading")


def _plugin_kinds(source: LocalExamples) -> set[str]:
    return set().union(*(plugin_kinds(file) for file in data_files(source.path, source.split)))


TRACE_SOURCES.register(
    "local",
    TraceSource(
        config=LocalExamples,
        function=None,
        examples=_mapped,
        tables=local_tables,
        files=lambda source: tuple(data_files(source.path, source.split)),
        graders=_plugin_kinds,
        size=None,
        missing=nothing_missing,
    ),
    version=1,
)
TRACE_SOURCES.register(
    "hub",
    TraceSource(
        config=HubExamples,
        function=None,
        examples=_mapped,
        tables=hub_tables,
        files=no_files,
        graders=lambda source: set(),
        size=None,
        missing=hub_gaps,
    ),
    version=1,
)
