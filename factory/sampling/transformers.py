"""A decode loop on plain transformers: every machine has it, no other engine is needed.

`generate` draws from one global random stream and keeps every step's logits to give log-probs;
here each row has its own stream, a log-prob costs one gather, equal prompts are run once, and the
last row takes the place of one that has ended. On CPUs the layers of models that `decoder.py`
covers run from there.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from factory.machine import Machine
from factory.model_parts import embedding_of, move
from factory.records import FinishReason, SamplingConfig
from factory.sampling.cache import ATTENTION, row_cache
from factory.sampling.decoder import (
    FEWEST_ROWS,
    Decoder,
    DecoderBatch,
    covers,
    without_gaps,
)
from factory.sampling.draw import draw, inverse
from factory.sampling.ends import decoded, end_ids, without_end
from factory.sampling.loop import ends_in_loop
from factory.sampling.sampler import Completion, Request
from factory.templates import open_tokenizer

STOP_WINDOW = 24
"""Tokens decoded at the end of a row to look for a stop text; longer than any stop text we use."""


class Batch(Protocol):
    """Rows that decode together."""

    logits: Tensor
    """Scores of every row's first token (rows, vocabulary)."""
    common: int
    """Tokens that all prompts begin with and that were run once."""

    def next(self, tokens: Tensor) -> Tensor:
        """Append a token (rows,) to every row; scores of the tokens after it."""
        ...

    def keep(self, places: Sequence[int]) -> None:
        """Row i becomes what row places[i] was; the others have ended."""
        ...


class End(NamedTuple):
    """How a completion ended: why, and the stop text that did it, if any."""

    reason: FinishReason
    stop: str | None = None


