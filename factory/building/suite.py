"""Evaluations by name: protocols and suites as data, put together as a recipe in memory.

`factory eval` builds that recipe like any other, so seals, reuse, resume and the report are those
of every build.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from factory.building.recipe import Recipe, recipe_from, set_keys
from factory.core.errors import RecipeError
from factory.core.records import EarlyStop, Record, SamplingConfig
from factory.core.shipped import named_file, near_names, shipped, shipped_names
from factory.core.yaml12 import load_mapping
from factory.text.chat import PromptConfig

EVALS = shipped("evals")
NAME = r"^[A-Za-z0-9_-]{1,64}$"
PROTOCOL_KEY = "protocol."
"""What an override of `factory eval` begins with that is not of the machine."""


class Protocol(Record):
    """How every benchmark of a suite is asked."""

    description: str
    prompt: PromptConfig
    sampling: SamplingConfig
    samples: int = Field(ge=0, le=10**5)
    """k, where `samples_by` does not say otherwise."""
    samples_by: dict[str, int] = Field(default_factory=dict)
    """k by the benchmark's name."""
    greedy: bool
    limit: int | None = Field(default=None, ge=1, le=10**9)
    """Use only the first N problems of each benchmark."""
    stop_at: EarlyStop | None = None
    """The error bar at which a benchmark has samples enough."""


class NotRun(Record):
    """A benchmark that the suite would have and cannot."""

    name: str = Field(pattern=NAME)
    reason: str = Field(min_length=1)


class Suite(Record):
    """Benchmarks under one name."""

    description: str
    protocol: str = Field(pattern=NAME)
    """Where the command line names none."""
    problems: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Problems stages by name, in a recipe's words."""
    benchmarks: tuple[dict[str, Any], ...] = Field(min_length=1)
    """Benchmarks in the words of an evaluate stage."""
    not_run: tuple[NotRun, ...] = ()


def load_protocol(name: str, overrides: Sequence[str] = ()) -> Protocol:
    """The protocol of a file, or of this name in `evals/protocols/`, with `protocol.KEY=VALUE`
    of `--set` applied; RecipeError lists those there are."""
    return _load(Protocol, "protocols", name, overrides)


def load_suite(name: str) -> Suite:
    """The suite of a file, or of this name in `evals/suites/`; RecipeError lists those."""
    return _load(Suite, "suites", name)


def _load(record: type[Any], folder: str, name: str, overrides: Sequence[str] = ()) -> Any:
    root = EVALS / folder
    path = named_file(Path(name), root)
    if not path.is_file():
        raise RecipeError(
            f"{folder[:-1]} {name!r}: no such file; shipped are "
            f"{', '.join(shipped_names(root))}{near_names(path, root)}"
        )
    try:
        data = load_mapping(path)
        set_keys(data, overrides, PROTOCOL_KEY)
        return record.model_validate_json(json.dumps(data))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecipeError(f"{path}: {where}: {first['msg']}") from error


def evaluation_recipe(
    models: Mapping[str, Mapping[str, Any]],
    suite: Suite,
    protocol: Protocol,
    *,
    name: str,
) -> Recipe:
    """A recipe that evaluates each of `models` (settings of model stages by name) on the suite.

    Its evaluations are called `eval_<model>`. RecipeError lists every mistake in the suite.
    """
    benchmarks = [_benchmark(benchmark, protocol) for benchmark in suite.benchmarks]
    requested = {
        "kind": "evaluate",
        "benchmarks": benchmarks,
        "prompt": protocol.prompt.model_dump(mode="json"),
        "sampling": protocol.sampling.model_dump(mode="json"),
        "samples": protocol.samples,
        "greedy": protocol.greedy,
    }
    if protocol.stop_at is not None:
        requested["stop_at"] = protocol.stop_at.model_dump(mode="json")
    stages: dict[str, Any] = {key: dict(fields) for key, fields in suite.problems.items()}
    for model, fields in models.items():
        stages[model] = dict(fields)
        stages[evaluation_name(model)] = {**requested, "model": model}
    missing = "".join(f" Not run: {item.name} ({item.reason})." for item in suite.not_run)
    description = f"{suite.description}; {protocol.description}.{missing}"
    data = {"name": name, "description": description, "stages": stages}
    return recipe_from(data, f"suite {name}")


def evaluation_name(model: str) -> str:
    """The name of the stage that evaluates a model stage."""
    return f"eval_{model}"


def _benchmark(item: Mapping[str, Any], protocol: Protocol) -> dict[str, Any]:
    fields = dict(item)
    samples = protocol.samples_by.get(str(fields.get("name")))
    if samples is not None:
        fields.setdefault("samples", samples)
    if protocol.limit is not None:
        fields["limit"] = min(protocol.limit, fields.get("limit") or protocol.limit)
    return fields


HUB = re.compile(r"^([\w.-]+/[\w.-]+)@([0-9a-f]{40})$")


def hub_source(text: str) -> dict[str, Any] | None:
    """Settings of the hub model `owner/name@commit`; None where the text is no such thing."""
    match = HUB.match(text)
    if match is None:
        return None
    return {"kind": "model", "source": {"type": "hub", "id": match[1], "revision": match[2]}}


ENDPOINT = re.compile(r"^(https?://[^#]+)#([^#]+)(?:#([^#]+))?$")


def endpoint_source(text: str) -> dict[str, Any] | None:
    """Settings of a served model `URL#NAME` or `URL#NAME#AS_OF`; None where the text is no URL.

    RecipeError for a URL that does not say which of the server's models is meant.
    """
    if not text.startswith(("http://", "https://")):
        return None
    match = ENDPOINT.match(text)
    if match is None:
        raise RecipeError(f"{text}: say which model of the server: {text.partition('#')[0]}#NAME")
    source = {"type": "endpoint", "url": match[1].rstrip("/"), "name": match[2]}
    return {"kind": "model", "source": {**source, "as_of": match[3]} if match[3] else source}


def stage_name(text: str, taken: Sequence[str]) -> str:
    """A stage name from a path, an id or a name: its last part, made unlike those taken."""
    served = ENDPOINT.match(text)
    text = served[2] if served else text
    last = text.rstrip("/").partition("@")[0].rpartition("/")[2]
    base = re.sub(r"[^A-Za-z0-9_-]+", "_", last).strip("_-")[:48] or "model"
    name, number = base, 2
    while name in taken:
        name, number = f"{base}_{number}", number + 1
    return name
