"""The nouns of a report. All are strict, frozen and JSON-serialisable."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field, JsonValue

from factory.building.pricing import Estimate
from factory.core.artifacts import Artifact
from factory.core.records import ArtifactKind, Mode, Record, Score
from factory.evaluation.paired import ALPHA

Direction = Literal["better", "worse", "unclear"]
Relation = Literal["start", "order", "teacher"]
Role = Literal["first model", "teacher", "student"]


@dataclass(frozen=True)
class Step:
    """One stage of a plan as the report needs it; `artifact` is None while it is not made."""

    name: str
    stage: str
    """The stage's kind: model, problems, generate, ..."""
    produces: ArtifactKind
    inputs: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """By field path (`model`, `benchmarks.0.problems`): the name of the step it reads."""
    config: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """The resolved config as JSON values; empty takes that of the artifact."""
    artifact: Artifact | None = None


def step_of(artifact: Artifact) -> Step:
    """The step that a sealed artifact says it came from, for a report without its recipe."""
    manifest = artifact.manifest
    return Step(
        manifest.name,
        manifest.stage,
        manifest.kind,
        inputs={path: entry.name for path, entry in manifest.inputs.items()},
        config=manifest.config,
        artifact=artifact,
    )


class Made(Record):
    """What a sealed artifact's manifest says about its making."""

    folder: str
    fingerprint: str
    content: str
    seed: int
    seconds: float
    estimate: Estimate | None = None
    """What it was expected to take, from before it was made."""
    peak_memory_gib: float
    sampled_tokens: int | None
    """Completion tokens that the stage drew; None where it draws none or does not say."""
    learned_tokens: int | None
    """Completion tokens that supervised fine-tuning learned from, one pass."""
    size_bytes: int
    commit: str
    dirty: bool
    created: str
    metrics: dict[str, float | None]


class StageRow(Record):
    """One stage of the plan; `made` is None where its artifact does not exist yet."""

    name: str
    kind: str
    produces: ArtifactKind
    inputs: dict[str, str]
    config: dict[str, Any]
    made: Made | None


class Evaluation(Record):
    """All scores that one evaluate stage gave one checkpoint under one prompt."""

    label: str
    """Name of the model's stage, with the prompt where it was evaluated more than once."""
    model: str
    model_kind: str
    stage: str
    prompt: str
    """Style, and how many examples it shows: `zero, 2 examples`."""
    role: Role | None
    scores: tuple[Score, ...]


class Comparison(Record):
    """Two checkpoints on the same problems: the mean of per-problem differences, strict grading."""

    benchmark: str
    mode: Mode
    before: str
    after: str
    relation: Relation
    """`before` is where the weights of `after` came from, the one before it in the plan, or the
    model that wrote its training traces."""
    n: int
    """Problems that both answered."""
    samples: int | None = Field(default=None, exclude_if=lambda value: value is None)
    """Only the first N samples of each problem are compared, where one side has more of them."""
    difference: float
    low: float
    high: float
    improved: int
    """Problems whose share of right answers rose."""
    declined: int
    p_value: float
    """`evaluation.paired`: McNemar's exact test or the permutation test."""
    p_corrected: float
    """Holm's, for all comparisons of the report: of many, some look like changes by chance."""

    @property
    def direction(self) -> Direction:
        """`unclear` where the 95 % interval holds zero, or the corrected p-value is above 5 %."""
        if self.p_corrected >= ALPHA:
            return "unclear"
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "unclear"


class Tally(Record):
    """How often each problem of one evaluation's benchmark was answered right: what comparisons
    are made from."""

    stage: str
    benchmark: str
    mode: Mode
    samples: int
    """A problem; the fewest, where they differ."""
    ended_early: bool = Field(default=False, exclude_if=lambda value: not value)
    """By the evaluation's own error bar."""
    shares: dict[str, float]
    """By problem id: share of its samples that are right, strictly."""


class Headline(Record):
    """The result in one sentence, then what must be said beside it."""

    benchmark: str | None
    sentence: str
    remarks: tuple[str, ...]


class Verdict(Record):
    """What a reader must know who reads nothing else."""

    sentence: str
    """At most 25 words."""
    sureness: str
    """What the sentence rests on: interval, problems, test."""
    built: str = ""
    helped: tuple[str, ...] = ()
    unhelped: tuple[str, ...] = ()
    unproven: tuple[str, ...] = ()
    """What no single build of this kind shows; what is wrong with this one is in its remarks."""
    cost: str = ""


class Report(Record):
    """What report.json holds: the facts behind the page, and what `factory diff` compares.

    Equal artifacts give an equal report, to the byte.
    """

    version: int = 2
    recipe: str
    description: str
    headline: Headline
    verdict: Verdict | None = None
    """None in reports of earlier versions."""
    stages: tuple[StageRow, ...]
    evaluations: tuple[Evaluation, ...]
    comparisons: tuple[Comparison, ...]
    tallies: tuple[Tally, ...]
    packages: dict[str, tuple[str, ...]]
    """Versions of each package over all stages; more than one where the stages differ."""
    machine: dict[str, tuple[str, ...]]
    commits: tuple[str, ...]
    """Commits of the code, `(dirty)` appended where the tree had changes."""
    sections: dict[str, tuple[JsonValue, ...]]
    """By name, the records of sections that state some."""
