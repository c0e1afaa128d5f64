"""Which stages a stage's settings name, and what is wrong with what they name."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from factory.core.records import Consumes
from factory.core.yaml12 import is_tuple
from factory.stages import STAGES, StageConfig


def references(config: BaseModel, prefix: str = "") -> Iterator[tuple[str, tuple[str, Consumes]]]:
    """(field path, (stage name, what is wanted)) of every typed reference inside a config."""
    for name, field in type(config).model_fields.items():
        value = getattr(config, name, None)
        wanted = [m for m in field.metadata if isinstance(m, Consumes)]
        annotation = Annotated[field.annotation, *wanted] if wanted else field.annotation
        yield from _references_in(value, annotation, f"{prefix}{name}")


def _references_in(
    value: Any, annotation: Any, path: str
) -> Iterator[tuple[str, tuple[str, Consumes]]]:
    if isinstance(value, BaseModel):
        yield from references(value, f"{path}.")
    elif isinstance(value, str):
        consumes = _consumes(annotation)
        if consumes:
            yield path, (value, consumes)
    elif is_tuple(value):
        for index, item in enumerate(value):
            yield from _references_in(item, annotation, f"{path}.{index}")


def _consumes(annotation: Any) -> Consumes | None:
    """The Consumes mark anywhere inside a type such as `tuple[TracesRef, ...] | None`."""
    if get_origin(annotation) is Annotated:
        marks = [m for m in annotation.__metadata__ if isinstance(m, Consumes)]
        if marks:
            return marks[0]
    for part in get_args(annotation):
        if consumed := _consumes(part):
            return consumed
    return None


def reference_problems(
    stages: Mapping[str, StageConfig], refused: Mapping[str, StageConfig] = MappingProxyType({})
) -> list[str]:
    """A line for each reference to a stage that is not there or makes something else. `refused` are
    stages whose settings are wrong, unchecked."""
    problems: list[str] = []
    for name, config in {**stages, **refused}.items():
        for path, (reference, wanted) in references(config):
            where = f"stages.{name}.{path}"
            if reference in refused:
                continue
            if reference not in stages:
                hint = near_keys(reference, list(stages))
                problems.append(f"{where}: no stage named {reference!r}{hint}")
                continue
            named = stages[reference]
            maker = STAGES[getattr(named, "kind")]  # noqa: B009
            if maker.produces != wanted.kind:
                made = f"{reference!r} makes {maker.produces}"
                problems.append(f"{where}: {made}, {wanted.kind} is needed")
            elif maker.is_served(named) and not wanted.only_asked:
                problems.append(f"{where}: {reference!r} is on a server; its weights are needed")
    return problems


def near_keys(word: str, options: Sequence[str]) -> str:
    """` (did you mean X?)` where one of the options is nearly called so."""
    if len(word) > 100:
        return ""
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""
