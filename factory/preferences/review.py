"""Decisions of people about traces: one JSON line each, appended and never changed.

The file is a stage's external file, so its content decides a fingerprint; when a decision was made
stands in a file beside it, which does not.
"""

import fcntl
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, model_validator

from factory.core.files import naming
from factory.core.jsonl import append_rows, parse_record
from factory.core.records import Record, Trace
from factory.text.chat import OutputForm, canonical_text
from factory.text.lint import lint

Choice = Literal["accept", "edit", "reject"]
Reason = Literal["wrong", "unreadable", "language", "format", "unsafe", "other"]
Pass = Literal[1, 2]
REASONS: tuple[Reason, ...] = get_args(Reason)


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
    checksum: str | None = Field(default=None, pattern="^[0-9a-f]{8}$")
    """CRC-32 of all else, as `record` writes it; None where a decision is written by hand."""

    @model_validator(mode="after")
    def _is_whole(self) -> "Decision":
        if (self.choice == "reject") != (self.reason is not None):
            raise ValueError("a reason is given where a trace is rejected, and only there")
        edited = (self.reasoning is not None, self.ending is not None)
        if edited != (self.choice == "edit",) * 2:
            raise ValueError("reasoning and ending belong to edited traces, and only to them")
        if self.checksum not in (None, _checksum(self)):
            raise ValueError("not what was written: delete the line, and decide again")
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


def _checksum(decision: Decision) -> str:
    fields = decision.model_dump(exclude={"checksum"}, exclude_defaults=True)
    return f"{zlib.crc32(json.dumps(fields, sort_keys=True).encode()):08x}"


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


@dataclass(frozen=True)
class Queue:
    """The traces to review and the file that takes the decisions."""

    traces: Sequence[Trace]
    path: Path
    second_pass: float
    form: OutputForm | None
    originals: Mapping[tuple[str, int], Trace] = field(default_factory=dict)
    """By problem and sample: what a rewritten trace was before."""

    def decisions(self) -> Decisions:
        return standing(recorded(self.path))

    def pending(self, review_pass: Pass, reviewer: str | None = None) -> list[Trace]:
        return pending(
            self.traces, self.decisions(), review_pass,
            second_pass=self.second_pass, reviewer=reviewer,
        )  # fmt: skip


def edit_faults(reasoning: str, ending: str, form: OutputForm | None) -> list[str]:
    """Why an edited text is not taken; nothing where it is."""
    return list(lint(canonical_text(reasoning, ending, ending, form), form=form))


def recorded(path: Path) -> list[Decision]:
    """The decisions in a file, none where it is not there. A last line that is not whole yet is
    somebody's who is writing, or what a kill tore: it is left out. DataError for any other."""
    *lines, last = path.read_bytes().split(b"\n") if path.exists() else [b""]
    rows = enumerate([*lines, last] if _is_row(last) else lines, start=1)
    return [parse_record(row, Decision, f"{path}:{at}") for at, row in rows if row.strip()]


def _is_row(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def record(path: Path, decision: Decision) -> None:
    """Append a decision, and the time it was made to the file beside; both survive a kill.

    One process at a time: what a kill tore before is cut off, and nobody's line is torn by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path), path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        torn = text[text.rfind(b"\n") + 1 :]
        if _is_row(torn):
            file.write(b"\n")
            file.flush()
        elif torn:
            file.truncate(len(text) - len(torn))
        row = decision.model_dump(exclude_defaults=True) | {"checksum": _checksum(decision)}
        append_rows(path, [row])
    at = datetime.now(UTC).isoformat(timespec="seconds")
    row = {"trace": decision.trace, "review_pass": decision.review_pass, "at": at}
    append_rows(path.with_suffix(".times.jsonl"), [row])
