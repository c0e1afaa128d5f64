"""From a recipe to an ordered list of steps with fingerprints: what to make, what to reuse."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from factory.building.edges import reference_problems, references
from factory.building.recipe import Recipe
from factory.core.artifacts import sha256_file
from factory.core.errors import ArtifactError, DataError, FactoryError, RecipeError
from factory.core.files import check_regular
from factory.core.records import AddedLater, Consumes
from factory.core.registry import DOORS, Named, Row
from factory.core.variants import Variant
from factory.core.yaml12 import is_list, is_tuple
from factory.stages import STAGES, Stage, StageConfig
from factory.stages.model import ModelConfig, opened_tokenizer, prompt_fault, training_fault

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LARGE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Step:
    """One stage of a plan. `inputs` maps the field path in its config to a stage name."""

    name: str
    config: StageConfig
    stage: Stage
    inputs: Mapping[str, str]
    seed: int
    fingerprint: str

    @property
    def kind(self) -> str:
        return getattr(self.config, "kind")  # noqa: B009  every stage config declares it


def make_plan(recipe: Recipe, *, until: str | None = None) -> tuple[Step, ...]:
    """Steps in an order in which every input comes first; RecipeError lists bad references.

    `until` keeps that stage and what it needs.
    """
    if problems := reference_problems(recipe.stages):
        raise RecipeError("\n".join(f"{recipe.name}: {problem}" for problem in problems))
    needs = {name: dict(references(config)) for name, config in recipe.stages.items()}
    order = _ordered(needs)
    if until is not None:
        if until not in recipe.stages:
            raise RecipeError(f"--until {until}: no such stage; there are {', '.join(order)}")
        needed = {until}
        for name in reversed(order):
            if name in needed:
                needed |= {reference for reference, _ in needs[name].values()}
        order = [name for name in order if name in needed]
    fingerprints: dict[str, str] = {}
    steps: list[Step] = []
    faults: list[str] = []
    for name in order:
        config = recipe.stages[name]
        stage = STAGES[getattr(config, "kind")]  # noqa: B009
        inputs = {path: reference for path, (reference, _) in needs[name].items()}
        seed = recipe.header.seed if config.seed is None else config.seed
        input_fingerprints = {path: fingerprints[reference] for path, reference in inputs.items()}
        try:
            fingerprints[name] = _fingerprint(config, stage, seed, input_fingerprints)
        except (ArtifactError, DataError, OSError) as error:
            faults.append(f"stages.{name}: {str(error)[:500]}")
            fingerprints[name] = ""
        steps.append(Step(name, config, stage, inputs, seed, fingerprints[name]))
    if faults:
        raise ArtifactError("\n".join(faults))
    return tuple(steps)


def checked_plan(recipe: Recipe, *, until: str | None = None) -> tuple[Step, ...]:
    """`make_plan`, with a look into local model folders and data files; RecipeError as from
    `check_prompts`."""
    plan = make_plan(recipe, until=until)
    check_prompts(plan, plan)
    return plan


def outlooks(steps: Sequence[Step]) -> dict[str, list[str]]:
    """What each step says beforehand, e.g. how it reads a file; RecipeError with all whose files
    cannot be read so."""
    lines: dict[str, list[str]] = {}
    faults: list[str] = []
    for step in steps:
        try:
            lines[step.name] = step.config.outlook()
        except FactoryError as error:
            faults += [f"stages.{step.name}: {line}" for line in str(error).splitlines()]
    if faults:
        raise RecipeError("\n".join(faults))
    return lines


def missing(plan: Sequence[Step]) -> list[str]:
    """What the recipe leaves open, one line each: a plan with any of it cannot be built."""
    return [f"stages.{step.name}.{gap}" for step in plan for gap in step.stage.missing(step.config)]


def check_prompts(plan: Sequence[Step], made: Sequence[Step]) -> None:
    """RecipeError where one of `made` would ask a model that cannot be asked so, or train one whose
    turns have no end to be learned, or would read files in which it cannot find its columns.

    Looked at are models in local folders; of others the stage itself finds out as it starts.
    """
    tokenizers: dict[str, PreTrainedTokenizerBase | None] = {}
    problems: list[str] = []
    for step in made:
        first = _first_model(plan, step)
        if first is None or first is step or not isinstance(first.config, ModelConfig):
            continue
        if first.name not in tokenizers:
            tokenizers[first.name] = opened_tokenizer(first.config)
        tokenizer, prompt = tokenizers[first.name], getattr(step.config, "prompt", None)
        is_asked_as_is = step.inputs.get("model") == first.name
        fault = training_fault(first.config) if step.stage.trains else ""
        # A stage between may have added the marks of a form to the tokenizer.
        if tokenizer is not None and prompt is not None and (step.stage.trains or is_asked_as_is):
            fault = fault or prompt_fault(tokenizer, prompt, is_learned=step.stage.trains)
        problems += [f"stages.{step.name}.model: {fault}"] if fault else []
    if problems:
        raise RecipeError("\n".join(problems))
    # What lies on a hub would be fetched here; its stage finds out itself.
    outlooks([step for step in made if step.stage.external_files(step.config)])


def _first_model(plan: Sequence[Step], step: Step) -> Step | None:
    """The stage that brought in the model that another asks or trains; None where none did."""
    steps = {step.name: step for step in plan}
    current: Step | None = step
    while current is not None:
        if isinstance(current.config, ModelConfig):
            return current
        current = steps.get(current.inputs.get("model", ""))
    return None


def stage_versions(stage: Stage) -> dict[str, str]:
    """Installed versions of the packages that change a stage's numbers."""
    return {package: _installed(package) for package in stage.packages}


