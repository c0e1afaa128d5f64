"""The reward of a judge model: of answers to general prompts, asked about once a rollout."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from factory.core.context import Context, Metrics
from factory.core.ranks import this_rank
from factory.core.records import Problem
from factory.grading.judge import JudgeSettings
from factory.sampling import Completion, Request, Sampler, open_sampler
from factory.sampling.blocks import sample_blocks
from factory.sampling.judging import Item, agreement, is_ruled, opinions, spread
from factory.stages.grpo.graded import Graded, GraderFailures
from factory.text.chat import with_stops
from factory.text.templates import open_tokenizer


class JudgeRewards:
    """Asks a judge about a rollout's answers; its engine opens with the first question.

    A served judge is asked by every rank. One with weights lies on every rank beside what is
    trained, and draws with transformers, which sets no memory aside as vLLM does.
    """

    name = "judge"
    """The component."""

    def __init__(self, settings: JudgeSettings, model: Path, context: Context) -> None:
        self.settings = settings
        self.model = model
        self.context = context
        self._failures = GraderFailures(settings.max_ungradable)
        self._folder = context.scratch / f"judge-{this_rank().index}"
        self._sampler: Sampler | None = None
        self._length = 0

    def added(
        self,
        graded: Sequence[Graded],
        problems: Sequence[Problem],
        requests: Sequence[Request],
        *,
        step: int,
    ) -> tuple[list[Graded], Metrics]:
        """The completions with the component `judge` and the judge's verdict where no rule has one;
        and how often it agrees with rules on others.

        0 for a text without an answer; missing where the judge is undecided, so that such an
        answer earns what a wrong one does. Seeds follow from those of `requests`. EngineError
        where too many answers stay undecided.
        """
        rows = range(len(graded))
        waiting = [i for i in rows if problems[i].kind == "open" and graded[i].verdict.answer]
        ruled = [i for i in rows if is_ruled(problems[i], graded[i].verdict)]
        compared = spread(ruled, self.settings.agreement)
        items = [
            Item(
                str(row), problems[row], row, graded[row].verdict.answer or "",
                seeded_by=("judge", requests[row].seed),
            )
            for row in (*waiting, *compared)
        ]  # fmt: skip
        results = self._opinions(items, step)
        result = list(graded)
        for row in (i for i in rows if problems[i].kind == "open"):
            result[row] = replace(
                graded[row], components={**graded[row].components, self.name: 0.0}
            )
        for row, opinion in zip(waiting, results, strict=False):
            components = dict(graded[row].components)
            if opinion.value is not None:
                components[self.name] = opinion.value
            result[row] = replace(graded[row], verdict=opinion.verdict, components=components)
        self._failures.check([result[row].verdict for row in waiting])
        pairs = [
            (graded[row].verdict, opinion.verdict)
            for row, opinion in zip(compared, results[len(waiting) :], strict=True)
        ]
        return result, {f"judge/{name}": value for name, value in agreement(pairs).items()}

    def close(self) -> None:
        if self._sampler is not None:
            self._sampler.close()
            self._sampler = None

    def _opinions(self, items: Sequence[Item], step: int) -> list[Any]:
        if not items:
            return []
        tokenizer = open_tokenizer(self.model)

        def ask(keyed: Sequence[tuple[str, Request]]) -> list[Completion]:
            # A run that is resumed draws the same rollout and takes the replies that are there.
            segment = self._folder / f"{step}.jsonl"
            longest = max(len(request.prompt_ids) for _, request in keyed)
            return sample_blocks(
                self._opened(longest + self.settings.sampling.max_new_tokens),
                [(f"{key}/{_digest(request)}", request) for key, request in keyed],
                with_stops(self.settings.sampling, self.settings.prompt),
                segment=segment,
                block=self.context.machine.requests_at_once,
            )

        return opinions(items, self.settings, tokenizer=tokenizer, ask=ask, seed=self.context.seed)

    def _opened(self, length: int) -> Sampler:
        """The engine, opened anew where a request is longer than any before."""
        if self._sampler is None or length > self._length:
            self.close()
            self._folder.mkdir(parents=True, exist_ok=True)
            self._length = max(length, 2 * self._length)
            machine = self.context.machine.model_copy(update={"engine": "transformers"})
            self._sampler = open_sampler(
                self.model, machine, max_length=length, notify=self.context.note,
                scratch=self._folder,
            )  # fmt: skip
        return self._sampler


@contextmanager
def judge_rewards(
    settings: JudgeSettings | None, model: Path | None, context: Context
) -> Iterator[JudgeRewards | None]:
    """The judge of a run, whose engine is closed at the end; None where it has none."""
    if settings is None or model is None:
        yield None
        return
    rewards = JudgeRewards(settings, model, context)
    try:
        yield rewards
    finally:
        rewards.close()


def _digest(request: Request) -> str:
    return hashlib.sha256(str(request.prompt_ids).encode()).hexdigest()[:16]
