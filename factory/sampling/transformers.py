"""A decode loop on plain transformers: every machine has it, no other engine is needed.

`generate` draws from one global random stream and keeps every step's logits to give log-probs;
here each row has its own stream, a log-prob costs one gather, equal prompts are run once, and the
last row takes the place of one that has ended. On CPUs the layers of models that `decoder.py`
covers run from there.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from factory.core.errors import EngineError
from factory.core.machine import Machine
from factory.core.records import FinishReason, SamplingConfig
from factory.models.parts import embedding_of, move
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
from factory.sampling.sampler import Completion, OnEnd, Request, nobody
from factory.sampling.streams import Listed, Supply
from factory.text.lookalike import PROMPT_END, only_quotes
from factory.text.templates import open_tokenizer

REFILL = 1 / 8
"""Share of the rows that must be free before others join: each time the caches are copied."""

STOP_WINDOW = 24
"""Tokens decoded at the end of a row to look for a stop text; longer than any stop text we use."""


class Batch(Protocol):
    """Rows that decode together."""

    logits: Tensor
    """Scores of the first token of every first row (rows, vocabulary)."""
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


@dataclass
class _Row:
    """A completion under way."""

    number: int
    request: Request
    limit: int
    uniforms: "array[float]"
    """Numbers in [0, 1) of its own random stream, one for each token."""
    cached: int
    """Tokens of its prompt that were run for another."""
    ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])


class TransformersSampler:
    """Holds one model in memory and samples from it with forward passes alone."""

    name = "transformers"

    def __init__(
        self, model: Path, machine: Machine, *, max_length: int, ends: Sequence[int] = ()
    ) -> None:
        on_gpu = machine.takes_gpu()
        self._device = torch.device("cuda" if on_gpu else "cpu")
        self._max_length = max_length
        self._rows = machine.rows or machine.block
        self._cache_bytes = machine.engine_memory_gib * 2**30
        self._tokenizer = open_tokenizer(model)
        self._ends = frozenset([*end_ids(model, self._tokenizer), *ends])
        try:
            loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                model,
                dtype=getattr(torch, machine.torch_dtype_name(on_gpu=on_gpu)),
                local_files_only=True,
                use_safetensors=True,
                attn_implementation=ATTENTION,
            )
        except ImportError as error:  # a package that quantised weights ask for
            raise EngineError(f"{model}: transformers cannot open it here: {error}") from error
        move(loaded, self._device)
        self._model: PreTrainedModel | Decoder = loaded.eval()
        if not on_gpu and loaded.dtype == torch.float32 and covers(loaded.config):
            self._model = Decoder(loaded)
        elif not on_gpu:
            _turn_weights(loaded)
        self._vocabulary = len(embedding_of(loaded).weight)
        self._closing: dict[tuple[str, ...], frozenset[int]] = {}

    def sample(
        self, requests: Sequence[Request], sampling: SamplingConfig, on_end: OnEnd = nobody
    ) -> list[Completion]:
        size = self._rows_at_once(requests, sampling)
        return [
            completion
            for start in range(0, len(requests), size)
            for completion in self._sample(requests[start : start + size], sampling, on_end)
        ]

    def _sample(
        self, requests: Sequence[Request], sampling: SamplingConfig, on_end: OnEnd
    ) -> list[Completion]:
        completions: dict[int, Completion] = {}
        for number, completion in self._decode(Listed(requests), sampling, size=len(requests)):
            completions[number] = completion
            on_end()
        return [completions[number] for number in range(len(requests))]

    @property
    def rows(self) -> int:
        """Of a stream; a single call takes as many as there is room for."""
        if not isinstance(self._model, Decoder):
            return self._rows
        room = int(self._cache_bytes) // (self._model.cache_bytes * self._max_length)
        return min(self._rows, max(FEWEST_ROWS, room))

    def stream(self, supply: Supply, sampling: SamplingConfig) -> Iterator[tuple[int, Completion]]:
        yield from self._decode(supply, sampling, size=self.rows)

    def _rows_at_once(self, requests: Sequence[Request], sampling: SamplingConfig) -> int:
        """Equal parts of a call whose keys and values stay within the machine's bound."""
        if not isinstance(self._model, Decoder):
            return len(requests)
        prompts = {request.prompt_ids for request in requests}
        tokens = sum(map(len, prompts)) + sum(r.new_tokens(sampling) for r in requests)
        parts = -(-tokens * self._model.cache_bytes // int(self._cache_bytes))
        return max(FEWEST_ROWS, -(-len(requests) // parts))

    @torch.no_grad()
    def _decode(
        self, supply: Supply, sampling: SamplingConfig, *, size: int
    ) -> Iterator[tuple[int, Completion]]:
        """Each completion when it ends, of at most `size` rows at once.

        Where REFILL of them are free others join them, if the model is one of those that
        `Decoder` covers, else when all have ended.
        """
        rows: list[_Row] = []
        batch, logits, number = None, torch.empty(0), 0
        while True:
            free = size - len(rows)
            if not rows or (isinstance(batch, DecoderBatch) and free >= max(1, size * REFILL)):
                requests = supply.take(free)
                if requests:
                    batch, logits = self._joined(rows, batch, logits, requests, sampling, number)
                    number += len(requests)
                elif not rows:
                    return
            assert batch is not None
            uniforms = [row.uniforms[len(row.ids)] for row in rows]
            tokens, logprobs = _draw(logits, sampling, torch.tensor(uniforms, device=self._device))
            for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
                row.ids.append(token)
                row.logprobs.append(logprob)
            ended = self._ended(rows, sampling)
            for index, end in ended.items():
                yield rows[index].number, self._completion(rows[index], end)
            given_up = set(supply.given_up())
            going = [
                index not in ended and row.number not in given_up for index, row in enumerate(rows)
            ]
            if not any(going):
                rows = []
                continue
            if not all(going):
                places = without_gaps(going)
                batch.keep(places)
                rows = [rows[index] for index in places]
                tokens = tokens[torch.tensor(places, device=self._device)]
            logits = batch.next(tokens)

    def _joined(
        self, rows: list["_Row"], batch: "Batch | None", logits: Tensor,
        requests: Sequence[Request], sampling: SamplingConfig, number: int,
    ) -> tuple["Batch", Tensor]:  # fmt: skip
        """The batch with the rows of further requests, and scores of all; `rows` gets them too."""
        prompts = [request.prompt_ids for request in requests]
        limits = [request.new_tokens(sampling) for request in requests]
        present = {row.request.prompt_ids for row in rows}
        if rows:
            assert isinstance(batch, DecoderBatch)
            logits = torch.cat([logits, batch.add(prompts, longest=max(limits))])
        else:
            batch = self._open(prompts, max(limits))
            logits = batch.logits
        for request, limit in zip(requests, limits, strict=True):
            is_run = request.prompt_ids in present
            cached = len(request.prompt_ids) if is_run else batch.common if present else 0
            present.add(request.prompt_ids)
            rows.append(_Row(number, request, limit, _uniforms(request.seed, limit), cached))
            number += 1
        return batch, logits

    def _open(self, prompts: Sequence[tuple[int, ...]], limit: int) -> Batch:
        if isinstance(self._model, Decoder):
            return DecoderBatch(self._model, prompts, longest=limit)
        return ModelBatch(self._model, prompts)

    def _ended(self, rows: Sequence["_Row"], sampling: SamplingConfig) -> dict[int, End]:
        """Rows, by place, that have ended with their last token, and how."""
        closing = self._closing_tokens(tuple(sampling.stop)) if sampling.stop else frozenset[int]()
        loop = sampling.loop
        window = 0 if loop is None else loop.longest * loop.times
        ended: dict[int, End] = {}
        for index, row in enumerate(rows):
            last, is_full = row.ids[-1], len(row.ids) == row.limit
            if last in self._ends:
                ended[index] = End("stop")
                continue
            if last in closing:
                text = self._text(row.ids[-STOP_WINDOW:])
                stop_text = next((stop for stop in sampling.stop if stop in text), None)
                if stop_text is not None and not self._is_quoted(row, stop_text):
                    ended[index] = End("stop", stop_text)
                    continue
            if is_full:
                ended[index] = End("length")
            elif loop is not None and ends_in_loop(row.ids[-window:], loop):
                ended[index] = End("loop")
        return ended

    def _is_quoted(self, row: "_Row", stop: str) -> bool:
        text = self._text(row.ids)
        prompt = self._text(list(row.request.prompt_ids[-PROMPT_END:]))
        return stop in text and only_quotes(text[: text.rindex(stop) + len(stop)], prompt)

    def _closing_tokens(self, stop: tuple[str, ...]) -> frozenset[int]:
        """Which tokens can complete a stop text: those that hold its last character.

        A last character that is a space or not ASCII may come from several tokens; then all can.
        """
        if stop not in self._closing:
            last = {text[-1] for text in stop}
            every = range(self._vocabulary)
            if all(character.isascii() and not character.isspace() for character in last):
                texts = self._tokenizer.batch_decode([[token] for token in every])
                every = [token for token in every if not last.isdisjoint(texts[token])]
            self._closing[stop] = frozenset(every)
        return self._closing[stop]

    def _completion(self, row: "_Row", end: End) -> Completion:
        text = self._text(row.ids)
        if end.stop is not None:
            text = text[: text.rindex(end.stop) + len(end.stop)]
        elif end.reason == "stop":
            text = without_end(text, row.ids[-1], self._tokenizer)
        return Completion(text, tuple(row.ids), tuple(row.logprobs), end.reason, row.cached)

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


def _uniforms(seed: int, count: int) -> "array[float]":
    """The first numbers in [0, 1) of a row's own random stream."""
    numbers = torch.rand(count, generator=torch.Generator().manual_seed(seed))
    return array("d", numbers.double().numpy().tobytes())


def _turn_weights(model: PreTrainedModel) -> None:
    """Store the matrices of linear layers as (inputs, outputs), under the shape that they had.

    MKL multiplies few rows by weights that lie so a quarter faster. A head that is tied to the
    embedding stays as looking up rows needs it.
    """
    embedding = embedding_of(model).weight
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module.weight is not embedding:
            module.weight.data = module.weight.data.T.contiguous().T
