"""The one protocol behind which every engine hides: prompts in, completions out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from factory.records import FinishReason, SamplingConfig

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Request:
    """One completion to draw: the prompt's token ids and the seed of its own random stream."""

    prompt_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Completion:
    """What an engine returned for one request.

    `token_ids` include the end-of-text token where the model produced one; `text` leaves special
    tokens out. `logprobs` are those of the sampled tokens under the sampling distribution
    (temperature applied, top-p not), one a token.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    cached_prompt_tokens: int = field(default=0, compare=False)
    """Tokens of the prompt that the engine did not run, since it had run them for another."""


class Sampler(Protocol):
    """An engine that holds one model. Equal requests in an equal call give equal completions."""

    name: str

    def sample(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[Completion]:
        """One completion a request, in order. An engine failure raises EngineError."""
        ...

    def load_weights(self, weights: "Iterable[tuple[str, torch.Tensor]]") -> None:
        """Replace the weights by those of a trainer (names as in its state dict)."""
        ...

    def close(self) -> None:
        """Give the engine's memory back."""
        ...
