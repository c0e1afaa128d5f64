"""The reference of everything a recipe, a machine file or a command may say, from the docstrings.

`factory reference --out docs/reference.md` writes the page of this repository; a test compares it
with what the code says.
"""

import inspect
import json
import sys
import types
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.core import TyperGroup

from factory.building.recipe import Header
from factory.core.data_file import DataFile
from factory.core.machine import Machine
from factory.core.records import ArtifactKind, Consumes
from factory.core.registry import DOORS, Door, Named, Row, open_doors
from factory.core.variants import VariantOf
from factory.stages.stage import STAGES, Stage, StageConfig

INTRODUCTION = """\
# Reference

Every setting, every name and every command, written from the docstrings by
`factory reference --out docs/reference.md`. [Recipes](recipes.md) explains the language,
[stages](stages.md) what each stage does and why. R1v1 and R1v2 are the two versions of arXiv
2501.12948 (January 2025, January 2026).

A default of `none` means that the setting is left out. A type in *italics* is the name of a stage
that makes such an artifact."""

STAGE_SETTINGS = """\
Every stage has `kind`, or takes it over from another one by `like`, and may have a `seed` of its
own instead of the recipe's."""

ROWS_BY_NAME = """\
What a recipe names besides its own stages. A row comes with the factory, with an installed package,
or from a file that is named on the command line."""

BOUNDS = {
    "ge": "at least", "gt": "above", "le": "at most", "lt": "below", "multiple_of": "in steps of",
}  # fmt: skip
"""How a bound of pydantic's reads."""
PLAIN_TYPES = {
    str: "text", int: "whole number", float: "number", bool: "true or false", dict: "mapping",
    DataFile: "path",
}  # fmt: skip

Titles = Mapping[type[BaseModel], str]
"""The heading of every record's section."""


