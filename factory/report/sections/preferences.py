"""What reward models learned from, and how well."""

from factory.core.blocks import Section, Text
from factory.report.build import Build
from factory.report.section import section
from factory.report.shown import merged, shown

INTRO = (
    "What reward models learned from, and how often each agrees with the data on prompts that it "
    "never saw, with a 95 % interval. The blind guess always takes the longer side, or the more "
    "frequent label. r is the correlation of score and length."
)


@section("preferences", after="selection")
def preferences(build: Build) -> Section | None:
    blocks = merged(block for _, blocks in shown(build, "preferences") for block in blocks)
    return Section("Preferences", (Text(INTRO), *blocks)) if blocks else None
