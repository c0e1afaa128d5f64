"""A sampler that answers from a function: tests and rehearsals need no model."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from factory.core.records import FinishReason, SamplingConfig
from factory.sampling.ends import decoded
from factory.sampling.loop import ends_in_loop
from factory.sampling.sampler import Completion, OnEnd, Request, nobody


class ScriptedSampler:
    """Replies `reply(request)`, cut at its limit or loop as an engine would; counts its calls."""

    name = "scripted"

    def __init__(self, reply: Callable[[Request], str], tokenizer: Any) -> None:
        self._reply = reply
        self._tokenizer = tokenizer
        self.calls: list[list[Request]] = []
        self.loads = 0

    def sample(
        self, requests: Sequence[Request], sampling: SamplingConfig, on_end: OnEnd = nobody
    ) -> list[Completion]:
        self.calls.append(list(requests))
        completions: list[Completion] = []
        for request in requests:
            completions.append(self._complete(request, sampling))
            on_end()
        return completions

    def _complete(self, request: Request, sampling: SamplingConfig) -> Completion:
        ids = self._tokenizer(self._reply(request), add_special_tokens=False)["input_ids"]
        all_ids = [*ids, self._tokenizer.eos_token_id]
        kept = all_ids[: request.new_tokens(sampling)]
        reason: FinishReason = "stop" if len(kept) == len(all_ids) else "length"
        if sampling.loop is not None:
            ends = (n for n in range(1, len(kept)) if ends_in_loop(kept[:n], sampling.loop))
            if (end := next(ends, None)) is not None:
                kept, reason = kept[:end], "loop"
        text = decoded(self._tokenizer, kept)
        return Completion(text, tuple(kept), (0.0,) * len(kept), reason)

    def load_weights(self, weights: Iterable[tuple[str, Any]]) -> None:
        self.loads += 1

    def close(self) -> None:
        pass
