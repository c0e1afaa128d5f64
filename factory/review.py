"""Decisions of people about traces: one JSON line each, appended and never changed.

The file is a stage's external file, so its content decides a fingerprint; when a decision was made
stands in a file beside it, which does not.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from factory.jsonl import append_rows
from factory.records import Record, Trace

Choice = Literal["accept", "edit", "reject"]
Reason = Literal["wrong", "unreadable", "language", "format", "unsafe", "other"]
Pass = Literal[1, 2]


class Decision(Record):
    """What one reviewer decided about one trace in one pass."""

    trace: str
    """The trace's key."""
    reviewer: str = Field(min_length=1)
    review_pass: Pass = 1
    choice: Choice
    reason: Reason | None = None
    """Why it was rejected."""
    note: str = ""
    reasoning: str | None = None
    """The edited thoughts."""
    ending: str | None = None
    """The edited answer; in an output form the edited summary."""

    @model_validator(mode="after")
    def _is_whole(self) -> "Decision":
        if (self.choice == "reject") != (self.reason is not None):
            raise ValueError("a reason is given where a trace is rejected, and only there")
        edited = (self.reasoning is not None, self.ending is not None)
        if edited != (self.choice == "edit",) * 2:
            raise ValueError("reasoning and ending belong to edited traces, and only to them")
        return self


class Agreement(Record):
    """How far two passes over the same traces agree on accept, edit and reject."""

    n: int
    """Traces decided in both."""
    share: float
    """Of equal choices, in [0, 1]."""
    kappa: float | None
    """Cohen's kappa; None where chance alone would agree always."""


Decisions = Mapping[tuple[str, Pass], Decision]
"""The decision that counts for each trace in each pass."""


def key(trace: Trace) -> str:
    """What a decision is about: this text for this problem, whichever stage brought it."""
    text = f"{trace.problem_id}\0{trace.sample}\0{trace.completion}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def standing(decisions: Iterable[Decision]) -> Decisions:
    """Of several decisions about a trace in a pass the last one counts."""
    return {(decision.trace, decision.review_pass): decision for decision in decisions}


def needs_second_pass(trace_key: str, share: float) -> bool:
    """Whether a trace is among the share that is looked at twice; decided by its key alone."""
    return int(trace_key[:8], 16) < share * 2**32


def pending(
    traces: Sequence[Trace],
    decisions: Decisions,
    review_pass: Pass,
    *,
    second_pass: float,
    reviewer: str | None = None,
) -> list[Trace]:
    """Traces that wait for a decision in this pass, in order.

    The second pass takes the share `second_pass` of those decided in the first one, and leaves out
    what `reviewer` decided there: another pair of eyes is the point of it.
    """
    if review_pass == 1:
        return [trace for trace in traces if (key(trace), 1) not in decisions]
    waiting = []
    for trace in traces:
        first = decisions.get((key(trace), 1))
        if first is None or first.reviewer == reviewer or (key(trace), 2) in decisions:
            continue
        if needs_second_pass(key(trace), second_pass):
            waiting.append(trace)
    return waiting


def final(trace: Trace, decisions: Decisions) -> Decision | None:
    """The decision of the last pass that has one."""
    return decisions.get((key(trace), 2)) or decisions.get((key(trace), 1))


def agreement(pairs: Sequence[tuple[str, str]]) -> Agreement:
    """Observed agreement p_o and Cohen's kappa over pairs of choices (Cohen 1960).

        kappa = (p_o - p_e) / (1 - p_e),   p_e = sum over choices of p_first * p_second

    ValueError for no pairs.
    """
    if not pairs:
        raise ValueError("agreement of no pairs")
    n = len(pairs)
    observed = sum(a == b for a, b in pairs) / n
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    chance = sum(first[choice] * second[choice] for choice in first) / n**2
    kappa = None if chance == 1.0 else (observed - chance) / (1 - chance)
    return Agreement(n=n, share=observed, kappa=kappa)


def passes_agree(traces: Sequence[Trace], decisions: Decisions) -> Agreement | None:
    """Agreement of the two passes over these traces; None where none was looked at twice."""
    pairs = [
        (decisions[key(trace), 1].choice, decisions[key(trace), 2].choice)
        for trace in traces
        if (key(trace), 1) in decisions and (key(trace), 2) in decisions
    ]
    return agreement(pairs) if pairs else None


def record(path: Path, decision: Decision) -> None:
    """Append a decision, and the time it was made to the file beside; both survive a kill."""
    append_rows(path, [decision.model_dump(exclude_defaults=True)])
    at = datetime.now(UTC).isoformat(timespec="seconds")
    row = {"trace": decision.trace, "review_pass": decision.review_pass, "at": at}
    append_rows(path.with_suffix(".times.jsonl"), [row])
