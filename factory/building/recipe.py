"""Recipes: the only user input. YAML with `extends`, overrides, all mistakes listed at once."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo

from factory.building.edges import near_keys, reference_problems
from factory.core.data_file import WITH_PATHS
from factory.core.errors import MOST_LINES, RecipeError
from factory.core.machine import Machine
from factory.core.records import Record
from factory.core.shipped import named_file, near_names, shipped
from factory.core.variants import VariantOf
from factory.core.yaml12 import is_list, is_mapping, load_mapping, parse
from factory.evaluation.claim import Claim
from factory.stages import STAGES, StageConfig

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"


class Header(Record):
    """A recipe's fields besides its stages."""

    name: str = Field(pattern=NAME)
    """Letters, digits, `_` and `-`, at most 64. Names the folder of the report."""
    description: str = ""
    """Shown in the report."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of every stage that states none of its own; another one makes all stages anew."""
    claims: tuple[Claim, ...] = ()
    """What the recipe sets out to show; its report measures each."""


MOST_STAGES = 500
"""Of one recipe, after `extends`."""
MOST_PARENTS = 10
"""Recipes one after another that each extend the next."""
FOLDERS = "folders"
"""Key of a kept recipe: the folders of the files that it was read from."""
MACHINE_KEY = "machine."
"""With which an override of the machine's settings begins."""


