"""What makes a trace worth learning from: the tests of `select`, `rewrite` and `review`."""

import re
from collections.abc import Callable
from typing import Annotated

from pydantic import Field, model_validator

from factory.core.records import OUTCOMES, AddedLater, Outcome, Record, Trace
from factory.rewards import language_consistency, repetition
from factory.rewards.language import SCRIPTS, language_of
from factory.rewards.steps import has_false_step, leads_to
from factory.stages.stage import StageConfig


class Readable(Record):
    """R1's filters of chains of thought before the SFT on 800k samples (R1v1, 2.3.3; R1v2, B.3.3).

    What its reasoning checkpoint wrote was at times chaotic and hard to read, so chains with mixed
    languages, long paragraphs and code blocks were dropped. The paper states no numbers; these are
    ours.
    """

    min_language_consistency: float = Field(default=0.9, ge=0.0, le=1.0)
    """Share of the thoughts' words in the language of the question, where that language tells."""
    max_paragraph_characters: int = Field(default=2000, ge=1, le=10**9)
    """Longest stretch without a blank line."""
    allow_code_blocks: bool = False
    """Fenced ones, in the thoughts only."""


class Fitness(StageConfig):
    """Settings of the tests that a trace has to pass."""

    outcomes: tuple[Outcome, ...] = Field(default=("correct",), min_length=1)
    """Verdicts to keep; the paper keeps correct ones only (arXiv 2501.12948 v2, B.3.3)."""
    require_well_formed: bool = True
    """Refuse texts that are not in the tags, or in the output form."""
    min_reasoning_characters: int = Field(default=0, ge=0, le=10**9)
    """Shortest thoughts."""
    max_reasoning_characters: int | None = Field(default=None, ge=1, le=10**9)
    """Longest thoughts; None sets no limit."""
    max_completion_tokens: int | None = Field(default=None, ge=1, le=10**9)
    """Longest text; None sets no limit."""
    language: str | None = None
    """ISO 639-1 code the reasoning must be in; None does not look."""
    min_language_consistency: float = Field(default=0.9, ge=0.0, le=1.0)
    """Share of the thoughts' words that are in `language`."""
    require_sound_steps: bool = False
    """Refuse reasoning with a false equation of plain integers, or whose last number is not the
    answer: right by luck teaches wrong steps."""
    max_repetition: float = Field(default=0.5, ge=0.0, le=1.0)
    """Largest share of repeated word 4-grams in the completion; loops are near 1."""

    readable: Annotated[Readable | None, AddedLater()] = None
    """The paper's three readability filters; `readable: {}` takes them as they are."""

    @model_validator(mode="after")
    def _language_is_known(self) -> "Fitness":
        if self.language is not None and self.language not in SCRIPTS:
            raise ValueError(f"language {self.language!r}: known are {', '.join(sorted(SCRIPTS))}")
        return self


class Rejected(Record):
    """A trace that was not kept and the first test that it failed."""

    reason: str
    trace: Trace


def fault(trace: Trace, config: Fitness) -> str | None:
    """The first test that a trace fails by itself, or None."""
    return next((name for name, fails in FAULTS if fails(trace, config)), None)


def _is_foreign(trace: Trace, config: Fitness) -> bool:
    if config.language is None:
        return False
    spoken = language_consistency(trace.reasoning or "", config.language)
    return spoken < config.min_language_consistency


def _mixes(trace: Trace, readable: Readable) -> bool:
    language = language_of(trace.question)
    if language is None:
        return False
    spoken = language_consistency(trace.reasoning or "", language)
    return spoken < readable.min_language_consistency


def _is_long(trace: Trace, readable: Readable) -> bool:
    paragraphs = _BLANK_LINE.split(trace.reasoning or "")
    return max(map(len, paragraphs)) > readable.max_paragraph_characters


def _has_code(trace: Trace, readable: Readable) -> bool:
    return not readable.allow_code_blocks and bool(_FENCE.search(trace.reasoning or ""))


_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_FENCE = re.compile(r"```|(?m:^)[ \t]{0,3}~~~")


def _over(value: int, limit: int | None) -> bool:
    return limit is not None and value > limit


def _outcome(outcome: Outcome) -> Callable[[Trace, Fitness], bool]:
    return lambda t, c: t.verdict.outcome == outcome and outcome not in c.outcomes


FAULTS: tuple[tuple[str, Callable[[Trace, Fitness], bool]], ...] = (
    *((outcome, _outcome(outcome)) for outcome in OUTCOMES),
    ("not_well_formed", lambda t, c: c.require_well_formed and t.answer is None),
    ("short_reasoning", lambda t, c: len(t.reasoning or "") < c.min_reasoning_characters),
    ("long_reasoning", lambda t, c: _over(len(t.reasoning or ""), c.max_reasoning_characters)),
    ("long_completion", lambda t, c: _over(t.completion_tokens, c.max_completion_tokens)),
    ("language", _is_foreign),
    ("false_step", lambda t, c: c.require_sound_steps and has_false_step(t.reasoning or "")),
    (
        "answer_elsewhere",
        lambda t, c: c.require_sound_steps and not leads_to(t.reasoning or "", t.answer or ""),
    ),
    ("repetition", lambda t, c: repetition(t.completion) > c.max_repetition),
    ("mixed_languages", lambda t, c: c.readable is not None and _mixes(t, c.readable)),
    ("long_paragraph", lambda t, c: c.readable is not None and _is_long(t, c.readable)),
    ("code_block", lambda t, c: c.readable is not None and _has_code(t, c.readable)),
)
"""Tests in the order they are made; the first one failed is the reason."""
