"""Settings of stage `evaluate`: what a model is asked, and how."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from factory.core.records import (
    AddedLater,
    AskedModelRef,
    EarlyStop,
    ProblemsRef,
    Record,
    SamplingConfig,
)
from factory.grading.judge import JudgeSettings
from factory.problems.benchmark import BENCHMARKS
from factory.stages.stage import StageConfig
from factory.text.chat import PromptConfig


class BenchmarkConfig(Record):
    """One benchmark: the held-out problems of a stage, or a task by name."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    """Under which its scores stand."""
    problems: ProblemsRef | None = None
    """Its held-out split is the benchmark."""
    source: str | None = None
    """Only the problems of this source, e.g. one reasoning-gym family."""
    task: str | None = Field(default=None, pattern=r"^[^/\\]+$")
    """A [benchmark](#rows-benchmarks) by name, or a task of lm-eval's registry, whose data may come
    from the hub."""
    version: Annotated[str | None, AddedLater()] = None
    """The task's version that is meant; another one is refused: its scores do not compare."""
    limit: int | None = Field(default=None, ge=1, le=10**9)
    """Use only the first N problems."""
    sampling: SamplingConfig | None = None
    """Instead of the stage's; for a registry task, instead of the task's own."""
    samples: int | None = Field(default=None, ge=0, le=10**5)
    """Instead of the stage's."""
    raw: bool = False
    """A registry task's text goes to the model as it is, without the prompt protocol."""

    @model_validator(mode="after")
    def _says_what_to_ask(self) -> "BenchmarkConfig":
        if (self.problems is None) == (self.task is None):
            given = "neither" if self.task is None else "both"
            raise ValueError(f"give either problems or task, found {given}")
        if self.source is not None and self.problems is None:
            raise ValueError("source selects among problems; a task has none")
        if self.raw and self.is_own:
            raise ValueError("raw is for registry tasks; problems need a prompt")
        return self

    @property
    def is_own(self) -> bool:
        """Whether the factory asks and grades it; lm-eval runs all others."""
        return self.task is None or self.task in BENCHMARKS


class EvaluateConfig(StageConfig):
    """Scores of one model under one prompt protocol."""

    kind: Literal["evaluate"]
    model: AskedModelRef
    benchmarks: tuple[BenchmarkConfig, ...] = Field(min_length=1)
    """What is asked."""
    prompt: PromptConfig = PromptConfig()
    """How our own benchmarks are asked, and registry tasks that are not `raw`."""
    sampling: SamplingConfig = SamplingConfig()
    """Temperature 0.6 and top-p 0.95 as R1's evaluation has them (arXiv 2501.12948 v2, D.1)."""
    samples: int = Field(default=4, ge=0, le=10**5)
    """k: samples a problem. R1 takes 4 to 64, by the benchmark's size; 0 asks greedily only."""
    greedy: bool = True
    """One more answer a problem at temperature 0."""
    stop_at: Annotated[EarlyStop | None, AddedLater()] = None
    """Ends the sampling of a benchmark of ours as soon as its error bar is so narrow, in whole
    rounds over all its problems; k is then what the rule led to, at most `samples`."""
    judge: Annotated[JudgeSettings | None, AddedLater()] = None
    """Decides answers to problems of kind `open` of our own benchmarks, once all are drawn; its
    requests and replies are in judgements.jsonl. None: a benchmark of such problems is refused."""
    budgets: Annotated[tuple[Annotated[int, Field(ge=1, le=10**7)], ...], AddedLater()] = ()
    """Tokens of thought, in rising order: each answer is also asked for with its thoughts closed
    there, so that accuracy stands against thinking tokens. Benchmarks of ours alone."""
    max_ungradable: Annotated[float, AddedLater()] = Field(default=0.01, ge=0.0, le=1.0)
    """Largest share of a benchmark's answers that graders may leave ungradable; these are counted
    and not right. A judge has a bound of its own."""

    @model_validator(mode="after")
    def _asks_something(self) -> "EvaluateConfig":
        names = [benchmark.name for benchmark in self.benchmarks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"benchmarks of equal name: {', '.join(twice)}")
        if self.judge is not None and self.stop_at is not None:
            raise ValueError(
                "stop_at: looks at verdicts while answers are drawn; a judge decides "
                "when all are: leave one of the two out"
            )
        if self.budgets:
            from factory.evaluation.budgets import check_budgets

            limits = {
                b.name: (b.sampling or self.sampling).max_new_tokens if b.is_own else None
                for b in self.benchmarks
            }
            judged = self.judge is not None
            check_budgets(self.budgets, self.prompt, limits=limits, judged=judged)
        for benchmark in self.benchmarks:
            if not self.greedy and self.samples_of(benchmark) == 0:
                raise ValueError(f"benchmark {benchmark.name}: samples is 0 and greedy is off")
        return self

    def samples_of(self, benchmark: BenchmarkConfig) -> int:
        return self.samples if benchmark.samples is None else benchmark.samples
