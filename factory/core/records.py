"""The nouns of the factory as strict, frozen records, and the typed references between stages."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    model_validator,
)

from factory.core.registry import Door, Named

URL = r"^https?://[^\s/?#@]+(/[^\s?#@]*)?$"
Url = Annotated[str, Field(pattern=URL)]
"""Without names, passwords and queries: it is recorded in manifests and shown."""
ArtifactKind = Literal["problems", "model", "traces", "scores", "pairs", "labels", "reward_model"]
GRADERS: Door[Any] = Door("graders", "grader", ["factory.grading.graders"])
"""What decides answers (`grading.grader.Grader`), by the kind of problem."""
ProblemKind = Annotated[str, Named("graders"), AfterValidator(GRADERS.check)]
"""math, choice, exact, procedural, code, instructions, open, or that of a plug-in's grader."""
Outcome = Literal["correct", "wrong", "no_answer", "truncated", "timeout", "crashed", "ungradable"]
"""timeout and crashed are those of programs: too slow, and not ended as they should."""
Mode = Literal["sampled", "greedy"]
"""How a benchmark is answered: k samples a problem, or one without chance."""
FinishReason = Literal["stop", "length", "loop"]
"""Ended by itself or by a stop text; cut at its limit; ended because it repeated itself."""

OWN_LICENCE = "apache-2.0"
"""Of what the factory makes itself: random weights, generated questions, shipped examples."""
COMMIT = r"^[0-9a-f]{40}$"
"""A commit by its 40 hex digits: a branch name could mean something else tomorrow."""

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


Share = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
"""Of a running mean: how much of it stays from step to step."""


def _sensible(value: Any) -> Any:
    """ValueError where a number of a library's own settings is beyond any use of it."""
    if isinstance(value, int | float) and not abs(value) <= MOST_OF_OTHERS:
        raise ValueError(f"{value:.3g} is out of range, at most {MOST_OF_OTHERS} either way")
    if isinstance(value, dict | list):
        items = cast("Any", value)
        for item in items.values() if isinstance(value, dict) else items:
            _sensible(item)
    return cast("Any", value)


MOST_OF_OTHERS = 10**9
OtherSettings = Annotated[dict[str, JsonValue], AfterValidator(_sensible)]
"""Settings of a library, by its own names; it refuses the rest of what it cannot use."""


class Record(BaseModel):
    """Base of all records: unknown keys refused, no coercion, immutable."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )


@dataclass(frozen=True)
class Consumes:
    """Marks a string field as the name of a stage that makes an artifact of this kind."""

    kind: ArtifactKind
    only_asked: bool = False
    """Of a model: it is only asked, so that one without weights, on a server, will do."""


@dataclass(frozen=True)
class AddedLater:
    """Marks a setting whose default leaves everything as it was before the setting came.

    A fingerprint leaves it out while it has that default, so that nothing is made anew for a
    setting that nobody uses. Another default later must raise the stage's version.
    """


ModelRef = Annotated[str, Consumes("model")]
AskedModelRef = Annotated[str, Consumes("model", only_asked=True)]
ProblemsRef = Annotated[str, Consumes("problems")]
TracesRef = Annotated[str, Consumes("traces")]
ScoresRef = Annotated[str, Consumes("scores")]
PairsRef = Annotated[str, Consumes("pairs")]
LabelsRef = Annotated[str, Consumes("labels")]
RewardModelRef = Annotated[str, Consumes("reward_model")]


class Problem(Record):
    """One question with what its grader needs to decide an answer."""

    id: str
    prompt: str
    reference: str
    """The right answer as text; for procedural problems one right answer of possibly many."""
    kind: ProblemKind
    source: str
    """Where it came from: a reasoning-gym family, a file, a benchmark."""
    licence: str = ""
    data: dict[str, Any] = Field(default_factory=dict)
    """What the grader needs beyond the reference (JSON), e.g. a reasoning-gym entry."""


class Verdict(Record):
    """A grader's decision, with the answer it saw and the reason: never a bare bool."""

    outcome: Outcome
    answer: str | None
    explanation: str
    followed: tuple[bool, ...] | None = Field(default=None, exclude_if=lambda value: value is None)
    """Instruction by instruction, where a response was checked against several."""
    value: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """One text for all wrong answers of one value, where the answer had to be evaluated for it."""
    # A clock's reading: kept out of files and comparison, so that sealed traces stay byte-equal.
    seconds: float = Field(default=0.0, exclude=True)
    """Wall time that grading took; 0 where it was not measured."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Verdict) and self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        return hash((self.outcome, self.answer, self.explanation))

    @property
    def is_correct(self) -> bool:
        return self.outcome == "correct"


class Loop(Record):
    """When a completion is caught in a loop: its last tokens are one piece, over and over.

    One token over and over is a loop too, after `shortest * times` of them: eight of them are a
    piece. The rule is vLLM's (RepetitionDetectionParams), the numbers are ours.
    """

    times: int = Field(default=8, ge=2, le=10**6)
    """How often the piece stands there, one right after the other."""
    shortest: int = Field(default=8, ge=1, le=10**6)
    """Tokens of a piece."""
    longest: int = Field(default=64, ge=1, le=10**6)
    """Tokens of a piece."""

    @model_validator(mode="after")
    def _has_lengths(self) -> "Loop":
        if self.shortest > self.longest:
            raise ValueError(f"shortest ({self.shortest}) is more than longest ({self.longest})")
        return self


def _is_drawn(value: float) -> float:
    if 0 < value < LEAST_TEMPERATURE:
        raise ValueError(f"should be 0 or from {LEAST_TEMPERATURE} to 4")
    return value


LEAST_TEMPERATURE = 0.01
Temperature = Annotated[float, Field(ge=0, le=4), AfterValidator(_is_drawn)]


class SamplingConfig(Record):
    """How completions are drawn. R1's evaluation uses 0.6 / 0.95 (arXiv 2501.12948 v2, D.1)."""

    temperature: Temperature = 0.6
    """0 is greedy; else at least 0.01, below which scores divided by it are no numbers."""
    top_p: float = Field(default=0.95, gt=0.0, le=1.0)
    """Smallest set of tokens with this probability that is drawn from; 1 takes all."""
    max_new_tokens: int = Field(default=2048, ge=1, le=10**7)
    """A completion is cut there."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion; they stay in it."""
    loop: Annotated[Loop | None, AddedLater()] = Field(
        default=None, exclude_if=lambda loop: loop is None
    )
    """Ends a completion that repeats itself; `loop: {}` takes the rule as it is."""


