"""What an evaluation asks of a model: its runs, and one request a completion."""

from dataclasses import dataclass
from typing import Any

from factory.core.records import EarlyStop, EvalSample, Mode, Problem, SamplingConfig, Score
from factory.sampling.sampler import Completion


@dataclass(frozen=True, kw_only=True)
class Run:
    """One benchmark in one mode."""

    benchmark: str
    mode: Mode
    version: str
    samples: int
    """A problem, at most."""
    stop_at: EarlyStop | None = None
    """When fewer are enough."""

    @property
    def name(self) -> str:
        """Unique among the runs of one evaluation."""
        return f"{self.benchmark}.{self.mode}"


@dataclass(frozen=True, kw_only=True)
class OwnRun(Run):
    """One of the factory's own benchmarks, whose completions it grades itself."""

    problems: tuple[Problem, ...]
    sampling: SamplingConfig


@dataclass(frozen=True)
class EvalRequest:
    """One completion that is asked for."""

    run: Run
    document: str
    """Problem id; for registry tasks `<number>.<request>` of the document."""
    sample: int
    question: str
    """The problem's own text; for registry tasks what lm-eval made of the document."""
    prompt: str
    prompt_ids: tuple[int, ...]
    seed: int
    sampling: SamplingConfig
    limit: int | None = None
    """New tokens, where it may draw fewer than its settings say."""

    @property
    def key(self) -> str:
        return f"{self.run.name}/{self.document}/{self.sample}"


Sampled = list[tuple[EvalRequest, Completion]]


@dataclass(frozen=True)
class Results:
    """What became of runs."""

    by_run: dict[str, tuple[list[Score], list[EvalSample]]]
    """By name; samples in order of (problem, sample)."""
    record: dict[str, dict[str, Any]]
    """Of harness.json: an entry a run under each of lm-eval's keys."""
    completion_tokens: int
    spent: tuple[Any, ...] = ()
    """What answers took under each budget: `budgets.Spent`."""