class TransformersSampler:
    """Holds one model in memory and samples from it with forward passes alone."""

    name = "transformers"

    def __init__(
        self, model: Path, machine: Machine, *, max_length: int, ends: Sequence[int] = ()
    ) -> None:
        on_gpu = machine.takes_gpu()
        self._device = torch.device("cuda" if on_gpu else "cpu")
        self._max_length = max_length
        self._cache_bytes = machine.engine_memory_gib * 2**30
        self._tokenizer = open_tokenizer(model)
        self._ends = torch.tensor([*end_ids(model, self._tokenizer), *ends], dtype=torch.long)
        loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            model,
            dtype=getattr(torch, machine.torch_dtype_name(on_gpu=on_gpu)),
            local_files_only=True,
            use_safetensors=True,
            attn_implementation=ATTENTION,
        )
        move(loaded, self._device)
        self._model: PreTrainedModel | Decoder = loaded.eval()
        if not on_gpu and loaded.dtype == torch.float32 and covers(loaded.config):
            self._model = Decoder(loaded)
        elif not on_gpu:
            _turn_weights(loaded)
        self._vocabulary = len(embedding_of(loaded).weight)
        self._closing: dict[tuple[str, ...], Tensor] = {}

    @torch.no_grad()
    def sample(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[Completion]:
        size = self._rows_at_once(requests, sampling)
        return [
            completion
            for start in range(0, len(requests), size)
            for completion in self._sample(requests[start : start + size], sampling)
        ]

    def _rows_at_once(self, requests: Sequence[Request], sampling: SamplingConfig) -> int:
        """Equal parts of a call whose keys and values stay within the machine's bound."""
        if not isinstance(self._model, Decoder):
            return len(requests)
        prompts = {request.prompt_ids for request in requests}
        tokens = sum(map(len, prompts)) + len(requests) * sampling.max_new_tokens
        parts = -(-tokens * self._model.cache_bytes // int(self._cache_bytes))
        return max(FEWEST_ROWS, -(-len(requests) // parts))

    def _sample(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[Completion]:
        """One completion a request; all rows take their n-th token together."""
        limit = sampling.max_new_tokens
        uniforms = torch.stack([_uniforms(request.seed, limit) for request in requests])
        uniforms = uniforms.to(self._device)
        prompts = [request.prompt_ids for request in requests]
        batch = self._open(prompts, limit)
        first = {prompt: row for row, prompt in reversed(list(enumerate(prompts)))}
        cached = [
            len(prompt) if first[prompt] < row else batch.common if row else 0
            for row, prompt in enumerate(prompts)
        ]
        sampled = torch.zeros(len(requests), limit, dtype=torch.long)
        chances = torch.zeros(len(requests), limit)
        lengths, ends = [limit] * len(requests), [End("length")] * len(requests)
        active = torch.arange(len(requests))
        loop = sampling.loop
        window = STOP_WINDOW if loop is None else max(STOP_WINDOW, loop.longest * loop.times)
        logits = batch.logits
        for step in range(limit):
            tokens, logprobs = _draw(logits, sampling, uniforms[:, step])
            sampled[active, step], chances[active, step] = tokens.cpu(), logprobs.cpu()
            tail = sampled[active, max(0, step + 1 - window) : step + 1]
            ended = self._ended(tail, sampling, is_last=step + 1 == limit)
            for index, end in ended.items():
                row = int(active[index])
                lengths[row], ends[row] = step + 1, end
            if len(ended) == len(active) or step + 1 == limit:
                break
            if ended:
                places = without_gaps([index not in ended for index in range(len(active))])
                batch.keep(places)
                kept = torch.tensor(places)
                active = active[kept]
                kept = kept.to(self._device)
                tokens, uniforms = tokens[kept], uniforms[kept]
            logits = batch.next(tokens)
        return [
            self._completion(
                sampled[row, :length].tolist(),
                chances[row, :length].tolist(),
                ends[row],
                cached=cached[row],
            )
            for row, length in enumerate(lengths)
        ]

    def _open(self, prompts: Sequence[tuple[int, ...]], limit: int) -> Batch:
        if isinstance(self._model, Decoder):
            return DecoderBatch(self._model, prompts, longest=limit)
        return ModelBatch(self._model, prompts)

    def _ended(self, tail: Tensor, sampling: SamplingConfig, *, is_last: bool) -> dict[int, End]:
        """Rows that have ended before their limit, or (`is_last`) with it, and how.

        `tail` are every row's last tokens (rows, tokens), as many as a rule may look at.
        """
        last = tail[:, -1]
        is_end = torch.isin(last, self._ends)
        ended = dict.fromkeys(is_end.nonzero()[:, 0].tolist(), End("stop"))
        if sampling.stop:
            closes = self._closing_tokens(tuple(sampling.stop))[last] & ~is_end
            for index in closes.nonzero()[:, 0].tolist():
                text = self._text(tail[index, -STOP_WINDOW:].tolist())
                stop_text = next((stop for stop in sampling.stop if stop in text), None)
                if stop_text is not None:
                    ended[index] = End("stop", stop_text)
        if sampling.loop is not None and not is_last:
            for index, tokens in enumerate(tail.tolist()):
                if index not in ended and ends_in_loop(tokens, sampling.loop):
                    ended[index] = End("loop")
        return ended

    def _closing_tokens(self, stop: tuple[str, ...]) -> Tensor:
        """Which tokens (vocabulary,) can complete a stop text: those that hold its last character.

        A last character that is a space or not ASCII may come from several tokens; then all can.
        """
        if stop not in self._closing:
            last = {text[-1] for text in stop}
            if all(character.isascii() and not character.isspace() for character in last):
                every = [[token] for token in range(self._vocabulary)]
                texts = self._tokenizer.batch_decode(every)
                closing = torch.tensor([not last.isdisjoint(text) for text in texts])
            else:
                closing = torch.ones(self._vocabulary, dtype=torch.bool)
            self._closing[stop] = closing
        return self._closing[stop]

    def _completion(
        self, ids: list[int], logprobs: list[float], end: End, *, cached: int
    ) -> Completion:
        text = self._text(ids)
        if end.stop is not None:
            text = text[: text.rindex(end.stop) + len(end.stop)]
        elif end.reason == "stop":
            text = without_end(text, ids[-1], self._tokenizer)
        return Completion(text, tuple(ids), tuple(logprobs), end.reason, cached)

    def _text(self, ids: list[int]) -> str:
        return decoded(self._tokenizer, ids)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        if isinstance(self._model, Decoder):
            self._model.load(weights)
            return
        own = self._model.state_dict()
        for name, tensor in weights:
            own[name].copy_(tensor)

    def close(self) -> None:
        del self._model


class ModelBatch:
    """Rows that decode together by transformers' own forward pass."""

    common = 0

    def __init__(self, model: PreTrainedModel, prompts: Sequence[tuple[int, ...]]) -> None:
        """Run each distinct prompt once, left-padded; repeat its cache for its rows."""
        self._model = model
        self._cache = row_cache(model.config)
        unique = list(dict.fromkeys(prompts))
        width = max(map(len, unique))
        ids = torch.zeros(len(unique), width, dtype=torch.long)
        mask = torch.zeros(len(unique), width, dtype=torch.long)
        for row, prompt in enumerate(unique):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        ids, mask = ids.to(model.device), mask.to(model.device)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        logits = self._forward(ids, mask, positions)
        row_of = {prompt: row for row, prompt in enumerate(unique)}
        owner = torch.tensor([row_of[prompt] for prompt in prompts], device=model.device)
        self._cache.batch_select_indices(owner)
        self._mask = mask[owner]
        self.logits = logits[owner]

    def next(self, tokens: Tensor) -> Tensor:
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        positions = self._mask.sum(dim=1, keepdim=True) - 1
        return self._forward(tokens[:, None], self._mask, positions)

    def keep(self, places: Sequence[int]) -> None:
        kept = torch.tensor(places, device=self._mask.device)
        self._cache.batch_select_indices(kept)
        self._mask = self._mask[kept]

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        return self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]


def _draw(logits: Tensor, sampling: SamplingConfig, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Next token of each row (rows,) and its log-prob; overwrites the logits."""
    scores = logits.float()
    if sampling.temperature not in (0, 1):
        scores = scores.div_(sampling.temperature)
    if sampling.temperature > 0 and sampling.top_p >= 1:
        # Four passes over the vocabulary; log_softmax and `draw` take eight.
        mass = scores.sub_(scores.amax(dim=-1, keepdim=True)).exp_()
        tokens = inverse(mass, uniforms)
        chosen = mass.gather(1, tokens[:, None])[:, 0] / mass.sum(dim=-1)
        return tokens, chosen.log()
    logprobs = scores.log_softmax(dim=-1)
    if sampling.temperature == 0:
        tokens = logprobs.argmax(dim=-1)
    else:
        tokens = draw(logprobs, sampling.top_p, uniforms)
    return tokens, logprobs.gather(1, tokens[:, None])[:, 0]


def _uniforms(seed: int, count: int) -> Tensor:
    """The first numbers in [0, 1) of a row's own random stream."""
    return torch.rand(count, generator=torch.Generator().manual_seed(seed))


def _turn_weights(model: PreTrainedModel) -> None:
    """Store the matrices of linear layers as (inputs, outputs), under the shape that they had.

    MKL multiplies few rows by weights that lie so a quarter faster. A head that is tied to the
    embedding stays as looking up rows needs it.
    """
    embedding = embedding_of(model).weight
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module.weight is not embedding:
            module.weight.data = module.weight.data.T.contiguous().T