class Trace(Record):
    """One sampled completion of one problem, split into its parts and graded."""

    problem_id: str
    sample: int
    """Sample index within the problem, from 0."""
    question: str
    """The problem's own text: what a student is asked."""
    prompt: str
    """The exact text the model was given, template included."""
    completion: str
    """The exact text it returned."""
    reasoning: str | None
    answer: str | None
    summary: str | None = Field(default=None, exclude_if=lambda summary: summary is None)
    """What closes the text for its reader in an output form; files of traces in the form of the
    tags do not have it."""
    finish_reason: FinishReason
    completion_tokens: int
    seed: int
    sampling: SamplingConfig
    style: str
    """Prompt style that asked for it: zero, chat, few_shot, reflect or brief; `rewrite` where
    another trace was rewritten; `written` if nobody asked."""
    model: str
    """Fingerprint of the model that wrote it; empty for a written one."""
    verdict: Verdict


class EarlyStop(Record):
    """When the samples of a benchmark are enough: by its own error bar, never by a comparison."""

    half_width: float = Field(ge=1e-6, lt=1)
    """Of pass@1's 95 % interval over new samples of the same problems; 0.02 is two points."""
    least: int = Field(default=8, ge=2, le=10**5)
    """Samples a problem before the first look, and from each look to the next."""


class Stopped(Record):
    """What became of a rule to end early."""

    asked: int
    """Samples a problem that would have been drawn without the rule."""
    rule: EarlyStop
    half_width: float
    """What the samples that were drawn reached."""

    def summary(self, samples: int) -> str:
        """`k = 16 of 64: 95 % sampling interval ±1.9 points, ±2 asked for`."""
        half_width, wanted = 100 * self.half_width, 100 * self.rule.half_width
        return (
            f"k = {samples} of {self.asked}: 95 % sampling interval ±{half_width:.1f} points, "
            f"±{wanted:g} asked for"
        )


class Score(Record):
    """One metric of one benchmark, never without its n, its k and its settings."""

    benchmark: str
    version: str
    metric: str
    """e.g. pass@1, pass@4, cons@4, greedy; lenient ones carry the suffix `_lenient`, shares of
    single instructions (IFEval) `_instructions` before it."""
    value: float
    """In [0, 1]."""
    low: float
    """Lower end of the 95 % interval over problems."""
    high: float
    n: int
    """Problems."""
    k: int
    """Samples a problem that were drawn."""
    stopped: Stopped | None = Field(default=None, exclude_if=lambda value: value is None)
    """Where sampling might end early: the rule and what it led to."""
    outcomes: dict[str, int]
    """Counts of correct, wrong, no_answer, truncated, ungradable over all n*k samples."""
    sampling: SamplingConfig
    prompt_style: str


class EvalSample(Record):
    """One graded completion of a benchmark, kept so that scores can be computed again."""

    benchmark: str
    mode: Mode
    trace: Trace
    lenient: Verdict
    """What the lenient reading makes of the same text."""


class Pair(Record):
    """Two responses to one prompt, of which one is preferred."""

    prompt: str = Field(min_length=1)
    chosen: str = Field(min_length=1)
    rejected: str = Field(min_length=1)
    source: str
    """Where it came from: `file.jsonl:12`, `org/data:12`, or `<problem id>/0 <problem id>/1`."""
    gap: float | None = None
    """How far a judge preferred the chosen one, in [-2, 2]; None where nobody counted."""


class Labelled(Record):
    """One response with what was found out about its safety."""

    prompt: str = Field(min_length=1)
    response: str = Field(min_length=1)
    """The whole of it, thoughts included."""
    is_safe: bool
    source: str
    safe_share: float | None = None
    """Share of a judge's votes that called it safe; None where nobody voted."""
