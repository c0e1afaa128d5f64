"""The settings of what is measured during an sft stage."""

from typing import Literal

from pydantic import Field, model_validator

from factory.core.records import ProblemsRef, Record, Temperature


class SftWatch(Record):
    """A small held-out set, measured while the model learns and never trained on."""

    problems: ProblemsRef
    """Its held-out split is asked, with the stage's prompt."""
    sources: tuple[str, ...] = ()
    """Only problems of these sources; empty takes all."""
    every: int = Field(ge=1, le=10**7)
    """Updates between measurements; the weights after the last update are measured too."""
    limit: int | None = Field(default=64, ge=1, le=10**9)
    """How many problems, in turn of every level or source; None takes all."""
    samples: int = Field(default=1, ge=1, le=10**5)
    """Completions a problem."""
    temperature: Temperature = 0.0
    """0 asks once, without chance; ours."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """R1's evaluation (R1v2 D.1), where the temperature is above 0."""
    max_new_tokens: int = Field(default=1024, ge=1, le=10**7)
    """An answer is cut there, and counts as wrong."""
    keep: Literal["best", "last"] = "best"
    """Whose weights are given back: `best` takes earlier ones than the last where a paired test on
    the same problems, corrected for how many were measured, says that they are better."""
    checkpoints: bool = False
    """Keeps the weights of every measurement, in the artifact's folder `checkpoints`."""

    @model_validator(mode="after")
    def _samples_differ(self) -> "SftWatch":
        if self.temperature == 0 and self.samples > 1:
            raise ValueError("samples above 1 need a temperature: greedy answers are all the same")
        return self
