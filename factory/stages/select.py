"""Stage `select`: rejection sampling. Keeps the traces worth learning from, and says why not."""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from factory.artifacts import Inputs
from factory.context import Context, Metrics
from factory.errors import DataError
from factory.jsonl import write_records
from factory.records import OUTCOMES, Outcome, Record, Trace, TracesRef
from factory.rewards import language_consistency, repetition
from factory.rewards.language import SCRIPTS
from factory.rewards.steps import has_false_step, leads_to
from factory.stages.stage import Stage, StageConfig

Preference = Literal["first", "shortest", "diverse"]


class SelectConfig(StageConfig):
    """Writes traces.jsonl (kept) and rejected.jsonl (each with its first failing reason)."""

    kind: Literal["select"]
    traces: TracesRef
    outcomes: tuple[Outcome, ...] = Field(default=("correct",), min_length=1)
    """Verdicts to keep; the paper keeps correct ones only (arXiv 2501.12948 v2, B.3.3)."""
    max_per_problem: int = Field(default=4, ge=1)
    prefer: Preference = "first"
    """Which of a problem's good traces are kept: the first sampled, the shortest, or those whose
    words overlap least with the ones already kept."""
    require_well_formed: bool = True
    min_reasoning_characters: int = Field(default=0, ge=0)
    max_reasoning_characters: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    language: str | None = None
    """ISO 639-1 code the reasoning must be in; None does not look."""
    min_language_consistency: float = Field(default=0.9, ge=0.0, le=1.0)
    require_sound_steps: bool = False
    """Refuse reasoning with a false equation of plain integers, or whose last number is not the
    answer: right by luck teaches wrong steps."""
    max_repetition: float = Field(default=0.5, ge=0.0, le=1.0)
    """Largest share of repeated word 4-grams in the completion; loops are near 1."""

    @model_validator(mode="after")
    def _language_is_known(self) -> "SelectConfig":
        if self.language is not None and self.language not in SCRIPTS:
            raise ValueError(f"language {self.language!r}: known are {', '.join(sorted(SCRIPTS))}")
        return self


class Rejected(Record):
    """A trace that was not kept and the first test that it failed."""

    reason: str
    trace: Trace


def run(config: SelectConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Judge every trace; metrics `kept`, `problems` and `rejected.<reason>`."""
    traces = list(inputs["traces"].traces())
    reasons = select(traces, config)
    kept = [trace for trace, reason in zip(traces, reasons, strict=True) if reason is None]
    counts = Counter(reason for reason in reasons if reason is not None)
    if not kept:
        found = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
        raise DataError(
            f"select: none of the {len(traces)} traces is left ({found or 'there were none'}); "
            "loosen the settings or generate more"
        )
    write_records(out / "traces.jsonl", kept)
    write_records(
        out / "rejected.jsonl",
        (
            Rejected(reason=reason, trace=trace)
            for trace, reason in zip(traces, reasons, strict=True)
            if reason is not None
        ),
    )
    problems = len({trace.problem_id for trace in kept})
    rejected = {f"rejected.{reason}": float(counts[reason]) for reason in sorted(counts)}
    return {"kept": float(len(kept)), "problems": float(problems), **rejected}


def select(traces: list[Trace], config: SelectConfig) -> list[str | None]:
    """Why each trace is rejected, None for those that are kept, in the order given.

    Of identical completions of a problem only the first can be kept, whatever the settings.
    """
    reasons = [fault(trace, config) for trace in traces]
    by_problem: dict[str, list[int]] = {}
    for index, trace in enumerate(traces):
        if reasons[index] is None:
            by_problem.setdefault(trace.problem_id, []).append(index)
    for indices in by_problem.values():
        seen: set[str] = set()
        distinct = []
        for index in indices:
            if traces[index].completion in seen:
                reasons[index] = "duplicate"
            else:
                distinct.append(index)
            seen.add(traces[index].completion)
        chosen = _preferred([traces[i] for i in distinct], config.prefer, config.max_per_problem)
        for position, index in enumerate(distinct):
            if position not in chosen:
                reasons[index] = "over_quota"
    return reasons


def fault(trace: Trace, config: SelectConfig) -> str | None:
    """The first test that a trace fails by itself, or None."""
    return next((name for name, fails in FAULTS if fails(trace, config)), None)


def _is_foreign(trace: Trace, config: SelectConfig) -> bool:
    if config.language is None:
        return False
    spoken = language_consistency(trace.reasoning or "", config.language)
    return spoken < config.min_language_consistency


def _over(value: int, limit: int | None) -> bool:
    return limit is not None and value > limit


def _outcome(outcome: Outcome) -> Callable[[Trace, SelectConfig], bool]:
    return lambda t, c: t.verdict.outcome == outcome and outcome not in c.outcomes


FAULTS: tuple[tuple[str, Callable[[Trace, SelectConfig], bool]], ...] = (
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
)
"""Tests in the order they are made; the first one failed is the reason."""


def _preferred(traces: list[Trace], prefer: Preference, count: int) -> set[int]:
    """Positions of the traces to keep."""
    if prefer == "diverse":
        return _least_alike(traces, count)
    order: Iterable[int] = range(len(traces))
    if prefer == "shortest":
        order = sorted(order, key=lambda i: (traces[i].completion_tokens, i))
    return set(list(order)[:count])


def _least_alike(traces: list[Trace], count: int) -> set[int]:
    """Greedy: the first, then always the one whose words overlap least with those chosen."""
    words = [set(trace.completion.split()) for trace in traces]

    def overlap(a: int, b: int) -> float:
        return len(words[a] & words[b]) / max(1, len(words[a] | words[b]))

    chosen: list[int] = []
    while len(chosen) < min(count, len(traces)):
        rest = (i for i in range(len(traces)) if i not in chosen)
        chosen.append(min(rest, key=lambda i: (max([overlap(i, c) for c in chosen] or [0.0]), i)))
    return set(chosen)


STAGE = Stage(config=SelectConfig, produces="traces", version=2, run=run, packages=("py3langid",))
