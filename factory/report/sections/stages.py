"""What stages show that have no section of their own, such as those of plug-ins."""

from factory.core.blocks import Section
from factory.report.build import Build
from factory.report.section import section
from factory.report.shown import shown


@section("stages", after="preferences")
def stages(build: Build) -> Section | None:
    parts = [
        Section(step.name, tuple(blocks), note=step.stage)
        for step, blocks in shown(build, "stages")
    ]
    return Section("What stages made", tuple(parts)) if parts else None