@cache
def _installed(package: str) -> str:
    """Its version, read once: a large plan asks hundreds of times."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _fingerprint(config: StageConfig, stage: Stage, seed: int, inputs: Mapping[str, str]) -> str:
    """sha256 over everything that decides the content; names of stages do not."""
    fields = config.model_dump(mode="json", exclude={**_at_rest(config), "seed": True})
    for path in inputs:
        # The fingerprint of what is read counts, not its name.
        put(fields, path, "<input>")
    parts = {
        "version": stage.version,
        "config": fields,
        "seed": seed,
        "inputs": dict(sorted(inputs.items())),
        "packages": stage_versions(stage),
        "external": [_external(path) for path in stage.external_files(config)],
    }
    plugins = used_plugins(config, stage)
    if plugins:  # without any, a fingerprint is what it was before there were doors
        parts["plugins"] = {name: row.identity for name, row in plugins.items()}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def used_plugins(config: StageConfig, stage: Stage) -> dict[str, Row[Any]]:
    """Rows that decide what a stage makes, by door/name: its kind's, those that its config names,
    those that its kind uses. Of the factory's own only those whose version was raised."""
    names = [*_named(config), *stage.uses(config)]
    if stage.kind in STAGES:
        names.append(("stages", stage.kind))
    rows: dict[str, Row[Any]] = {
        f"{door}/{name}": DOORS[door].row(name) for door, name in sorted(set(names))
    }
    # A version of the factory's own says nothing until it is raised; a kind's is said anyway.
    return {
        name: row
        for name, row in rows.items()
        if row.origin.kind != "factory" or (row.version > 1 and not name.startswith("stages/"))
    }


def _named(config: Any) -> Iterator[tuple[str, str]]:
    """(door, name) of every field that names a row behind a door, or is the config of one."""
    if isinstance(config, Variant):
        yield config.door, config.type
    if isinstance(config, BaseModel):
        for name, field in type(config).model_fields.items():
            value = getattr(config, name)
            for mark in field.metadata:
                if isinstance(mark, Named) and isinstance(value, str):
                    yield mark.door, value
            yield from _named(value)
    elif is_tuple(config):
        for item in config:
            yield from _named(item)


def _at_rest(config: BaseModel) -> dict[Any, Any]:
    """Settings that came later and have their default, in the form of pydantic's `exclude`."""
    kept: dict[Any, Any] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        later = any(isinstance(mark, AddedLater) for mark in field.metadata)
        if later and value == field.get_default(call_default_factory=True):
            kept[name] = True
        elif isinstance(value, BaseModel):
            kept[name] = _at_rest(value)
        elif is_tuple(value):
            kept[name] = {
                index: _at_rest(item)
                for index, item in enumerate(value)
                if isinstance(item, BaseModel)
            }
    return {name: inner for name, inner in kept.items() if inner}


def _external(path: Path) -> list[str | int]:
    try:
        stat = check_regular(path)
        # Hashing a large local model at each plan would cost seconds: its time stands for it.
        large = stat.st_size >= LARGE_BYTES
        return [path.name, stat.st_size, stat.st_mtime_ns if large else sha256_file(path)]
    except OSError as error:
        looked = "" if path.is_absolute() else f" beside the recipe and in {Path.cwd()}"
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}{looked}") from error


def put(fields: Any, path: str, value: str) -> None:
    """Replace what stands at a dotted path of a config's fields."""
    *keys, last = path.split(".")
    for key in keys:
        fields = fields[int(key)] if is_list(fields) else fields[key]
    fields[int(last) if is_list(fields) else last] = value


def _ordered(needs: Mapping[str, Mapping[str, tuple[str, Consumes]]]) -> list[str]:
    """Stage names, inputs first, otherwise in the recipe's order; a cycle is named."""
    order: list[str] = []
    state: dict[str, str] = {}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if state.get(name) == "done":
            return
        if name in trail:
            cycle = " -> ".join([*trail[trail.index(name) :], name])
            raise RecipeError(f"stages need each other in a circle: {cycle}")
        for reference, _ in needs[name].values():
            visit(reference, (*trail, name))
        state[name] = "done"
        order.append(name)

    for name in needs:
        visit(name, ())
    return order