@dataclass(frozen=True)
class Recipe:
    """A validated recipe; `resolved` is what was validated, after extends and overrides."""

    header: Header
    stages: Mapping[str, StageConfig]
    overrides: tuple[str, ...]
    resolved: Mapping[str, Any]
    folders: tuple[Path, ...] = ()
    """Where files that it names relatively are looked for before the current folder."""

    @property
    def name(self) -> str:
        return self.header.name


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load, extend, override and validate; RecipeError lists every problem with its path.

    `path` may also be the name of a shipped recipe: quickstart, distill/qwen3-0.6b.
    A resolved recipe (JSON, as kept beside the report) loads too and gives equal fingerprints.
    """
    path = existing_file(path, shipped("recipes"))
    data, folders = _extended(path, ())
    if path.suffix == ".json":  # a resolved one, kept away from what lies beside its recipe
        folders += _kept_folders(data, path)
    own = [override for override in overrides if not override.startswith(MACHINE_KEY)]
    for override in own:
        _apply(data, override)
    try:
        return recipe_from(data, str(path), own, folders)
    except OSError as error:  # a name that is too long for a file
        raise RecipeError(f"{path}: {error.strerror}: {str(error.filename)[:100]}") from error


def kept_recipe(recipe: Recipe) -> dict[str, Any]:
    """What loads again as the same recipe from any folder, for a file `recipe.json`."""
    configs = recipe.stages.values()
    plain = [config.model_dump(mode="json") for config in configs]
    if plain == [config.model_dump(mode="json", context=WITH_PATHS) for config in configs]:
        return dict(recipe.resolved)
    return {**recipe.resolved, FOLDERS: [str(folder.resolve()) for folder in recipe.folders]}


def _kept_folders(data: dict[str, Any], path: Path) -> list[Path]:
    folders = data.pop(FOLDERS, [])
    if not is_list(folders) or not all(isinstance(folder, str) for folder in folders):
        raise RecipeError(f"{path}: {FOLDERS}: must be a list of folders")
    return [Path(folder) for folder in folders]


def recipe_from(
    data: dict[str, Any], where: str, overrides: Sequence[str] = (), folders: Sequence[Path] = ()
) -> Recipe:
    """The recipe of a mapping without `extends`; RecipeError lists every problem after `where`.

    Files that it names relatively are looked for in `folders` first.
    """
    problems: list[str] = []
    _resolve_likes(data.get("stages"), problems)
    header = _header(data, problems)
    stages = _stages(data.get("stages"), problems, folders)
    if header is not None:
        _check_claims(header.claims, stages, problems)
    if problems or header is None:
        raw = data.get("stages")
        # Where a name itself is wrong, stages may be called otherwise.
        if is_mapping(raw) and all(map(_is_name, raw)):
            problems += reference_problems(stages, _refused(raw, stages))
        raise RecipeError("\n".join(f"{where}: {problem}" for problem in problems))
    return Recipe(header, stages, tuple(overrides), data, tuple(folders))


def _refused(raw: Mapping[str, Any], stages: Mapping[str, StageConfig]) -> dict[str, StageConfig]:
    """Stages whose settings are wrong, with those that their kind has, unchecked."""
    refused: dict[str, StageConfig] = {}
    for name, fields in raw.items():
        if name not in stages and is_mapping(fields) and str(fields.get("kind")) in STAGES:
            config = STAGES[str(fields["kind"])].config
            own = {key: value for key, value in fields.items() if key in config.model_fields}
            refused[name] = config.model_construct(**own)
    return refused


def load_machine(path: Path | None, overrides: Sequence[str] = ()) -> Machine:
    """A machine file, or the defaults where none is given, with the overrides `machine.KEY=VALUE`.

    `path` may also be the name of a shipped one: cpu, gpu. RecipeError lists every problem with its
    path.
    """
    if path is not None:
        path = existing_file(path, shipped("recipes/machines"))
    data = {} if path is None else load_mapping(path, may_be_pipe=True)
    set_keys(data, overrides, MACHINE_KEY)
    problems: list[str] = []
    machine = _validate(Machine, data, "", problems)
    where = path or "machine settings"
    if machine is None:
        raise RecipeError("\n".join(f"{where}: {problem}" for problem in problems))
    for name, option in (("unsandboxed", "--unsandboxed"), ("ignore_fit", "--ignore-fit")):
        if getattr(machine, name):
            raise RecipeError(f"{where}: {name}: is no setting of a file; type {option}")
    return machine


def existing_file(path: Path, root: Path) -> Path:
    """The file at a path, else the shipped file of that name; RecipeError with what is near."""
    file = named_file(path, root)
    if not os.path.lexists(file):
        raise RecipeError(
            f"{path}: no such file, and no name of a shipped one{near_names(path, root)}"
        )
    return file


def set_keys(data: dict[str, Any], overrides: Sequence[str], prefix: str) -> None:
    """Apply each `<prefix>a.b=c`; what is left to defaults may be set, unknown keys fail later."""
    for override in overrides:
        if not override.startswith(prefix):
            continue
        path, equals, text = override.removeprefix(prefix).partition("=")
        if not equals or not path:
            raise RecipeError(f"--set {override}: must look like {prefix}key=value")
        *keys, last = path.split(".")
        fields: Any = data
        for key in keys:
            fields = fields.setdefault(key, {})
            if not is_mapping(fields):
                raise RecipeError(f"--set {override}: {'.'.join(keys)} is no mapping of settings")
        fields[last] = parse(text, f"--set {override}") if text else ""


def _extended(
    path: Path, seen: tuple[Path, ...], read: int = 0
) -> tuple[dict[str, Any], list[Path]]:
    """A recipe with what it extends merged in; the folders of all these files, its own first."""
    try:
        resolved, size = path.resolve(), path.stat().st_size
    except (OSError, RuntimeError, ValueError) as error:  # a link to itself, a NUL character
        reason = getattr(error, "strerror", None) or "its links lead in a circle"
        raise RecipeError(f"{path}: cannot be read: {reason}") from error
    if resolved in seen:
        chain = " -> ".join(p.name for p in [*seen, resolved])
        raise RecipeError(f"{path}: extends itself: {chain}")
    if len(seen) == MOST_PARENTS:
        raise RecipeError(f"{path}: extends more than {MOST_PARENTS} recipes one after another")
    data = load_mapping(path, may_be_pipe=not seen, read=read)
    parent = data.pop("extends", None)
    if parent is None:
        return data, [path.parent]
    if not isinstance(parent, str):
        raise RecipeError(f"{path}: extends: must be the file name of one parent recipe")
    above, folders = _extended(path.parent / parent, (*seen, resolved), read + size)
    return _merged(above, data), [path.parent, *folders]


def _merged(parent: dict[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings merge deeply; lists and scalars of the child replace the parent's.

    A mapping whose `kind` or `type` changes replaces too: half of another variant's keys would
    only be refused.
    """
    result = dict(parent)
    for key, value in child.items():
        old = result.get(key)
        if is_mapping(old) and is_mapping(value) and _same_variant(old, value):
            result[key] = _merged(old, value)
        else:
            result[key] = value
    return result


