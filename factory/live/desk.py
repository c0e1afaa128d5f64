"""The review queue for the live page: what waits, and decisions that come in from it."""

import json
import time
from collections.abc import Mapping
from threading import Lock
from typing import Any, cast

from pydantic import Field, ValidationError

from factory.core.errors import DataError
from factory.core.records import Record, Trace
from factory.preferences.review import (
    Choice,
    Decision,
    Pass,
    Queue,
    Reason,
    edit_faults,
    key,
    passes_agree,
    record,
)
from factory.text.lint import lint
from factory.text.visible import visible

LEASE = 120.0
"""Seconds that a trace is kept for whoever looks at it, while others wait."""
LONGEST = 200_000
"""Characters of a text that is shown; an edit of a longer one would lose the rest."""
NAME = 200


class Sent(Record):
    """A decision as the page sends it."""

    trace: str
    reviewer: str = Field(min_length=1, max_length=NAME)
    review_pass: Pass
    choice: Choice
    reason: Reason | None = None
    note: str = Field(default="", max_length=10_000)
    reasoning: str | None = None
    ending: str | None = None


class Desk:
    """One queue, for all pages that look at it."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._lock = Lock()
        self._by_key = {key(trace): trace for trace in queue.traces}
        self._leases: dict[tuple[str, int], tuple[str, float]] = {}

    def view(
        self, *, reviewer: str, review_pass: Pass, viewer: str, after: str = ""
    ) -> dict[str, Any]:
        """The next trace that waits behind `after`, none that another viewer has just been given,
        and how far the queue is. In the second pass nothing of the first is told."""
        with self._lock:
            waiting = self._queue.pending(review_pass, reviewer)
            trace = self._next(waiting, (viewer, review_pass), after)
            return {
                "waiting": len(waiting),
                "traces": len(self._queue.traces),
                "decided": len(self._queue.traces) - len(self._queue.pending(1)),
                "second": len(self._queue.pending(2)),
                "agreement": self._agreement(),
                "file": visible(str(self._queue.path)),
                "item": None if trace is None else self._item(trace),
            }

    def _next(self, waiting: list[Trace], who: tuple[str, int], after: str) -> Trace | None:
        viewer, review_pass = who
        now = time.monotonic()
        names = [key(trace) for trace in waiting]
        start = names.index(after) + 1 if after in names else 0
        order = [*waiting[start:], *waiting[:start]]
        for trace in order:
            holder, at = self._leases.get((key(trace), review_pass), (viewer, now))
            if holder == viewer or now - at > LEASE:
                self._leases[key(trace), review_pass] = (viewer, now)
                return trace
        return order[0] if order else None

    def _agreement(self) -> str:
        agreed = passes_agree(self._queue.traces, self._queue.decisions())
        if agreed is None:
            return ""
        kappa = "not defined" if agreed.kappa is None else f"{agreed.kappa:.2f}"
        return (
            f"The two passes agree on {agreed.share:.0%} of {agreed.n} traces; "
            f"Cohen's kappa {kappa}."
        )

    def _item(self, trace: Trace) -> dict[str, Any]:
        queue = self._queue
        before = queue.originals.get((trace.problem_id, trace.sample))
        ending = trace.answer if queue.form is None else trace.summary
        shown = {
            "trace": key(trace),
            "problem": trace.problem_id[:NAME],
            "outcome": trace.verdict.outcome,
            "question": trace.question,
            "thoughts": trace.reasoning if trace.reasoning is not None else trace.completion,
            "ending": ending or "",
            "original": None if before is None else before.reasoning or before.completion,
            "original_ending": None if before is None else before.summary or before.answer or "",
        }
        item: dict[str, Any] = {
            name: None if text is None else visible(text[:LONGEST]) for name, text in shown.items()
        }
        parts = (trace.reasoning, ending)
        item["editable"] = all(len(part or "") <= LONGEST for part in parts)
        item["linter"] = [visible(remark) for remark in lint(trace.completion, form=queue.form)]
        return item

    def decide(self, body: bytes) -> str:
        """Record what a page sent; what is to be said of it. DataError where it is not taken."""
        try:
            sent = Sent.model_validate_json(body)
            fields = cast("Mapping[str, Any]", sent.model_dump(exclude_none=True))
            decision = Decision.model_validate(fields)
            json.dumps(fields, ensure_ascii=False).encode()  # half a surrogate pair is no text
        except ValidationError as error:
            raise DataError(f"not taken: {error.errors()[0]['msg']}") from error
        except UnicodeEncodeError as error:
            raise DataError("not taken: a character of it is none of Unicode") from error
        trace = self._by_key.get(decision.trace)
        if trace is None:
            raise DataError("not taken: no trace of this queue")
        with self._lock:
            decisions = self._queue.decisions()
            if decision.review_pass == 2:
                first = decisions.get((decision.trace, 1))
                if first is None or first.reviewer == decision.reviewer:
                    raise DataError("not taken: the second pass is for what another decided first")
            if decision.choice == "edit":
                faults = self._edit_faults(trace, decision)
                if faults:
                    raise DataError(f"not taken: {'; '.join(map(visible, faults))}")
            earlier = decisions.get((decision.trace, decision.review_pass))
            record(self._queue.path, decision)
            if earlier is not None and earlier.reviewer != decision.reviewer:
                return "Another had decided it meanwhile: both are in the file, yours counts."
            return "Recorded."

    def _edit_faults(self, trace: Trace, decision: Decision) -> list[str]:
        reasoning, ending = decision.reasoning or "", decision.ending or ""
        before = trace.answer if self._queue.form is None else trace.summary
        same = (visible(trace.reasoning or ""), visible(before or ""))
        if (reasoning, ending) == same:
            return ["nothing was changed; accept it instead"]
        return edit_faults(reasoning.strip(), ending.strip(), self._queue.form)
