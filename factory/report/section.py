"""The door of sections: a part of every report, by name; each is a file of `sections/`.

@section("hedges", after="training")
def hedges(build: Build) -> Section | None: ...
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from factory.core.blocks import Section
from factory.core.errors import PluginError
from factory.core.registry import Door, Row, modules_of
from factory.report.build import Build

Function = Callable[[Build], Section | None]
FILES = modules_of("factory.report.sections")
BUILT_IN = tuple(file.rpartition(".")[2] for file in FILES)


@dataclass(frozen=True)
class SectionRow:
    """A section and where it stands."""

    function: Function
    """Gives None where the build has nothing for it."""
    after: str
    """The section that it follows; empty: the last one."""


SECTIONS: Door[SectionRow] = Door("sections", "report section", FILES)


def section(name: str, *, after: str = "") -> Callable[[Function], Function]:
    """Register a function as a section of every report, behind the section `after`."""

    def registered(function: Function) -> Function:
        if after and after not in BUILT_IN and after not in SECTIONS.table:
            raise PluginError(
                f"report section {name}: after: no section {after!r}; there are "
                f"{', '.join(BUILT_IN)}"
            )
        SECTIONS.register(name, SectionRow(function, after), version=1)
        return function

    return registered


def in_order(rows: list[Row[SectionRow]]) -> list[Row[SectionRow]]:
    """The rows as a report has them, each followed by those that stand after it.

    A plug-in's stand right behind the section that they name, before the factory's next one; those
    that name none, or one that is missing, at the end. Ties go by the order of registration.
    """
    names = {row.name for row in rows}

    def behind(name: str) -> Iterator[Row[SectionRow]]:
        here = [
            row for row in rows if ((row.value.after in names and row.value.after) or "") == name
        ]
        for row in sorted(here, key=lambda row: (row.origin.kind == "factory") == bool(name)):
            yield row
            yield from behind(row.name)

    return list(behind(""))