def _same_variant(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return all(tag not in old or tag not in new or old[tag] == new[tag] for tag in ("kind", "type"))


def _resolve_likes(stages: Any, problems: list[str]) -> None:
    """Replace every stage's `like: other` by the other's settings with its own merged over them."""
    if not is_mapping(stages):
        return
    if len(stages) > MOST_STAGES:
        problems.append(f"stages: {len(stages)} of them; at most {MOST_STAGES} are allowed")
        stages.clear()
        return
    broken: set[str] = set()
    complete: dict[str, dict[str, Any]] = {}

    def resolved(name: str, trail: tuple[str, ...]) -> dict[str, Any]:
        if name in complete:
            return complete[name]
        fields: dict[str, Any] = dict(stages[name])
        other = fields.pop("like", None)
        where = f"stages.{name}.like"
        if other is None:
            complete[name] = fields
            return fields
        if not isinstance(other, str):
            problems.append(f"{where}: must be the name of one stage (found {other!r})")
        elif other in trail:
            problems.append(f"{where}: {' -> '.join([*trail, other])} go in a circle")
        elif not is_mapping(stages.get(other)):
            names = [key for key in stages if key != name]
            problems.append(f"{where}: no stage named {other!r}{near_keys(other, names)}")
        elif other not in broken:
            above = resolved(other, (*trail, other))
            if name not in broken:
                complete[name] = _merged(above, fields)
            return complete.get(name, fields)
        broken.update(trail)
        return fields

    for name in stages:
        if is_mapping(stages[name]) and name not in broken:
            resolved(name, (name,))
    stages.update(complete)
    for name in broken:
        del stages[name]  # its problem is told; without it every other field would seem missing


def _apply(data: dict[str, Any], override: str) -> None:
    """Apply one `a.b=c`.

    The stage must exist; what lies below it may be left to defaults or to `like` in the file, and
    an unknown key there fails validation.
    """
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise RecipeError(f"--set {override}: must look like stages.sft.learning_rate=1e-4")
    value = parse(text, f"--set {path}") if text else ""
    keys = path.split(".")
    node: Any = data
    for depth, key in enumerate(keys[:-1]):
        if depth >= 2 and is_mapping(node):
            node.setdefault(key, {})
        node = _child(node, key, ".".join(keys[: depth + 1]), override)
    last = keys[-1]
    if is_list(node):
        _child(node, last, path, override)
        node[int(last)] = value
    elif is_mapping(node):
        node[last] = value
    else:
        raise RecipeError(f"--set {override}: {'.'.join(keys[:-1])} is a single value")


def _child(node: Any, key: str, path: str, override: str) -> Any:
    if is_list(node):
        if not key.isdecimal() or int(key) >= len(node):
            raise RecipeError(
                f"--set {override}: {path}: the list has entries 0 to {len(node) - 1}"
            )
        return node[int(key)]
    if is_mapping(node) and key in node:
        return node[key]
    keys = list(node) if is_mapping(node) else []
    raise RecipeError(f"--set {override}: {path}: no such key{near_keys(key, keys)}")


def _header(data: Mapping[str, Any], problems: list[str]) -> Header | None:
    fields = {key: value for key, value in data.items() if key != "stages"}
    return _validate(Header, fields, "", problems, extra=["stages", "extends"])


def _stages(raw: Any, problems: list[str], folders: Sequence[Path]) -> dict[str, StageConfig]:
    if not raw and problems:
        return {}
    if not is_mapping(raw) or not raw:
        problems.append("stages: must be a mapping of at least one stage name to its settings")
        return {}
    stages: dict[str, StageConfig] = {}
    for name, fields in raw.items():
        where = f"stages.{name}"
        kind = fields.get("kind") if is_mapping(fields) else None
        if not _is_name(name):
            problems.append(f"{where}: a stage name is letters, digits, _ and -, at most 64")
        elif not is_mapping(fields):
            problems.append(f"{where}: must be a mapping with a kind")
        elif not isinstance(kind, str) or kind not in STAGES:
            hint = near_keys(str(kind), list(STAGES))
            problems.append(f"{where}.kind: {kind!r} is none of {', '.join(STAGES)}{hint}")
        else:
            stage = STAGES[kind]
            config = _validate(stage.config, fields, where, problems, folders=folders)
            if config is not None:
                problems += [f"{where}.{problem}" for problem in stage.check(config)]
                stages[name] = config
    return stages


def _check_claims(
    claims: Sequence[Claim], stages: Mapping[str, StageConfig], problems: list[str]
) -> None:
    """Every evaluation that a claim names must be one, and ask the claim's benchmark."""
    evaluations = {
        name: [benchmark["name"] for benchmark in config.model_dump()["benchmarks"]]
        for name, config in stages.items()
        if getattr(config, "kind") == "evaluate"  # noqa: B009
    }
    for number, claim in enumerate(claims):
        for name in (*claim.of, *claim.against):
            where = f"claims.{number}: {name!r}"
            if name not in evaluations:
                hint = near_keys(name, list(evaluations))
                problems.append(f"{where} is no evaluate stage of this recipe{hint}")
            elif claim.benchmark not in evaluations[name]:
                names = ", ".join(evaluations[name])
                problems.append(f"{where} does not ask {claim.benchmark!r}; it asks {names}")


def _is_name(name: str) -> bool:
    return re.fullmatch(NAME, name) is not None and not name.endswith("\n")


def _validate(
    record: type[BaseModel], fields: Mapping[str, Any], where: str, problems: list[str], *,
    extra: Sequence[str] = (), folders: Sequence[Path] = (),
) -> Any:  # fmt: skip
    """The validated record, or None with its problems appended.

    JSON mode: strict Python mode would refuse a list where a tuple is declared.
    """
    try:
        return record.model_validate_json(json.dumps(fields), context={"folders": folders})
    except ValidationError as error:
        items = error.errors(include_url=False)
        for number, item in enumerate(items):
            if len(problems) > MOST_LINES:
                problems += [""] * (len(items) - number)  # counted, not read
                break
            if item["type"] == "too_short" and _holds(item["loc"], error):
                continue  # only because its items were refused
            location = _as_written(fields, item["loc"])
            path = ".".join([where, *location] if where else location)
            if item["type"] == "extra_forbidden":
                keys = [*_known_keys(record, item["loc"][:-1]), *extra]
                hint = near_keys(str(item["loc"][-1]), keys)
                problems.append(f"{path}: unknown key{hint}")
            elif item["type"] == "missing":
                problems.append(f"{path}: is missing")
            else:
                given = json.dumps(item["input"], default=str)
                shown = f" (found {given if len(given) <= 60 else given[:57] + '...'})"
                message = item["msg"].removeprefix("Value error, ")
                if message != item["msg"] and is_mapping(item["input"]):
                    shown = ""  # all that the file holds there; the message says what clashes
                text = f"{path}: {message[:1].lower()}{message[1:]}{shown}"
                problems.append(text.removeprefix(": "))
        return None


def _as_written(fields: Any, location: Sequence[int | str]) -> list[str]:
    """An error's location without the names that pydantic adds for variants of a union."""
    path: list[str] = []
    for depth, part in enumerate(location):
        if is_mapping(fields) and part not in fields and depth < len(location) - 1:
            continue
        path.append(str(part))
        if is_list(fields) and isinstance(part, int):
            fields = fields[part] if part < len(fields) else None
        elif is_mapping(fields):
            fields = fields.get(str(part))
    return path


def _holds(location: tuple[int | str, ...], error: ValidationError) -> bool:
    """Whether another problem lies inside a location."""
    places = [item["loc"] for item in error.errors()]
    return any(p != location and p[: len(location)] == location for p in places)


def _known_keys(record: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Field names of the record that an error location points into, as well as can be told."""
    candidates: list[Any] = [record]
    for part in location:
        following: list[Any] = []
        for candidate in candidates:
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                field = candidate.model_fields.get(str(part))
                following += _records_in(field) if field else [candidate]
        candidates = following
    return [name for c in candidates for name in getattr(c, "model_fields", {})]


def _records_in(annotation: Any) -> list[type[BaseModel]]:
    """Every record type inside a field, or a type such as `tuple[A | B, ...] | None`."""
    if isinstance(annotation, FieldInfo):
        variants = [mark for mark in annotation.metadata if isinstance(mark, VariantOf)]
        return [*variants[0].records] if variants else _records_in(annotation.annotation)
    for mark in getattr(annotation, "__metadata__", ()):
        if isinstance(mark, VariantOf):
            return [*mark.records]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [record for part in get_args(annotation) for record in _records_in(part)]