def reference(program: TyperGroup) -> str:
    """The whole page as Markdown; equal code gives equal bytes."""
    open_doors()
    stages = _ordered(STAGES)
    nested = {row.name: nested_records(row.value.config) for row in stages}
    counts = Counter(record for records in nested.values() for record in records)
    shared = sorted((r for r, count in counts.items() if count > 1), key=lambda r: r.__name__)
    outside = [*nested_records(Header), *nested_records(Machine)]
    titles = {record: record.__name__ for record in (*shared, *outside)}
    for kind, records in nested.items():
        for record in records:
            titles.setdefault(record, f"{kind}.{record.__name__}")
    parts = [
        INTRODUCTION,
        _contents([row.name for row in stages]),
        "## Recipe",
        _text(_own_docstring(Header)),
        table(Header, titles),
        *_sections(nested_records(Header), titles),
        "## Stages",
        STAGE_SETTINGS,
    ]
    for row in stages:
        own = [record for record in nested[row.name] if record not in shared]
        parts += [*_stage(row, titles), *_sections(own, titles)]
    parts += [
        "## Shared records",
        "Settings that several kinds of stages have.",
        *_sections(shared, titles),
        "## Machine file",
        _text(_own_docstring(Machine)),
        table(Machine, titles),
        *_sections(nested_records(Machine), titles),
        "## Rows by name",
        ROWS_BY_NAME,
        *_doors(titles),
        "## Commands",
        *_commands(program),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _stage(row: Row[Stage], titles: Titles) -> Iterator[str]:
    config = row.value.config
    yield f"### {row.name}"
    yield f"Makes *{row.value.produces}*. Version {row.version}."
    yield _text(inspect.getdoc(sys.modules[row.value.run.__module__]) or "")
    yield _text(_own_docstring(config))
    yield table(config, titles)


def _sections(records: Iterable[type[BaseModel]], titles: Titles) -> Iterator[str]:
    for record in records:
        yield f"#### {titles[record]}"
        yield _text(_own_docstring(record))
        yield table(record, titles)


def nested_records(config: type[BaseModel]) -> list[type[BaseModel]]:
    """The records that a record's settings may hold, in order, each once."""
    result: list[type[BaseModel]] = []
    waiting = [config]
    while waiting:
        for setting in waiting.pop(0).model_fields.values():
            for record in _records_of(setting):
                if record not in result and record is not config:
                    result.append(record)
                    waiting.append(record)
    return result


def _records_of(setting: FieldInfo) -> Iterator[type[BaseModel]]:
    marks = [mark for mark in setting.metadata if isinstance(mark, VariantOf)]
    yield from marks[0].records if marks else _records_in(setting.annotation)


def _records_in(annotation: Any) -> Iterator[type[BaseModel]]:
    for mark in getattr(annotation, "__metadata__", ()):
        if isinstance(mark, VariantOf):
            yield from mark.records
            return
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _records_in(argument)


def settings_of(record: type[BaseModel]) -> dict[str, FieldInfo]:
    """What a recipe may set of a record; `kind`, and a stage's `seed`, are every stage's."""
    every = {"kind", "seed"} if issubclass(record, StageConfig) else set()
    return {name: field for name, field in record.model_fields.items() if name not in every}


def table(record: type[BaseModel], titles: Titles) -> str:
    rows = [
        f"| `{name}` | {_setting_type(field, titles)} | {_default(field)} "
        f"| {_cell(field.description or '')} |"
        for name, field in settings_of(record).items()
    ]
    return "\n".join(["| setting | type | default | |", "|---|---|---|---|", *rows])


def _setting_type(setting: FieldInfo, titles: Titles) -> str:
    is_optional = type(None) in get_args(setting.annotation)
    words = _type(setting.annotation, setting.metadata, titles)
    # A default of none says so itself.
    return f"{words}, or none" if is_optional and setting.default is not None else words


def _type(annotation: Any, metadata: Sequence[Any], titles: Titles) -> str:
    """A type in words, with its bounds and, of a reference, the kind of stage that it names."""
    for mark in metadata:
        if isinstance(mark, Consumes):
            return f"*{mark.kind}*" + (", may be served" if mark.only_asked else "")
        if isinstance(mark, VariantOf):
            return " or ".join(_plain_type(record, titles) for record in mark.records)
        if isinstance(mark, Named):
            return f"one of the [{mark.door}](#rows-{mark.door})"
    bounds = [
        f"{word} {_number(getattr(mark, key))}"
        for mark in metadata
        for key, word in BOUNDS.items()
        if getattr(mark, key, None) is not None
    ]
    return " ".join([_plain_type(annotation, titles), " and ".join(bounds)]).strip()


def _plain_type(annotation: Any, titles: Titles) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0], arguments[1:], titles)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_plain_type(a, titles) for a in arguments if a is not type(None))
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"list of {_plain_type(arguments[0], titles)}"
    if origin is tuple:
        return f"[{', '.join(_plain_type(argument, titles) for argument in arguments)}]"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{titles[annotation]}](#{anchor(titles[annotation])})"
    return PLAIN_TYPES.get(origin or annotation, "any value")


def anchor(title: str) -> str:
    """How GitHub names a heading in links."""
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def _default(setting: FieldInfo) -> str:
    if setting.is_required():
        return "**required**"
    value = setting.get_default(call_default_factory=True, validated_data={})
    if value is None or value is PydanticUndefined or value == ():
        return "none"
    return f"`{_cell(_written(value))}`"


def _written(value: Any) -> str:
    """A default as a recipe would state it: of records, what differs from their own defaults."""
    if isinstance(value, BaseModel):
        stated = value.model_dump(exclude_defaults=True)
        return "{" + ", ".join(f"{key}: {_written(item)}" for key, item in stated.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_written, value)) + "]"
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, float):
        return _number(value)
    return json.dumps(value)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) and value >= 10000 else f"{value:g}"


def _own_docstring(record: type) -> str:
    """A class's docstring without that of its parent."""
    return inspect.cleandoc(record.__doc__ or "") if "__doc__" in vars(record) else ""


