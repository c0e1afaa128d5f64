"""What an evaluation asks of a model: its runs, and one request a completion."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from factory.records import EarlyStop, Mode, Problem, SamplingConfig, Verdict
from factory.sampling.sampler import Completion

if TYPE_CHECKING:
    from lm_eval.api.task import Task

Verdicts = dict[tuple[str, str], list[tuple[Verdict, Verdict]]]
"""Strict and lenient verdict of each sample, by run name and problem id."""


@dataclass(frozen=True)
class Run:
    """One benchmark in one mode, as lm-eval runs it."""

    benchmark: str
    name: str
    """`<benchmark>.<mode>`: unique among the tasks of one evaluation."""
    mode: Mode
    task: "Task"
    version: str
    samples: int
    sampling: SamplingConfig | None
    """None where the foreign task's own settings hold."""
    problems: tuple[Problem, ...] | None
    """None for foreign tasks."""
    is_raw: bool = False
    limit: int | None = None
    stop_at: EarlyStop | None = None
    """When fewer than `samples` are enough; of sampled runs of our own tasks only."""


@dataclass(frozen=True)
class EvalRequest:
    """One completion that lm-eval asks for."""

    run: Run
    document: str
    """Problem id; for foreign tasks `<number>.<request>` of the document."""
    sample: int
    question: str
    """The problem's own text; for foreign tasks what lm-eval made of the document."""
    prompt: str
    seed: int
    sampling: SamplingConfig

    @property
    def key(self) -> str:
        return f"{self.run.name}/{self.document}/{self.sample}"


Sampled = list[tuple[EvalRequest, Completion]]
