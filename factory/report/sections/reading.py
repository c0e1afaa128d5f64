"""How to read the numbers."""

from factory.core.blocks import Bullets, Section
from factory.report.build import Build
from factory.report.section import section

RULES = (
    "pass@1 is the mean over problems of the share of sampled answers that are right; cons@k is "
    "the answer most of k samples agree on; greedy takes the likeliest token each time.",
    "Intervals are 95 % over problems: they say how the score would move with other problems of "
    "the same kind, not how another training seed would move it. They are not corrected for the "
    "number of comparisons.",
    "An answer that is cut off, missing or not gradable counts as not correct, and is counted "
    "apart.",
)


@section("reading", after="recipe")
def reading(build: Build) -> Section:
    return Section("How to read the numbers", (Bullets(RULES),))
