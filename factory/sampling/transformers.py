"""A decode loop on plain transformers: every machine has it, no other engine is needed.

`generate` draws from one global random stream and keeps every step's logits to give log-probs;
here each row has its own stream, a log-prob costs one gather, equal prompts are run once, and the
last row takes the place of one that has ended.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedModel

from factory.machine import Machine
from factory.records import FinishReason, SamplingConfig
from factory.sampling.cache import ATTENTION, row_cache
from factory.sampling.draw import draw
from factory.sampling.loop import ends_in_loop
from factory.sampling.sampler import Completion, Request

STOP_WINDOW = 24
"""Tokens decoded at the end of a row to look for a stop text; longer than any stop text we use."""


@dataclass
class _Row:
    """One completion being drawn."""

    generator: torch.Generator
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    text: str = ""


class TransformersSampler:
    """Holds one model in memory and samples from it with `forward` alone."""

    name = "transformers"

    def __init__(self, model: Path, machine: Machine, *, max_length: int) -> None:
        on_gpu = machine.takes_gpu()
        self._device = torch.device("cuda" if on_gpu else "cpu")
        self._max_length = max_length
        self._tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
        self._model = AutoModelForCausalLM.from_pretrained(
            model,
            dtype=getattr(torch, machine.torch_dtype_name(on_gpu=on_gpu)),
            local_files_only=True,
            use_safetensors=True,
            attn_implementation=ATTENTION,
        )
        self._model.to(self._device).eval()
        if not on_gpu:
            _turn_weights(self._model)

    @torch.no_grad()
    def sample(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[Completion]:
        rows = [
            _Row(torch.Generator(device="cpu").manual_seed(request.seed)) for request in requests
        ]
        cache, mask, logits = self._prefill(requests)
        active = list(range(len(rows)))
        for _ in range(sampling.max_new_tokens):
            tokens = self._draw(logits, [rows[i] for i in active], sampling)
            for i in active:
                self._finish(rows[i], sampling)
            places = _without_gaps([rows[i].finish_reason is None for i in active])
            if not places:
                break
            if len(places) < len(active):
                keep = torch.tensor(places, device=self._device)
                cache.batch_select_indices(keep)
                mask, tokens = mask[keep], tokens[keep]
                active = [active[place] for place in places]
            mask = torch.cat([mask, mask.new_ones(len(active), 1)], dim=1)
            positions = mask.sum(dim=1, keepdim=True) - 1
            logits = self._model(
                input_ids=tokens[:, None],
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]
        return [
            Completion(
                row.text, tuple(row.token_ids), tuple(row.logprobs), row.finish_reason or "length"
            )
            for row in rows
        ]

    def _prefill(
        self, requests: Sequence[Request]
    ) -> tuple[DynamicCache, torch.Tensor, torch.Tensor]:
        """Run each distinct prompt once, left-padded; repeat its cache for its requests.

        Returns the cache, the attention mask (requests, prompt) and next-token logits
        (requests, vocabulary).
        """
        unique = list(dict.fromkeys(request.prompt_ids for request in requests))
        width = max(len(prompt) for prompt in unique)
        ids = torch.zeros(len(unique), width, dtype=torch.long)
        mask = torch.zeros(len(unique), width, dtype=torch.long)
        for row, prompt in enumerate(unique):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        ids, mask = ids.to(self._device), mask.to(self._device)
        cache = row_cache(self._model.config)
        logits = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        place = {prompt: row for row, prompt in enumerate(unique)}
        owner = torch.tensor([place[r.prompt_ids] for r in requests], device=self._device)
        cache.batch_select_indices(owner)
        return cache, mask[owner], logits[owner]

    def _draw(
        self, logits: torch.Tensor, rows: Sequence[_Row], sampling: SamplingConfig
    ) -> torch.Tensor:
        """Next token of each row (rows,), appended to the rows with its log-prob."""
        scores = logits.float()
        if sampling.temperature not in (0, 1):
            scores = scores / sampling.temperature
        logprobs = scores.log_softmax(dim=-1)
        if sampling.temperature == 0:
            tokens = logprobs.argmax(dim=-1)
        else:
            uniforms = torch.cat([torch.rand(1, generator=row.generator) for row in rows])
            tokens = draw(logprobs, sampling.top_p, uniforms.to(self._device))
        chosen = logprobs.gather(1, tokens[:, None])[:, 0].tolist()
        for row, token, logprob in zip(rows, tokens.tolist(), chosen, strict=True):
            row.token_ids.append(token)
            row.logprobs.append(logprob)
        return tokens

    def _finish(self, row: _Row, sampling: SamplingConfig) -> None:
        """Decide whether a row has ended, and decode it if so."""
        ended = row.token_ids[-1] == self._tokenizer.eos_token_id
        stopped = None
        if sampling.stop and not ended:
            tail = self._tokenizer.decode(row.token_ids[-STOP_WINDOW:], skip_special_tokens=True)
            stopped = next((text for text in sampling.stop if text in tail), None)
        if ended or stopped is not None:
            row.finish_reason = "stop"
        elif len(row.token_ids) == sampling.max_new_tokens:
            row.finish_reason = "length"
        elif sampling.loop is not None and ends_in_loop(row.token_ids, sampling.loop):
            row.finish_reason = "loop"
        else:
            return
        row.text = self._tokenizer.decode(row.token_ids, skip_special_tokens=True)
        if stopped is not None:
            row.text = row.text[: row.text.rindex(stopped) + len(stopped)]

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        own = self._model.state_dict()
        for name, tensor in weights:
            own[name].copy_(tensor)

    def close(self) -> None:
        del self._model


def _turn_weights(model: PreTrainedModel) -> None:
    """Store the matrices of linear layers as (inputs, outputs), under the shape that they had.

    MKL multiplies few rows by weights that lie so a quarter faster. A head that is tied to the
    embedding stays as looking up rows needs it.
    """
    embedding = model.get_input_embeddings().weight
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module.weight is not embedding:
            module.weight.data = module.weight.data.T.contiguous().T


def _without_gaps(going: Sequence[bool]) -> list[int]:
    """Places of the rows that go on, the last ones moved to where rows have ended."""
    count = sum(going)
    last = [place for place in range(count, len(going)) if going[place]]
    return [place if going[place] else last.pop() for place in range(count)]
