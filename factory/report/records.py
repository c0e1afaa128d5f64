"""The nouns of a report. All are strict, frozen and JSON-serialisable."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field

from factory.artifacts import Artifact
from factory.evaluation.claims import Finding
from factory.evaluation.contamination import Overlap
from factory.evaluation.paired import ALPHA
from factory.evaluation.published import Reproduction
from factory.evaluation.statistics import Interval
from factory.evaluation.strata import Stratum
from factory.pricing import Estimate
from factory.problems.overlap import SAME_QUESTION
from factory.records import ArtifactKind, Mode, Outcome, Record, Score
from factory.stages.grpo.trends import Alarm, LengthFall, WatchRow

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
    samples: int | None = Field(default=None, exclude_if=lambda one: one is None)
    """Of every problem the first so many samples are compared, where one side has more of them."""
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


class Series(Record):
    """One named quantity over training steps; None where a value was not finite."""

    name: str
    steps: tuple[int, ...]
    values: tuple[float | None, ...]


class Sample(Record):
    """One completion as shown to a reader. All its text is a model's: hostile until escaped."""

    label: str
    prompt: str
    reasoning: str | None
    answer: str | None
    completion: str
    outcome: Outcome
    explanation: str
    tokens: int
    cut: int
    """Characters of the completion left out to keep the page readable."""


class TrainingRun(Record):
    """What one training stage logged."""

    stage: str
    kind: str
    series: tuple[Series, ...]
    seconds: tuple[Series, ...]
    """From the run folder: seconds by phase and rates; empty where it was copied without."""
    rollouts: tuple[Sample, ...]
    """The first and the last rollout that the stage kept."""


class Telling(Record):
    """A completion in which the model stops, doubts and does a step again."""

    rule: str
    """How it was picked."""
    step: int
    redone: int
    """Steps done again in it."""
    passage: str
    """What stands around the first doubt."""
    sample: Sample


class Evolution(Record):
    """How an RL run changed by itself: what was measured on the way, and what follows by rule."""

    stage: str
    start: str
    """The stage whose weights it started from."""
    language_weight: float
    """Of the language reward; 0 where it has none."""
    jumps: tuple[tuple[int, int], ...]
    """(first update, new tokens allowed from it on)."""
    measured: tuple[WatchRow, ...]
    alarm: Alarm | None
    length_fall: LengthFall | None
    telling: tuple[Telling, ...]


class Rejection(Record):
    """Why some traces were dropped, how many, and the first of them."""

    reason: str
    count: int
    example: Sample | None


class Rewriting(Record):
    """A completion and what a model made of it."""

    draft: str
    reply: str


class Selection(Record):
    """What a select, rewrite or review stage kept and dropped."""

    stage: str
    kind: str = "select"
    kept: int
    remark: str = ""
    """Of a review: who decided."""
    rejections: tuple[Rejection, ...]
    """Most frequent first."""
    rewriting: Rewriting | None = None
    """Of a rewrite: the first one kept."""


class DomainRow(Record):
    """One domain of a mixture."""

    domain: str
    kept: int
    share: float
    r1_share: float
    """In R1's SFT set (arXiv 2501.12948 v2, Table 5)."""


class Mixture(Record):
    """A mix stage's traces by domain."""

    stage: str
    rows: tuple[DomainRow, ...]


class Story(Record):
    """One problem and what each checkpoint made of it."""

    title: str
    rule: str
    """How the problem was picked: always by rule, never by taste."""
    benchmark: str
    problem_id: str
    question: str
    samples: tuple[Sample, ...]


class Answer(Record):
    """One answer in the page's browser, its texts abridged. All of them are a model's."""

    label: str
    """Of the evaluation."""
    mode: Mode
    sample: int
    outcome: Outcome
    lenient: Outcome
    lenient_answer: str | None
    tokens: int
    reasoning: str | None
    answer: str | None
    completion: str
    explanation: str


class Answered(Record):
    """One problem with every answer to it."""

    benchmark: str
    problem_id: str
    question: str
    reference: str | None
    """None where it is not to be had: lm-eval's own tasks, a package that is not installed."""
    answers: tuple[Answer, ...]


class Tally(Record):
    """How often each problem of one evaluation's benchmark was answered right: what comparisons
    are made from."""

    stage: str
    benchmark: str
    mode: Mode
    samples: int
    """A problem; the fewest, where they differ."""
    ended_early: bool = Field(default=False, exclude_if=lambda one: not one)
    """By the evaluation's own error bar."""
    shares: dict[str, float]
    """By problem id: share of its samples that are right, strictly."""


class Strata(Record):
    """One evaluation's score on one benchmark by difficulty."""

    label: str
    benchmark: str
    mode: Mode
    parts: tuple[Stratum, ...]


class CleanScore(Record):
    """A strict score over all problems, and over those that overlap with no training text."""

    mode: Mode
    whole: Interval
    clean: Interval | None
    """None where no problem is left."""


class Contamination(Record):
    """What of a benchmark overlaps with the texts that a model's weights were trained on."""

    label: str
    benchmark: str
    problems: int
    texts: int
    """Training texts that were looked through."""
    stages: tuple[str, ...]
    """Whose artifacts hold them; none: none of the factory's training had a text."""
    unknown: tuple[str, ...]
    """What else it was trained on, that cannot be looked at."""
    overlaps: tuple[Overlap, ...]
    scores: tuple[CleanScore, ...]

    @property
    def same(self) -> int:
        """Problems that were trained on as they are."""
        return sum(one.rule == SAME_QUESTION for one in self.overlaps)


class Browser(Record):
    """The answers that a reader can leaf through on the page."""

    problems: tuple[Answered, ...] = Field(default=(), exclude=True, repr=False)
    """On the page only: each evaluation's samples.jsonl has them whole."""
    shown: int
    left_out: int
    """Answers for which the page has no room."""
    protected: dict[str, int]
    """By benchmark: answers that are not shown, since its authors ask not to reprint questions."""


class ClaimRow(Record):
    """A claim of the recipe and what was measured; no finding while an evaluation is missing, or
    where there is nothing to measure."""

    text: str
    measure: str
    benchmark: str
    of: tuple[str, ...]
    against: tuple[str, ...]
    missing: tuple[str, ...]
    finding: Finding | None


class Headline(Record):
    """The result in one sentence, then what must be said beside it."""

    benchmark: str | None
    sentence: str
    remarks: tuple[str, ...]


class Report(Record):
    """Everything the page shows. Equal artifacts give an equal report, to the byte."""

    version: int = 1
    recipe: str
    description: str
    headline: Headline
    claims: tuple[ClaimRow, ...]
    stages: tuple[StageRow, ...]
    evaluations: tuple[Evaluation, ...]
    comparisons: tuple[Comparison, ...]
    reproductions: tuple[Reproduction, ...] = ()
    """Scores of unchanged hub models beside those that others published."""
    runs: tuple[TrainingRun, ...]
    evolutions: tuple[Evolution, ...]
    selections: tuple[Selection, ...]
    mixtures: tuple[Mixture, ...] = ()
    stories: tuple[Story, ...]
    browser: Browser | None = None
    tallies: tuple[Tally, ...] = ()
    strata: tuple[Strata, ...] = ()
    contaminations: tuple[Contamination, ...] = ()
    packages: dict[str, tuple[str, ...]]
    """Versions of each package over all stages; more than one where the stages differ."""
    machine: dict[str, tuple[str, ...]]
    commits: tuple[str, ...]
    """Commits of the code, `(dirty)` appended where the tree had changes."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the stages that are not made."""
        return tuple(row.name for row in self.stages if row.made is None)
