"""From draws to graded traces, and what is counted of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from factory.core.context import Metrics
from factory.core.errors import DataError
from factory.core.records import Problem, SamplingConfig, Trace, Verdict
from factory.core.seeds import derive
from factory.grading import GradeItem, GradingPool, check_ungradable_count
from factory.sampling import Completion, Request, Sampler
from factory.sampling.sampler import OnEnd
from factory.stages.generate.config import GenerateConfig
from factory.stages.generate.drawing import Draw, Retry
from factory.text.chat import PromptConfig, parse_completion, render, with_stops

LATEST = 4096
"""Prompts that are remembered as they are asked."""


@dataclass
class Writer:
    """Draws and grades blocks of traces; its engine starts with the first block that needs it."""

    config: GenerateConfig
    model: str
    """Fingerprint."""
    tokenizer: Any
    open_sampler: Callable[[], Sampler]
    pool: GradingPool
    seed: int
    _sampler: Sampler | None = None

    def __post_init__(self) -> None:
        # Its samples come one after the other.
        self._prompt = lru_cache(LATEST)(
            lambda question: render(question, self.config.prompt, self.tokenizer)
        )
        self._ids = lru_cache(LATEST)(lambda text: token_ids(text, self.tokenizer))

    @property
    def sampler(self) -> Sampler:
        if self._sampler is None:
            self._sampler = self.open_sampler()
        return self._sampler

    @property
    def sampling(self) -> SamplingConfig:
        """How completions are drawn, but for the limit of those that are drawn once more."""
        return with_stops(self.config.sampling, self.config.prompt)

    def draw(self, draws: Sequence[Draw], on_end: OnEnd) -> list[Trace]:
        """A graded trace of each, drawn in one call of the engine."""
        completions = self.sampler.sample(self.requests(draws), self.sampling, on_end)
        answered = list(zip(draws, completions, strict=True))
        return self.traces(answered, self.pool.grade(self.items(answered)))

    def requests(self, draws: Sequence[Draw]) -> list[Request]:
        """What an engine is asked; each has the seed that belongs to its problem and sample."""
        return [
            Request(
                self._ids(self._prompt(draw.problem.prompt)), self._seed(draw), draw.max_new_tokens
            )
            for draw in draws
        ]

    def items(self, answered: Sequence[tuple[Draw, Completion]]) -> list[GradeItem]:
        """What the pool has to grade."""
        return [
            GradeItem.for_prompt(
                draw.problem, completion.text, completion.finish_reason, self.config.prompt
            )
            for draw, completion in answered
        ]

    def traces(
        self, answered: Sequence[tuple[Draw, Completion]], verdicts: Sequence[Verdict]
    ) -> list[Trace]:
        """The trace of each completion with its verdict."""
        return [
            Trace(
                problem_id=draw.problem.id,
                sample=draw.sample,
                question=draw.problem.prompt,
                prompt=self._prompt(draw.problem.prompt),
                completion=completion.text,
                **_parts(completion, self.config.prompt),
                finish_reason=completion.finish_reason,
                completion_tokens=completion.tokens,
                seed=self._seed(draw),
                sampling=self.sampling.model_copy(update={"max_new_tokens": draw.max_new_tokens}),
                style=self.config.prompt.style,
                model=self.model,
                verdict=verdict,
            )
            for (draw, completion), verdict in zip(answered, verdicts, strict=True)
        ]

    def _seed(self, draw: Draw) -> int:
        return derive(self.seed, "generate", draw.problem.id, draw.sample)


@dataclass
class Tally:
    """Counts over the traces that are kept."""

    traces: int = 0
    correct: int = 0
    cut: int = 0
    looped: int = 0
    tokens: int = 0
    judged: int = 0
    """Answers that a rule decides; open ones wait for the stage `judge`."""
    ungradable: int = 0
    first_ungradable: str = ""
    limit: float = 0.01
    """Largest share of the answers that may be ungradable."""

    def add(self, problem: Problem, trace: Trace) -> None:
        self.traces += 1
        self.correct += trace.verdict.is_correct
        self.cut += trace.finish_reason == "length"
        self.looped += trace.finish_reason == "loop"
        self.tokens += trace.completion_tokens
        if problem.kind == "open":
            return
        self.judged += 1
        if trace.verdict.outcome == "ungradable":
            self.ungradable += 1
            self.first_ungradable = self.first_ungradable or trace.verdict.explanation

    def check_ungradable(self, of: int) -> None:
        """EngineError if too many of so many answers are ungradable."""
        check_ungradable_count(self.ungradable, of, first=self.first_ungradable, limit=self.limit)


@dataclass
class Counts:
    """Problems of which a trace was kept, a right one, and none with no further sample asked for;
    samples dropped, and drawn again."""

    answered: int = 0
    solved: int = 0
    hopeless: int = 0
    dropped: int = 0
    retried: int = 0


def metrics(config: GenerateConfig, tally: Tally, counts: Counts) -> Metrics:
    """The stage's metrics; DataError if nothing is kept."""
    if not tally.traces:
        raise DataError(f"all {counts.dropped} completions were cut at their limit and dropped")
    return {
        "traces": float(tally.traces),
        "problems": float(counts.answered),
        "problems_solved": float(counts.solved),
        "correct_share": tally.correct / tally.traces,
        "truncated_share": tally.cut / tally.traces,
        "completion_tokens": float(tally.tokens),
        **({"looped_share": tally.looped / tally.traces} if config.sampling.loop else {}),
        **({"ungradable": float(tally.ungradable)} if tally.ungradable else {}),
        **({"hopeless": float(counts.hopeless)} if config.hopeless_after else {}),
        **({"dropped": float(counts.dropped)} if config.length_stops == "drop" else {}),
        **({"retried": float(counts.retried)} if isinstance(config.length_stops, Retry) else {}),
    }


def token_ids(text: str, tokenizer: Any) -> tuple[int, ...]:
    """Of a prompt, which brings its own special tokens."""
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _parts(completion: Completion, prompt: PromptConfig) -> dict[str, str | None]:
    response = parse_completion(completion.text, completion.finish_reason, prompt)
    return {
        "reasoning": response.reasoning,
        "answer": response.answer,
        "summary": response.summary,
    }
