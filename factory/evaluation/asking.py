"""A model under evaluation: how it is asked, in blocks that stay on disk.

An evaluation that was killed goes on where it stopped and ends with the same bytes.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import Any

from factory.core.context import Context
from factory.core.records import SamplingConfig
from factory.core.seeds import derive
from factory.evaluation.rounds import IsEnough, rounds
from factory.evaluation.runs import EvalRequest, Run, Sampled
from factory.sampling.blocks import sample_all, telling
from factory.sampling.sampler import Completion, Request, Sampler
from factory.text.chat import PromptConfig
from factory.text.chat import render as rendered


@dataclass(frozen=True)
class EvaluatedModel:
    """The model that all runs of an evaluation ask, with what asking it takes."""

    fingerprint: str
    tokenizer: Any
    prompt: PromptConfig
    open_sampler: Callable[[int, int], Sampler]
    """`open_sampler(max_length, mean_length)`, called once all prompts are known."""
    context: Context

    def render(self, question: str) -> str:
        return rendered(question, self.prompt, self.tokenizer)

    def requests(
        self, run: Run, document: str, prompt: str, *,
        samples: int, sampling: SamplingConfig, question: str, is_raw: bool = False,
    ) -> list[EvalRequest]:  # fmt: skip
        """As many requests of one prompt, each with a seed of its own; a raw text gets the special
        tokens that the tokenizer adds."""
        ids = tuple(self.tokenizer(prompt, add_special_tokens=is_raw)["input_ids"])
        seed = self.context.seed
        return [
            EvalRequest(
                run, document, sample, question, prompt, ids,
                derive(seed, run.name, document, sample), sampling,
            )
            for sample in range(samples)
        ]  # fmt: skip

    def ask(
        self, requests: Sequence[EvalRequest], *, segment: str,
        is_enough: IsEnough = lambda run, samples: False,
        then: Callable[[], Sequence[EvalRequest]] = lambda: (), at_most: int = 0,
    ) -> Generator[Sampled]:  # fmt: skip
        """The completions of each round, in the order of `requests`; `is_enough` ends a run that
        may end early once the round before is graded. What `then` asks for, `at_most` so many,
        follows when all are graded. `segment` begins the names of their files.
        """
        lengths = [len(r.prompt_ids) + r.sampling.max_new_tokens for r in requests]
        context, number, finished, total = self.context, 0, 0, len(requests) + at_most
        sampler = self.open_sampler(max(lengths), sum(lengths) // len(lengths))
        with closing(sampler):
            for batch in chain(rounds(requests, is_enough), map(list, _once(then))):
                total = total if finished < len(requests) else finished + len(batch)
                completions: dict[str, Completion] = {}
                for sampling in dict.fromkeys(request.sampling for request in batch):
                    members = [r for r in batch if r.sampling == sampling]
                    texts = sample_all(
                        sampler,
                        [(r.key, Request(r.prompt_ids, r.seed, r.limit)) for r in members],
                        sampling,
                        segment=context.scratch / f"{segment}-{number}.jsonl",
                        machine=context.machine,
                        on_block=telling(context, total, unit="samples", before=finished),
                        drawing=context.drawing,
                    )
                    keys = [request.key for request in members]
                    completions.update(zip(keys, texts, strict=True))
                    number, finished = number + 1, finished + len(members)
                yield [(request, completions[request.key]) for request in batch]


def _once(
    then: Callable[[], Sequence[EvalRequest]],
) -> Generator[Sequence[EvalRequest]]:
    """What it gives when it is asked, at the end; nothing where that is empty."""
    if requests := then():
        yield requests
