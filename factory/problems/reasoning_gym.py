"""Problems from reasoning-gym's procedural families, with what their scorers need."""

import json
import os
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from factory.core.errors import EngineError, RecipeError
from factory.core.records import OtherSettings, Problem
from factory.core.seeds import derive
from factory.grading.entries import encode
from factory.problems.references import is_right
from factory.problems.source import SOURCES, SourceConfig, generating
from factory.problems.splits import Supply, problem_id

LICENCE = "Apache-2.0"
_MAX_DRAWS = 20_000
"""The largest size every family accepts."""
_SCORER_SIZE = 10
"""Size of the data set that only scores: some families build all entries at once."""
_EXAMPLES = ("possible_answer", "example_answer", "example_correct_answer")
"""Where families without one right answer keep an example of one."""


HASH_DEPENDENT = frozenset(
    {"isomorphic_strings", "knight_swap", "polynomial_multiplication", "ransom_note", "word_ladder"}
)
"""Families that iterate over sets of text: their questions follow Python's hash seed too."""


class ReasoningGymSource(SourceConfig):
    """Questions of one reasoning-gym family."""

    type: Literal["reasoning_gym"]
    family: str
    """One of reasoning-gym's families, e.g. chain_sum. `composite` is none: list its parts."""
    settings: OtherSettings = Field(default_factory=dict)
    """The family's own settings, e.g. {min_terms: 2, max_terms: 3}."""
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    """Fixes the questions whatever the recipe's seed; None derives it from that."""

    @model_validator(mode="after")
    def _can_be_made(self) -> "ReasoningGymSource":
        if fault := settings_fault(self.family, self.settings):
            raise ValueError(fault)
        return self


@cache
def families() -> dict[str, dict[str, Any]]:
    """Settings of each family with their defaults, null for what is none of JSON's: a plan looks
    here, since reasoning-gym takes a second to import. A test compares."""
    return json.loads(Path(__file__).with_name("families.json").read_text(encoding="utf-8"))


def settings_fault(family: str, settings: Mapping[str, Any]) -> str:
    """What keeps a family from being made with these settings, as far as their names, types and
    order say; empty where nothing does."""
    if family not in families():
        hint = ", ".join(get_close_matches(family, families())) or f"one of {len(families())}"
        return f"family {family!r}: reasoning-gym has no such family; allowed: {hint}"
    defaults = families()[family]
    for name, value in settings.items():
        if name not in defaults:
            allowed = ", ".join(sorted(defaults)) or "none"
            return (
                f"family {family}: unknown setting {name!r}; allowed: {allowed} (seed and sizes "
                "are the source's own fields)"
            )
        kind = type(defaults[name])
        if kind in (int, float, bool, str, list) and not _is_like(value, kind):
            return f"family {family}: {name} is {value!r}; it takes one like {defaults[name]!r}"
    chosen = {**defaults, **settings}
    for name in (name for name in chosen if name.startswith("min_")):
        least, most = chosen[name], chosen.get(name.replace("min", "max", 1))
        if _is_like(least, float) and _is_like(most, float) and least > most:
            return f"family {family}: {name} is {least}, above {name.replace('min', 'max', 1)}"
    return ""


def _is_like(value: Any, kind: type) -> bool:
    """Whether a value of JSON may stand for one of this type."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return type(value) is kind or (kind is float and is_number)


def supply(source: ReasoningGymSource, seed: int) -> Supply:
    """The family's questions in the order of their index.

    RecipeError names an unknown family or setting, or a value the family refuses; EngineError if
    the questions would not be the same in another process.
    """
    own_seed = derive(seed, source.family) if source.seed is None else source.seed
    dataset = _open(source, own_seed)
    return Supply(
        label=source.family,
        problems=_problems(source, dataset, own_seed),
        held_out=source.held_out,
        train=source.train,
        is_endless=True,
    )


def _open(source: ReasoningGymSource, seed: int) -> Any:
    from reasoning_gym.factory import create_dataset

    if source.family in HASH_DEPENDENT and not os.environ.get("PYTHONHASHSEED", "").isdigit():
        raise EngineError(
            f"family {source.family} gives other questions in every process unless Python's hash "
            "seed is fixed; start Python with PYTHONHASHSEED=0"
        )
    size = min(_MAX_DRAWS, 1000 + 50 * (source.train + source.held_out))
    try:
        return create_dataset(source.family, **source.settings, seed=seed, size=size)
    except (AssertionError, TypeError, ValueError) as error:
        raise RecipeError(
            f"family {source.family}: settings {source.settings} are refused: {error}"
        ) from error


def _problems(source: ReasoningGymSource, dataset: Any, seed: int) -> Iterator[Problem]:
    made = failed = 0
    for index in range(len(dataset)):
        try:
            entry = dataset[index]
        # A generator may fail on single indices, with any exception; on all of them, the
        # settings are at fault.
        except Exception as error:
            failed += 1
            if failed >= 50 and not made:
                raise RecipeError(
                    f"family {source.family}: settings {source.settings} make no question: {error}"
                ) from error
            continue
        problem = _problem(source, entry, seed)
        if problem is not None:
            made += 1
            yield problem


def _problem(source: ReasoningGymSource, entry: dict[str, Any], seed: int) -> Problem | None:
    """The entry as a Problem, or None if its own reference does not grade as correct."""
    metadata = entry["metadata"]
    examples = [entry["answer"], *(metadata.get(name) for name in _EXAMPLES)]
    example = next((example for example in examples if example is not None), "")
    reference = example if isinstance(example, str) else json.dumps(example)
    config = {**source.settings, "seed": seed, "size": _SCORER_SIZE}
    kept = {"answer": encode(entry["answer"]), "metadata": encode(metadata)}
    problem = Problem(
        id=problem_id(source.family, entry["question"]),
        prompt=entry["question"],
        reference=reference,
        kind="procedural",
        source=f"reasoning_gym/{source.family}",
        licence=LICENCE,
        data={"family": source.family, "config": encode(config), "entry": kept},
    )
    return problem if not reference or is_right(problem) else None


SOURCES.register(
    "reasoning_gym",
    generating(ReasoningGymSource, supply, label=lambda source: f"reasoning_gym/{source.family}"),
    version=1,
)
