"""A recipe's rehearsal: the same graph on tiny random models and a handful of generated problems.

It finds the mistakes of a recipe (names, batch arithmetic, arguments that TRL refuses, filters
that leave nothing) in minutes on a CPU, before hours on GPUs. What is learned means nothing: a
random model solves nothing, so filters keep what fails too.

Every stage's own settings are rehearsed. Stages that are then the same are made once, and of models
that differ in nothing but their weights the first is read in the place of the others.
"""

import json

from factory.building.plan import make_plan, put
from factory.building.recipe import Recipe
from factory.core.data_file import WITH_PATHS
from factory.core.machine import Machine
from factory.stages import StageConfig

MACHINE = Machine(
    device="cpu", dtype="float32", matmul="float32", threads=1, engine="transformers", block=8,
    micro_batch=4, parallel=2, checkpoint_steps=1,
)  # fmt: skip
"""What every rehearsal runs on, whatever machine the recipe is for."""


def rehearsal(recipe: Recipe) -> Recipe:
    """The recipe in small, under the name `<name>-rehearsal`; every setting that does not cost
    time stays as it is."""
    stages = _stages(recipe)
    name = f"{recipe.name[:54]}-rehearsal"
    # The few problems left are of the first source only.
    claims = tuple(claim.model_copy(update={"sources": ()}) for claim in recipe.header.claims)
    header = recipe.header.model_copy(update={"name": name, "seed": 0, "claims": claims})
    resolved = {
        **recipe.resolved,
        "name": name,
        "seed": 0,
        "claims": [claim.model_dump(mode="json") for claim in claims],
        "stages": {key: config.model_dump(mode="json") for key, config in stages.items()},
    }
    return Recipe(header, stages, recipe.overrides, resolved)


def _stages(recipe: Recipe) -> dict[str, StageConfig]:
    small: dict[str, StageConfig] = {}
    stand_ins: dict[str, str] = {}
    first: dict[str, str] = {}
    for step in make_plan(recipe):
        fields = step.config.model_dump(mode="json", context=WITH_PATHS)
        # Stages that differ in their seed alone are rehearsed once.
        fields = {**step.stage.small(fields), "seed": None}
        for path, name in step.inputs.items():
            put(fields, path, stand_ins[name])
        small[step.name] = type(step.config).model_validate(fields, strict=False)
        visible = fields if step.stage.visible is None else step.stage.visible
        shown = {key: fields[key] for key in ("kind", *visible)}
        stand_ins[step.name] = first.setdefault(json.dumps(shown, sort_keys=True), step.name)
    return {name: small[name] for name in recipe.stages}


def alike(recipe: Recipe) -> list[tuple[str, ...]]:
    """Names of the stages of a rehearsal that are made once, the one that is made first."""
    groups: dict[str, tuple[str, ...]] = {}
    for step in make_plan(recipe):
        groups[step.fingerprint] = (*groups.get(step.fingerprint, ()), step.name)
    return [names for names in groups.values() if len(names) > 1]
