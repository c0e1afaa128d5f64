"""The one protocol behind which every engine hides: prompts in, completions out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from factory.core.records import FinishReason, SamplingConfig

if TYPE_CHECKING:
    import torch


OnEnd = Callable[[], None]
"""Called whenever a completion of a call ends; those of servers end in several threads."""


def nobody() -> None:
    """Hears that a completion has ended where nobody wants to know."""


@dataclass(frozen=True)
class Request:
    """One completion to draw: the prompt's token ids and the seed of its own random stream."""

    prompt_ids: tuple[int, ...]
    seed: int
    limit: int | None = None
    """New tokens, at most; None takes `max_new_tokens` of the sampling settings."""

    def new_tokens(self, sampling: SamplingConfig) -> int:
        """How many new tokens it may draw."""
        return self.limit or sampling.max_new_tokens


@dataclass(frozen=True)
class Completion:
    """What an engine returned for one request.

    `token_ids` include the end-of-text token where the model produced one; `text` leaves special
    tokens out. `logprobs` are those of the sampled tokens under the sampling distribution
    (temperature applied, top-p not), one a token. A served model's may have neither.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    cached_prompt_tokens: int = field(default=0, compare=False)
    """Tokens of the prompt that the engine did not run, since it had run them for another."""
    counted: int | None = None
    """Tokens by the server's own count, where it gives no ids."""

    @property
    def tokens(self) -> int:
        """How many tokens were drawn."""
        return len(self.token_ids) if self.counted is None else self.counted

    def row(self) -> dict[str, Any]:
        """As kept in a segment."""
        row: dict[str, Any] = {
            "text": self.text,
            "token_ids": list(self.token_ids),
            "logprobs": list(self.logprobs),
            "finish_reason": self.finish_reason,
        }
        return row if self.counted is None else {**row, "counted": self.counted}

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> "Completion":
        """The completion of a segment's row."""
        return Completion(
            row["text"],
            tuple(row["token_ids"]),
            tuple(row["logprobs"]),
            row["finish_reason"],
            counted=row.get("counted"),
        )


class Sampler(Protocol):
    """An engine that holds one model. Equal requests in an equal call give equal completions.

    A served model keeps to that as far as its server does.
    """

    name: str

    def sample(
        self, requests: Sequence[Request], sampling: SamplingConfig, on_end: OnEnd = nobody
    ) -> list[Completion]:
        """One completion a request, in order. An engine failure raises EngineError."""
        ...

    def load_weights(self, weights: "Iterable[tuple[str, torch.Tensor]]") -> None:
        """Replace the weights by those of a trainer (names as in its state dict)."""
        ...

    def close(self) -> None:
        """Give the engine's memory back."""
        ...
