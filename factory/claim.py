"""A claim of a recipe: what it sets out to show, and which of its evaluations decide it."""

from typing import Literal

from pydantic import Field, model_validator

from factory.records import Record

Measure = Literal[
    "accuracy",
    "solved",
    "lenient",
    "format",
    "length",
    "reflection",
    "mixing",
    "retries",
    "second_script",
    "plus_signs",
]


class Claim(Record):
    """What a recipe sets out to show, and which of its evaluations decide it."""

    text: str = Field(min_length=1)
    """What is claimed, as the report says it."""
    measure: Measure = "accuracy"
    """accuracy, lenient: share of right answers. solved: share of problems with a right answer
    among their samples, which is pass@k at the k of the evaluation. format: share of well-formed
    ones. length: tokens. reflection: the paper's ten words, each time one occurs. mixing: share of
    the thoughts' words that are not in the language of the question. retries, second_script,
    plus_signs: of the world, how often a trace starts again, the share of the second script in it,
    and that of plus signs among the signs of an answer."""
    against_measure: Measure | None = None
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
    margin: float = Field(default=0.0, ge=0)
    """For `not lower`: the largest loss that still counts as none."""

    @model_validator(mode="after")
    def _groups_pair(self) -> "Claim":
        if len(self.against) not in (1, len(self.of)):
            raise ValueError(
                f"against: {len(self.against)} evaluations do not pair with {len(self.of)}"
            )
        return self
