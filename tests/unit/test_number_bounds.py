"""Every number of every setting has a range, or a stated reason for none."""

import json
import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from factory.building.recipe import Header
from factory.core.machine import Machine
from factory.core.variants import VariantOf
from factory.stages import STAGES

FREE: dict[str, str] = {}
"""Field -> why it has no range. None has."""


def records(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    if isinstance(annotation, VariantOf):
        yield from annotation.records
    for part in get_args(annotation):
        yield from records(part)


def numbers(annotation: Any, marks: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """(int or float, what restricts it) of each number inside a type."""
    if get_origin(annotation) is Annotated:
        inner, *own = get_args(annotation)
        yield from numbers(inner, (*marks, *own))
    elif annotation in (int, float):
        yield annotation, marks
    elif get_origin(annotation) is not Literal:
        is_union = get_origin(annotation) not in (tuple, list, dict)
        for part in get_args(annotation):
            yield from numbers(part, marks if is_union else ())


def settings() -> dict[str, tuple[type, tuple[Any, ...]]]:
    """Every number that a recipe or a machine file may say, by its record and field."""
    seen: dict[type[BaseModel], None] = {}
    waiting = [*(stage.config for stage in STAGES.values()), Machine, Header]
    fields = {}
    while waiting:
        record = waiting.pop()
        if record in seen:
            continue
        seen[record] = None
        for name, field in record.model_fields.items():
            for part in (field.annotation, *field.metadata):
                waiting += records(part)
            for position, (kind, marks) in enumerate(numbers(field.annotation, (*field.metadata,))):
                fields[f"{record.__name__}.{name}.{position}"] = (kind, marks)
    return fields


SETTINGS = settings()


def annotated(kind: type, marks: tuple[Any, ...]) -> Any:
    return Annotated.__class_getitem__((kind, *marks)) if marks else kind  # type: ignore[attr-defined]


def test_the_walk_sees_the_numbers() -> None:
    assert len(SETTINGS) > 180
    assert {"SftConfig.adam_betas.1", "Tiny.layers.0", "Cluster.cores.0"} <= set(SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_no_number_takes_what_cannot_work(name: str) -> None:
    kind, marks = SETTINGS[name]
    adapter: TypeAdapter[Any] = TypeAdapter(annotated(kind, marks))
    taken = []
    for value in (10**12 * 100, -(10**12), 2**70, 1e300, -1e300, math.inf, -math.inf, math.nan):
        try:
            adapter.validate_json(json.dumps(value))
            taken.append(value)
        except ValidationError:
            continue
    if name in FREE:
        assert taken, f"{name} has a range and needs no reason: {FREE[name]}"
    else:
        assert taken == []


ABOVE_ZERO = [
    name
    for name, (kind, marks) in SETTINGS.items()
    if kind is float and 0 in [getattr(mark, "gt", None) for mark in marks]
]


@pytest.mark.parametrize("name", ABOVE_ZERO)
def test_what_must_be_above_zero_is_far_enough_above(name: str) -> None:
    # Dividing by 1e-300 gives no number; a share as small is no share either, but does no harm.
    kind, marks = SETTINGS[name]
    adapter: TypeAdapter[Any] = TypeAdapter(annotated(kind, marks))
    highest = [getattr(mark, "le", None) or getattr(mark, "lt", None) for mark in marks]
    assert any(value is not None and value <= 1 for value in highest), adapter
