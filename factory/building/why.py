"""Why a setting of a recipe is what it is: where it is set, what it does, what hangs on it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from factory.building.edges import near_keys
from factory.building.plan import Step, make_plan
from factory.building.recipe import MOST_PARENTS, load_recipe
from factory.core.errors import RecipeError
from factory.core.shipped import named_file, shipped
from factory.core.yaml12 import line_of, load_mapping


@dataclass(frozen=True)
class Reason:
    """What is known of one setting."""

    setting: str
    value: Any
    default: Any
    """None where the setting has none; `is_required` tells which."""
    is_required: bool
    source: str
    """`recipes/smoke.yaml:41`, `--set`, or `default`; by way of `like` with the stage's name."""
    about: str
    """Its docstring."""
    claims: tuple[str, ...]
    """Of the recipe, those with an evaluation that the setting's stage leads to."""
    remade: tuple[str, ...]
    """Stages that a change makes anew: its own and all behind it."""
    stages: int


def why(path: Path, setting: str, overrides: Sequence[str] = ()) -> Reason:
    """The reason of `stages.zero.kl` in a recipe; RecipeError where there is no such setting."""
    recipe = load_recipe(path, overrides)
    plan = make_plan(recipe)
    keys = setting.split(".")
    if len(keys) < 3 or keys[0] != "stages":
        raise RecipeError(f"{setting}: must look like stages.STAGE.SETTING, e.g. stages.zero.steps")
    if keys[1] not in recipe.stages:
        near = near_keys(keys[1], list(recipe.stages))
        raise RecipeError(f"{setting}: {recipe.name} has no stage named {keys[1]!r}{near}")
    value, field = _value(recipe.stages[keys[1]], keys[2:], setting)
    default = field.get_default(call_default_factory=True, validated_data={})
    remade = _behind(plan, keys[1])
    return Reason(
        setting=setting,
        value=_plain(value),
        default=None if default is PydanticUndefined else _plain(default),
        is_required=field.is_required(),
        source=_source(path, keys, overrides) if _is_stated(recipe.resolved, keys) else "default",
        about=" ".join((field.description or "").split()),
        claims=tuple(c.text for c in recipe.header.claims if {*c.of, *c.against} & set(remade)),
        remade=remade,
        stages=len(plan),
    )


def _value(config: BaseModel, keys: Sequence[str], setting: str) -> tuple[Any, FieldInfo]:
    """The value at a path below a stage, and the innermost field on the way to it."""
    value: Any = config
    field: FieldInfo | None = None
    for key in keys:
        if isinstance(value, BaseModel):
            field = type(value).model_fields.get(key)
            if field is None:
                near = near_keys(key, list(type(value).model_fields))
                raise RecipeError(f"{setting}: no such setting: {key}{near}")
            value = getattr(value, key)
        elif isinstance(value, tuple) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        elif isinstance(value, dict) and key in value:
            value = value[key]
        else:
            raise RecipeError(f"{setting}: nothing is set below {key!r} that is called so")
    assert field is not None
    return value, field


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | dict | None) else str(value)


def _behind(plan: Sequence[Step], name: str) -> tuple[str, ...]:
    names = [name]
    for step in plan:  # inputs come first
        if set(step.inputs.values()) & set(names):
            names.append(step.name)
    return tuple(names)


def _is_stated(fields: Any, keys: Sequence[str]) -> bool:
    """Whether a resolved recipe states a setting; not what a child's other `type` replaced."""
    for key in keys:
        if isinstance(fields, dict) and key in fields:
            fields = fields[key]
        elif isinstance(fields, list):
            fields = fields[int(key)]
        else:
            return False
    return True


def _source(path: Path, keys: Sequence[str], overrides: Sequence[str]) -> str:
    """Where the value comes from: an option, a line of a file, or the default."""
    setting = ".".join(keys)
    for override in reversed(overrides):
        name = override.partition("=")[0]
        if setting == name or setting.startswith(f"{name}.") or name.startswith(f"{setting}."):
            return f"--set {override}"
    stage, via = keys[1], ""
    for _ in range(MOST_PARENTS):
        for file, _ in _files(path):
            # A list or a mapping that is stated whole holds what lies in it.
            for end in range(len(keys), 2, -1):
                line = line_of(file, ["stages", stage, *keys[2:end]])
                if line is not None:
                    near = file.is_relative_to(Path.cwd())
                    return f"{file.relative_to(Path.cwd()) if near else file}:{line}{via}"
        like = _like(path, stage)
        if like is None:
            return "default"
        stage, via = like, f", by like: {like}"
    return "default"


def _files(path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A recipe and those that it extends, itself first."""
    file = named_file(path, shipped("recipes"))
    for _ in range(MOST_PARENTS + 1):
        data = load_mapping(file)
        yield file, data
        if not isinstance(data.get("extends"), str):
            return
        file = file.parent / data["extends"]


def _like(path: Path, stage: str) -> str | None:
    for _, data in _files(path):
        fields = data.get("stages", {}).get(stage)
        if isinstance(fields, dict) and isinstance(fields.get("like"), str):
            return fields["like"]
    return None
