"""Stored responses graded again, row by row: what `factory grade` does."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TextIO

from pydantic import Field, ValidationError, model_validator

from factory.core.files import naming
from factory.core.records import FinishReason, Outcome, Problem, ProblemKind, Record
from factory.grading.grade import GradeItem
from factory.grading.pool import GradingPool
from factory.text.chat import OutputForm, completion_text
from factory.text.visible import visible_json

R1 = OutputForm(opening="<think>", closing="</think>")
"""The form of the released R1 and of Qwen3."""
AT_ONCE = 256
"""Rows in memory: enough to keep the pool's processes busy."""
TestField = Literal["stdin", "expected_stdout"]


class ResponseRow(Record):
    """One row of the input file."""

    id: str
    kind: ProblemKind
    reference: str | None = None
    tests: list[dict[TestField, str]] | None = None
    """For code: standard input and the output expected for it."""
    response: str | None = None
    """The whole completion."""
    code: str | None = None
    """For code, instead of `response`: the program itself."""
    prompt: str = ""
    form: OutputForm | Literal["r1"] | None = None
    """The output form of the response; `r1`: thoughts up to `</think>`, opened by the text or by
    the prompt, as R1 and Qwen3 write. None: the four tags."""
    prefill: str = ""
    """What the prompt had put into the model's mouth."""
    finish_reason: FinishReason = "stop"
    """How the response ended."""
    data: dict[str, Any] = Field(default_factory=dict)
    """What else the grader needs, as in Problem.data."""

    @model_validator(mode="after")
    def _can_be_graded(self) -> "ResponseRow":
        if (self.response is None) == (self.code is None):
            raise ValueError("give either response or code")
        if self.code is not None and self.kind != "code":
            raise ValueError("code is for rows of kind code")
        if self.kind == "code":
            if self.tests is None and not self.data:
                raise ValueError("a row of kind code needs tests, or data with calls or a check")
        elif self.reference is None:
            raise ValueError(f"a row of kind {self.kind} needs a reference")
        return self

    @property
    def item(self) -> GradeItem:
        data = self.data if self.tests is None else {**self.data, "tests": self.tests}
        problem = Problem(
            id=self.id,
            prompt=self.prompt,
            reference=self.reference or "",
            kind=self.kind,
            source="rows",
            data=data,
        )
        text = self.response if self.code is None else completion_text("", fenced(self.code))
        form, prefill = self.form, self.prefill
        if form == "r1":
            form = R1
            is_opened = R1.opening in prefill + (text or "")
            prefill = prefill if is_opened else f"{R1.opening}\n{prefill}"
        return GradeItem(problem, text or "", prefill, self.finish_reason, form=form)


class GradedRow(Record):
    """One row of the output."""

    id: str
    outcome: Outcome
    """Of the strict reading."""
    lenient: Outcome = "ungradable"
    """Of the lenient reading."""
    extracted: str | None
    explanation: str
    seconds: float


class BrokenRow(GradedRow):
    """A line that could not be graded; its explanation says where it is and what is wrong."""


def fenced(code: str) -> str:
    """The code as a fenced block that nothing inside it can close."""
    marks = "`" * (3 + max((len(run) for run in _runs(code)), default=0))
    return f"{marks}\n{code}\n{marks}"


def _runs(code: str) -> Iterator[str]:
    return (part for part in "".join(c if c == "`" else " " for c in code).split() if part)


def grade_rows(
    lines: TextIO, name: str, pool: GradingPool, *, form: Literal["r1"] | None = None
) -> Iterator[GradedRow | BrokenRow]:
    """A graded row for every line, in order and as a stream; `form` is that of rows without one.

    A broken line becomes `ungradable`, its id `file:line` where it has none, and the explanation
    says what is wrong with it; the rest goes on.
    """
    seen: set[str] = set()
    numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    while batch := list(islice(numbered, AT_ONCE)):
        read = [_read(line, f"{name}:{number}", seen, form) for number, line in batch]
        items = [row.item for row in read if isinstance(row, ResponseRow)]
        graded = pool.grade(items)
        pairs = zip(items, graded, strict=True)
        again = [replace(item, lenient=True) for item, strict in pairs if not strict.is_correct]
        lenient = iter(pool.grade(again))
        verdicts = iter(graded)
        for row in read:
            if isinstance(row, BrokenRow):
                yield row
                continue
            verdict = next(verdicts)
            yield GradedRow(
                id=row.id,
                outcome=verdict.outcome,
                lenient="correct" if verdict.is_correct else next(lenient).outcome,
                extracted=verdict.answer,
                explanation=verdict.explanation,
                seconds=round(verdict.seconds, 4),
            )


def _read(
    line: str, where: str, seen: set[str], form: Literal["r1"] | None
) -> ResponseRow | BrokenRow:
    try:
        row = ResponseRow.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        return _broken(line, where, f"{field}: {first['msg']}" if field else first["msg"])
    if row.id in seen:
        return _broken(line, where, f"id {row.id!r} occurred before")
    seen.add(row.id)
    return row if row.form is not None else row.model_copy(update={"form": form})


def _broken(line: str, where: str, reason: str) -> BrokenRow:
    try:
        given = json.loads(line)
    except ValueError:
        given = None
    name = given.get("id") if isinstance(given, dict) else None
    return BrokenRow(
        id=name if isinstance(name, str) else where,
        outcome="ungradable",
        extracted=None,
        explanation=f"{where}: broken row: {reason}",
        seconds=0.0,
    )


def write_graded(
    rows: Iterator[GradedRow | BrokenRow], out: TextIO, *, on_broken: Callable[[str], None]
) -> Counter[str]:
    """Write the rows as JSONL; how often each outcome occurred, and `broken` rows.

    What a terminal would obey in an answer is escaped.
    """
    counts: Counter[str] = Counter()
    for row in rows:
        out.write(visible_json(row.model_dump_json()) + "\n")
        if isinstance(row, BrokenRow):
            on_broken(row.explanation)
        counts["broken" if isinstance(row, BrokenRow) else row.outcome] += 1
    return counts


def grade_file(
    source: Path,
    out: Path | None,
    *,
    on_broken: Callable[[str], None],
    processes: int = 1,
    is_isolated: bool = True,
    form: Literal["r1"] | None = None,
) -> Counter[str]:
    """Grade the rows of a file into another one, or to standard output; counts as `write_graded`.

    Bytes that are no UTF-8 are replaced, since their row alone is at fault.
    """
    with ExitStack() as stack:
        lines = stack.enter_context(source.open(encoding="utf-8", errors="replace"))
        if out is not None:
            stack.enter_context(naming(out))
        target = stack.enter_context(out.open("w", encoding="utf-8")) if out else sys.stdout
        pool = stack.enter_context(GradingPool(processes, is_isolated=is_isolated))
        rows = grade_rows(lines, str(source), pool, form=form)
        return write_graded(rows, target, on_broken=on_broken)
