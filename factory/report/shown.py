"""What the rows of stages show in a section: their own blocks, whatever the kind."""

from collections.abc import Iterable, Iterator, Sequence

from factory.core.blocks import Block, Table
from factory.report.build import Build
from factory.report.foreign import foreign
from factory.report.records import Step
from factory.stages import STAGES


def shown(build: Build, section: str) -> Iterator[tuple[Step, Sequence[Block]]]:
    """Every sealed stage that shows something in the section of that name, in plan order."""
    for step in build.steps:
        if step.stage not in STAGES or step.artifact is None:
            continue
        row = STAGES.row(step.stage)
        shows = row.value.shows
        if shows is None or shows.section != section:
            continue
        if row.origin.kind == "factory":
            blocks = tuple(shows.blocks(step.artifact))
        else:
            blocks = foreign(build).blocks(row, step.name)
        if blocks:
            yield step, blocks


def merged(blocks: Iterable[Block]) -> list[Block]:
    """The blocks, with the rows of all tables of one header in the first of them."""
    joined: list[Block] = []
    for block in blocks:
        heads = [getattr(other, "header", None) for other in joined]
        if isinstance(block, Table) and block.header in heads:
            first = joined[heads.index(block.header)]
            assert isinstance(first, Table)
            joined[heads.index(block.header)] = Table(
                first.header, (*first.rows, *block.rows), first.numbers, first.label
            )
        else:
            joined.append(block)
    return joined
