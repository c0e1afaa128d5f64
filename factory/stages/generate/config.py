"""The settings of `generate`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from factory.core.records import AddedLater, AskedModelRef, ProblemsRef, SamplingConfig
from factory.stages.generate.drawing import LengthStops, Retry
from factory.stages.stage import StageConfig
from factory.text.chat import PromptConfig


class GenerateConfig(StageConfig):
    kind: Literal["generate"]
    model: AskedModelRef
    problems: ProblemsRef
    split: Literal["train", "held_out"] = "train"
    """Which side of the problems is asked."""
    sources: tuple[str, ...] = ()
    """Take only problems of these sources; empty takes all."""
    limit: int | None = Field(default=None, ge=1, le=10**9)
    """Use only the first N problems of the file, in which one source follows the other; sources
    of which nothing is left are told in the log."""
    samples: int = Field(default=4, ge=1, le=10**5)
    """Completions a problem; R1 drew several and kept the correct ones (v2 B.3.3)."""
    enough: Annotated[int | None, AddedLater()] = Field(default=None, ge=1, le=10**5)
    """A problem is asked no further once N of its traces are verified; None draws all
    `samples`. What is drawn is kept, right or wrong."""
    hopeless_after: Annotated[int | None, AddedLater()] = Field(default=None, ge=1, le=10**5)
    """A problem is asked no further if none of its first N samples is verified; None asks on. It
    keeps those N. Of every other problem the same samples are kept as without."""
    max_ungradable: Annotated[float, AddedLater()] = Field(default=0.01, ge=0.0, le=1.0)
    """Largest share of the answers that rules decide which graders may leave ungradable: above it
    the stage stops."""
    length_stops: Annotated[LengthStops, AddedLater()] = "keep"
    """What becomes of completions cut at `max_new_tokens`: `keep` (as `truncated`), `drop`, or
    `{retry: N}`, which draws them once more with N new tokens and keeps what comes."""
    prompt: PromptConfig = PromptConfig()
    """How they are asked."""
    sampling: SamplingConfig = SamplingConfig(temperature=1.0, top_p=1.0)
    """The default holds where `sampling` is left out as a whole; settings left out inside it have
    those of SamplingConfig."""

    @model_validator(mode="after")
    def _limits_fit(self) -> "GenerateConfig":
        if self.enough is not None and self.enough > self.samples:
            raise ValueError(f"enough ({self.enough}) is more than samples ({self.samples})")
        hopeless = self.hopeless_after
        if hopeless is not None and hopeless >= self.samples:
            raise ValueError(
                f"hopeless_after ({hopeless}) must be less than samples ({self.samples})"
            )
        first = self.sampling.max_new_tokens
        if isinstance(self.length_stops, Retry) and self.length_stops.retry <= first:
            raise ValueError(f"length_stops.retry must be more than max_new_tokens ({first})")
        return self

    @property
    def longest(self) -> int:
        """New tokens of a completion, at most."""
        again = self.length_stops
        return again.retry if isinstance(again, Retry) else self.sampling.max_new_tokens
