"""The resolved recipe."""

from factory.core.blocks import Code, Fold, Section, Text
from factory.report.build import Build
from factory.report.section import section


@section("recipe", after="lineage")
def recipe(build: Build) -> Section:
    import yaml

    stages = {row.name: row.config for row in build.stages}
    content = {"name": build.recipe, "stages": stages}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    intro = Text("Every setting of every stage, defaults included.")
    return Section("Resolved recipe", (intro, Fold("The recipe", (Code(text, "recipe"),))))
