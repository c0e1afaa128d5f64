"""The door of sections: a part of every report, by name; each is a file of `sections/`.

@section("hedges", after="training")
def hedges(build: Build) -> Section | None: ...
"""

from collections.abc import Callable
from dataclasses import dataclass

from factory.blocks import Section
from factory.errors import PluginError
from factory.registry import Door, Row
from factory.report.build import Build

Function = Callable[[Build], Section | None]
BUILT_IN = (
    "result", "claims", "flow", "scorecard", "difficulty", "contamination", "published", "changes",
    "training", "evolution", "selection", "preferences", "stages", "samples", "answers", "cost",
    "lineage", "recipe", "reading",
)  # fmt: skip


@dataclass(frozen=True)
class SectionRow:
    """A section and where it stands."""

    function: Function
    """Gives None where the build has nothing for it."""
    after: str
    """The section that it follows; empty: the last one."""


SECTIONS: Door[SectionRow] = Door(
    "sections", "report section", [f"factory.report.sections.{name}" for name in BUILT_IN]
)


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
    """The rows as a report has them: those after one section in the order of their registration."""
    ordered: list[Row[SectionRow]] = []
    for row in rows:
        names = [other.name for other in ordered]
        index = names.index(row.value.after) + 1 if row.value.after in names else len(ordered)
        if row.origin.kind != "factory":
            while index < len(ordered) and ordered[index].value.after == row.value.after and (
                ordered[index].origin.kind != "factory"
            ):  # fmt: skip
                index += 1
        ordered.insert(index, row)
    return ordered
