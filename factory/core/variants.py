"""Settings that a recipe chooses by a `type`, which is the name of a row behind a door."""

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import ValidationError, ValidationInfo
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from factory.core.errors import FactoryError
from factory.core.records import Record
from factory.core.registry import DOORS


class Variant(Record):
    """Base of settings that a recipe chooses by a `type`, which is the name of a row."""

    door: ClassVar[str]
    type: str


@dataclass(frozen=True)
class VariantOf:
    """Marks a field whose config is that of the row named by its `type`, behind this door."""

    door: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        # Without a serializer of its own the config is written by what it is, `exclude` included.
        return core_schema.with_info_plain_validator_function(self.read)

    @property
    def records(self) -> list[type[Variant]]:
        """The configs of all rows that are registered by now, by name."""
        rows = sorted(DOORS[self.door].rows(), key=lambda row: row.name)
        return [row.value.config for row in rows]

    def read(self, value: Any, info: ValidationInfo) -> Variant:
        """The validated config; ValidationError where its type or a setting is wrong."""
        if isinstance(value, Variant) and value.door == self.door:
            return value
        if not isinstance(value, dict) or "type" not in value:
            raise _refused(("type",), "must be a mapping with a type", value)
        try:
            row = DOORS[self.door].row(str(value["type"]))
        except FactoryError as error:
            raise _refused(("type",), str(error), value["type"]) from error
        try:
            return row.value.config.model_validate_json(json.dumps(value), context=info.context)
        except ValidationError:
            raise
        # A user's own check may raise anything.
        except Exception as error:
            raise ValueError(f"{row.origin}: {type(error).__name__}: {error}") from error


def _refused(location: tuple[str, ...], message: str, value: Any) -> ValidationError:
    error = PydanticCustomError("row", "{message}", {"message": message})
    return ValidationError.from_exception_data(
        "row", [InitErrorDetails(type=error, loc=location, input=value)]
    )