def _text(docstring: str) -> str:
    """A docstring as Markdown: its indented lines stay formulas, and nothing is read as HTML."""
    parts = docstring.split("`")
    # What stands between two backticks is shown as it is.
    return "`".join(p.replace("<", "&lt;") if i % 2 == 0 else p for i, p in enumerate(parts))


def _cell(text: str) -> str:
    return _text(" ".join(text.split())).replace("|", "\\|")


def _contents(kinds: Sequence[str]) -> str:
    stages = " · ".join(f"[{kind}](#{anchor(kind)})" for kind in kinds)
    return (
        f"[Recipe](#recipe) · [Stages](#stages): {stages} · [Shared records](#shared-records) · "
        "[Machine file](#machine-file) · [Rows by name](#rows-by-name) · [Commands](#commands)"
    )


def _doors(titles: Titles) -> Iterator[str]:
    open_doors()
    for name in sorted(DOORS):
        door, ordered = DOORS[name], _ordered(DOORS[name])
        yield f"### Rows: {door.name}"
        rows = [_door_row(row) for row in ordered]
        yield "\n".join(["| name | version | from | |", "|---|---|---|---|", *rows])
        for row in ordered:
            record = getattr(row.value, "settings", None)
            if record is not None:
                nested = nested_records(record)
                own = {r: f"{row.name}.{r.__name__}" for r in (record, *nested)}
                yield from _sections([record, *nested], {**own, **titles, record: own[record]})


def _ordered(door: Door[Any]) -> list[Row[Any]]:
    """The rows of a door by name; kinds of stages by what they make, then by name."""
    makes = get_args(ArtifactKind)
    order = {kind: makes.index(stage.produces) for kind, stage in STAGES.items()}
    return sorted(door.rows(), key=lambda row: (order[row.name] if door is STAGES else 0, row.name))


def _door_row(row: Row[Any]) -> str:
    name = (
        f"[`{row.name}`](#{anchor(row.name)})" if isinstance(row.value, Stage) else f"`{row.name}`"
    )
    return f"| {name} | {row.version} | {row.origin} | {_cell(_says(row.value))} |"


def _says(value: Any) -> str:
    """The first paragraph of what a row is documented by: its function, its module, or itself."""
    if isinstance(value, Stage):
        return _first(inspect.getdoc(sys.modules[value.run.__module__]) or "")
    function = getattr(value, "function", None) or getattr(value, "config", None)
    if function is None and getattr(value, "learns_from", None):
        return f"what a reward model makes of it that learned from {value.learns_from}"
    if getattr(value, "is_judged", False):
        return "what a judge model makes of an answer to a general prompt: its points as a share"
    module = sys.modules.get(getattr(function, "__module__", ""))
    return _first(inspect.getdoc(function or value) or inspect.getdoc(module) or "")


def _first(docstring: str) -> str:
    return docstring.split("\n\n")[0]


def _commands(program: TyperGroup) -> Iterator[str]:
    for name, command in program.commands.items():
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        usage = " ".join([f"factory {name}", *(_usage(argument) for argument in arguments)])
        yield f"### factory {name}"
        yield f"`{usage}`"
        yield _text(inspect.cleandoc(command.help or ""))
        rows = [_option(parameter) for parameter in command.params]
        if rows:
            yield "\n".join(["| argument or option | default | |", "|---|---|---|", *rows])


def _usage(argument: Any) -> str:
    name = str(argument.name).upper() + ("..." if argument.nargs != 1 else "")
    return name if argument.required else f"[{name}]"


def _option(parameter: Any) -> str:
    is_argument = parameter.param_type_name == "argument"
    names = str(parameter.name).upper() if is_argument else ", ".join(parameter.opts)
    default = parameter.default
    words = "**required**" if parameter.required else "none"
    if default not in (None, "", False) and not callable(default):
        words = f"`{default}`"
    return f"| `{names}` | {words} | {_cell(getattr(parameter, 'help', None) or '')} |"
