"""What a report is made from: the sealed artifacts of a plan, and what follows from them.

A pure function of what is on disk: no clock, no environment, no paths outside the artifacts.
Nothing here computes a new result: every number is in an artifact, or is a paired statistic of
per-problem means that are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import Any, TypeVar

from factory.core.artifacts import Manifest
from factory.core.records import EvalSample
from factory.evaluation.claim import Claim
from factory.report.lineage import index
from factory.report.made import commit_of, stage_row, variants
from factory.report.records import Comparison, Evaluation, StageRow, Step
from factory.report.scorecard import AllAnswers, all_answers, compare, evaluations

T = TypeVar("T")


@dataclass(frozen=True)
class Build:
    """One recipe's plan with what of it is sealed: what a section reads."""

    recipe: str
    description: str
    steps: tuple[Step, ...]
    """In plan order; one without artifact is not made."""
    claims: tuple[Claim, ...] = ()
    results: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)
    """Of functions that are `once`."""

    @cached_property
    def by_name(self) -> dict[str, Step]:
        """Steps by name, in plan order."""
        return index(self.steps)

    @cached_property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """Every evaluated checkpoint with its scores, in the plan's order of models."""
        return tuple(evaluations(self.by_name))

    @cached_property
    def answers(self) -> AllAnswers:
        """Every graded completion behind the scores."""
        return all_answers(self.evaluations, self.by_name)

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Each checkpoint against where it started, its forerunner, its teacher."""
        return tuple(compare(self.evaluations, self.answers, self.by_name))

    @cached_property
    def stages(self) -> tuple[StageRow, ...]:
        """What each stage was asked for and what it took."""
        return tuple(map(stage_row, self.steps))

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the stages that are not made."""
        return tuple(step.name for step in self.steps if step.artifact is None)

    @cached_property
    def manifests(self) -> list[Manifest]:
        """Of all that is sealed."""
        return [step.artifact.manifest for step in self.steps if step.artifact is not None]

    @cached_property
    def packages(self) -> dict[str, tuple[str, ...]]:
        """Versions of each package over all stages."""
        return variants(manifest.versions for manifest in self.manifests)

    @cached_property
    def machine(self) -> dict[str, tuple[str, ...]]:
        """Values of each setting of the machine over all stages."""
        return variants(manifest.machine for manifest in self.manifests)

    @cached_property
    def commits(self) -> tuple[str, ...]:
        """Commits of the code, `(dirty)` appended where the tree had changes."""
        return tuple(sorted({commit_of(manifest) for manifest in self.manifests}))

    def samples(self, evaluation: Evaluation) -> list[EvalSample]:
        """Every graded answer of an evaluation, benchmark by benchmark."""
        return [
            sample
            for problems in self.answers[evaluation.label].values()
            for samples in problems.values()
            for sample in samples
        ]


def build(
    recipe: str, description: str, steps: Sequence[Step], claims: Sequence[Claim] = ()
) -> Build:
    """The build of one recipe's plan."""
    return Build(recipe, description, tuple(steps), tuple(claims))


def once(function: Callable[[Build], T]) -> Callable[[Build], T]:
    """Compute it once a build: several sections may show the same."""

    @wraps(function)
    def cached(build: Build) -> T:
        if function not in build.results:
            build.results[function] = function(build)
        return build.results[function]

    return cached
