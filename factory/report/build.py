"""What a report is made from: the sealed artifacts of a plan, and what follows from them.

A pure function of what is on disk: no clock, no environment, no paths outside the artifacts.
Nothing here computes a new result: every number is in an artifact, or is a paired statistic of
per-problem means that are.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import Any, TypeVar

from factory.artifacts import Artifact, Manifest
from factory.evaluation.claim import Claim
from factory.pricing import recorded
from factory.records import EvalSample
from factory.report.lineage import index
from factory.report.records import Comparison, Evaluation, Made, StageRow, Step
from factory.report.scorecard import AllAnswers, all_answers, compare, evaluations
from factory.stages import STAGES

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
        return tuple(map(_stage_row, self.steps))

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
        return _variants(manifest.versions for manifest in self.manifests)

    @cached_property
    def machine(self) -> dict[str, tuple[str, ...]]:
        """Values of each setting of the machine over all stages."""
        return _variants(manifest.machine for manifest in self.manifests)

    @cached_property
    def commits(self) -> tuple[str, ...]:
        """Commits of the code, `(dirty)` appended where the tree had changes."""
        return tuple(sorted({_commit(manifest) for manifest in self.manifests}))

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


def _stage_row(step: Step) -> StageRow:
    artifact = step.artifact
    return StageRow(
        name=step.name,
        kind=step.stage,
        produces=step.produces,
        inputs=dict(step.inputs),
        config=dict(step.config or (artifact.manifest.config if artifact is not None else {})),
        made=None if artifact is None else _made(artifact),
    )


def _made(artifact: Artifact) -> Made:
    manifest = artifact.manifest
    metrics = {name: _finite(value) for name, value in sorted(manifest.metrics.items())}
    tokens = metrics.get("completion_tokens")
    learns = manifest.stage in STAGES and STAGES[manifest.stage].tokens == "learned"
    return Made(
        folder=artifact.path.name,
        fingerprint=manifest.fingerprint,
        content=manifest.content,
        seed=manifest.seed,
        seconds=manifest.seconds,
        estimate=recorded(artifact),
        peak_memory_gib=manifest.peak_memory_gib,
        sampled_tokens=None if tokens is None or learns else round(tokens),
        learned_tokens=round(tokens) if tokens is not None and learns else None,
        size_bytes=sum(entry.size for entry in manifest.files.values()),
        commit=manifest.commit,
        dirty=manifest.dirty,
        created=manifest.created,
        metrics=metrics,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _commit(manifest: Manifest) -> str:
    return manifest.commit + (" (dirty)" if manifest.dirty else "")


def _variants(tables: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """All values that each key takes, keys and values sorted."""
    values: dict[str, set[str]] = {}
    for table in tables:
        for key, value in table.items():
            values.setdefault(key, set()).add(str(value))
    return {key: tuple(sorted(values[key])) for key in sorted(values)}
