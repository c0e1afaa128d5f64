"""A claim of a recipe: what it sets out to show, and which of its evaluations decide it."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from factory.core.records import Record
from factory.core.registry import Named
from factory.evaluation.measure import MEASURES

MeasureName = Annotated[str, Named("measures"), AfterValidator(MEASURES.check)]


class Claim(Record):
    """What a recipe sets out to show, and which of its evaluations decide it."""

    text: str = Field(min_length=1)
    """What is claimed, as the report says it."""
    measure: MeasureName = "accuracy"
    """What is compared of the evaluations' samples."""
    against_measure: MeasureName | None = None
    """Of the other side; None takes the same."""
    of: tuple[str, ...] = Field(min_length=1)
    """Names of evaluate stages, one a training seed."""
    against: tuple[str, ...] = Field(min_length=1)
    """As many, paired in order, or a single one for all."""
    benchmark: str
    """The name of a benchmark that all of these evaluate."""
    sources: tuple[str, ...] = ()
    """Only problems whose id begins with one of these; empty takes all."""
    expect: Literal["higher", "lower", "not lower"] = "higher"
    """Which way the difference must lie for the claim to be shown."""
    margin: float = Field(default=0.0, ge=0, le=1e12)
    """For `not lower`: the largest loss that still counts as none."""

    @model_validator(mode="after")
    def _groups_pair(self) -> "Claim":
        if len(self.against) not in (1, len(self.of)):
            raise ValueError(
                f"against: {len(self.against)} evaluations do not pair with {len(self.of)}"
            )
        return self
