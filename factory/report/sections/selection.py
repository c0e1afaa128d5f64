"""What became of traces on their way: selected, rewritten, reviewed, mixed."""

from factory.core.blocks import Section
from factory.report.build import Build
from factory.report.section import section
from factory.report.shown import shown


@section("selection", after="evolution")
def selection(build: Build) -> Section | None:
    parts = [
        Section(step.name, tuple(blocks), note=step.stage, look="card")
        for step, blocks in shown(build, "selection")
    ]
    return Section("What selection kept", tuple(parts)) if parts else None
