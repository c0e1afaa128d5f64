"""The report of a recipe, from what a store holds of its plan."""

import json
from pathlib import Path

from factory.building.plan import make_plan
from factory.building.recipe import Recipe, kept_recipe
from factory.core.artifacts import find, remains
from factory.core.files import write_file
from factory.report.build import build
from factory.report.records import Step
from factory.report.render import failures, write


def write_report(recipe: Recipe, store: Path) -> tuple[Path, tuple[str, ...]]:
    """Write the report of the whole plan under store/reports/<name>, with the resolved recipe.

    Returns the page's path, and a line for each plug-in that could not show what it has; stages
    that are not made yet are shown as such.
    """
    steps = [
        Step(
            step.name,
            step.kind,
            step.stage.produces,
            inputs=step.inputs,
            config=step.config.model_dump(mode="json"),
            artifact=find(store, step.fingerprint) or remains(store, step.fingerprint),
        )
        for step in make_plan(recipe)
    ]
    folder = store / "reports" / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(kept_recipe(recipe), indent=2, ensure_ascii=False)
    write_file(folder / "recipe.json", text + "\n")
    header = recipe.header
    made = build(header.name, header.description, steps, header.claims)
    return write(made, folder), failures(made)
