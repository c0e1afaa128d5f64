"""A row of a data file as worked texts, each a question with thoughts and an answer, or the reason
why it is none."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from factory.core.records import GRADERS, Record
from factory.reading.columns import (
    ColumnMap,
    KindsByColumn,
    field_of,
    is_messages,
    of_turn,
    text_of,
)
from factory.reading.files import SHOWN, RawRow
from factory.reading.programs import program_tests
from factory.reading.thoughts import (
    Marks,
    UnusableError,
    answer_of,
    split_thoughts,
    states_value,
    summary_of,
    without_marks,
    without_requests,
)
from factory.text.chat import OutputForm, canonical_text
from factory.text.lint import lint

REFUSED = (
    "unparseable", "cut", "no_thoughts", "no_question", "no_answer", "wrong", "ungradable",
    "timeout", "crashed", "unsafe_characters",
)  # fmt: skip
"""Reasons that count against `max_refused_share`."""
LEFT_OUT = (
    "flagged", "no_reference", "too_long", "repeated", "over_quota", "held_out", "tools", "turns",
)  # fmt: skip
"""Reasons that somebody asked for."""
_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "model": "assistant", "chatgpt": "assistant", "bot": "assistant", "system": "system",
}  # fmt: skip
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
_NO_REFERENCE = ("", "proof", "notfound", "none", "null", "n/a")


class Dropped(Record):
    """A text that is not kept, in dropped.jsonl."""

    file: str
    row: int
    """Its line in JSON Lines and CSV, else which row it is, from 1."""
    sample: int = 0
    """Which text of the row."""
    reason: str
    detail: str
    text: str
    """How it begins."""
    was_flagged_right: bool = Field(default=False, exclude_if=lambda value: not value)
    """Whether its set says that it is right."""


@dataclass(frozen=True)
class Candidate:
    """A text that can be learned from, if its answer is right."""

    file: str
    row: int
    sample: int
    question: str
    reasoning: str
    answer: str
    summary: str | None
    """What follows the thoughts; None where the row stated the answer alone."""
    kind: str
    topic: str
    reference: str | None
    is_own_reference: bool = False
    """Whether an answer without a reference is its own, as of a worked example."""
    is_flagged_right: bool = False
    """Whether the set says so."""
    licence: str = ""
    tests: dict[str, Any] | None = None
    """What a program is tested by, as a problem's `data`."""
    text: str = field(default="", compare=False)

    def dropped(self, reason: str, detail: str = "") -> Dropped:
        """This candidate as one that is not kept."""
        dropped = _dropped(self.file, self.row, self.sample, reason, detail, self.text)
        is_denied = self.is_flagged_right and reason in REFUSED
        return dropped.model_copy(update={"was_flagged_right": True}) if is_denied else dropped


@dataclass(frozen=True)
class Reading:
    """How the rows of one file are read."""

    columns: ColumnMap
    marks: Marks | None
    """None: no text of the file marks its thoughts."""
    is_mathematics: bool
    """Whether nearly all answers state a value, so that one without is at fault."""
    system: str | None = None
    """A system message that all rows have, which is cut."""
    form: OutputForm | None = None
    topic: str = "imported"
    keeps_empty_thoughts: bool = False
    is_lenient: bool = False
    """Takes what the student's form takes, with characters that cannot be seen."""


def _dropped(file: str, row: int, sample: int, reason: str, detail: str, text: str) -> Dropped:
    safe = text[:SHOWN].encode("utf-8", "replace").decode("utf-8")
    detail = detail[: 2 * SHOWN].encode("utf-8", "replace").decode("utf-8")
    return Dropped(file=file, row=row, sample=sample, reason=reason, detail=detail, text=safe)


def candidates(row: RawRow, reading: Reading) -> Iterator[Candidate | Dropped]:
    """What a row holds, one for each of its generations."""
    row = row.parsed()
    if row.fields is None:
        yield _dropped(row.file, row.number, 0, "unparseable", row.fault, row.text)
        return
    try:
        texts = _texts(row.fields, reading)
        if not texts:
            raise UnusableError("no_answer", "no text of an answer")
    except UnusableError as error:
        yield _dropped(row.file, row.number, 0, error.reason, error.detail, _as_json(row))
        return
    for sample, part in enumerate(texts):
        try:
            yield _candidate(row, sample, part, reading)
        except UnusableError as error:
            shown = part.completion or part.reasoning or _as_json(row)
            yield _dropped(row.file, row.number, sample, error.reason, error.detail, shown)


def _as_json(row: RawRow) -> str:
    return json.dumps(row.fields, ensure_ascii=False, default=str)[: 4 * SHOWN]


@dataclass(frozen=True)
class _Text:
    """One generation before it is split."""

    question: str
    completion: str
    """Thoughts and answer; where `reasoning` is given, the answer alone."""
    reasoning: str | None = None
    flag: bool | None = None


def _texts(fields: dict[str, Any], reading: Reading) -> list[_Text]:
    columns = reading.columns.columns
    if columns.messages is not None:
        return [_of_messages(_messages(field_of(fields, columns.messages)), fields, reading)]
    prompt = field_of(fields, columns.question[0]) if len(columns.question) == 1 else None
    completion = field_of(fields, columns.completion) if columns.completion else None
    if is_messages(prompt):
        answer = completion if is_messages(completion) else [
            {"role": "assistant", "content": text_of(completion)}
        ]  # fmt: skip
        return [_of_messages([*_messages(prompt), *_messages(answer)], fields, reading)]
    parts = [text_of(field_of(fields, name)) for name in columns.question]
    question = "\n".join(part for part in parts if part and part.strip())
    if not question.strip():
        raise UnusableError("no_question", "the question is missing or empty")
    if columns.completion is None:
        reasoning = _joined(field_of(fields, columns.reasoning or ""))
        answer = _joined(field_of(fields, columns.answer or ""))
        if answer is None or not answer.strip():
            raise UnusableError("no_answer", f"{columns.answer}: missing or empty")
        if reasoning is None:
            raise UnusableError("no_thoughts", f"{columns.reasoning}: missing")
        return [_Text(question, answer, reasoning)]
    generations = completion if isinstance(completion, list) else [completion]
    if is_messages(completion):
        generations = [_messages(completion)[-1]["content"]]
    reasoning = _joined(field_of(fields, columns.reasoning)) if columns.reasoning else None
    flags = _flags(fields, reading, len(generations))
    return [
        _Text(question, text_of(generation) or "", reasoning, flag)
        for generation, flag in zip(generations, flags, strict=True)
    ]


def _joined(value: Any) -> str | None:
    if isinstance(value, list):
        return "\n\n".join(filter(None, map(text_of, value))) or None
    return text_of(value)


def _flags(fields: dict[str, Any], reading: Reading, count: int) -> list[bool | None]:
    """Whether each generation is published as whole and right; None where nothing is said."""
    columns = reading.columns.columns
    if not columns.flags and columns.complete is None:
        return [None] * count

    def at(name: str, index: int) -> bool:
        values = field_of(fields, name)
        values = values if isinstance(values, list) else [values]
        value = values[index] if index < len(values) else None
        return value is True or str(value).lower() in ("true", "1", "yes")

    return [
        (columns.complete is None or at(columns.complete, index))
        and (not columns.flags or any(at(name, index) for name in columns.flags))
        for index in range(count)
    ]


def _messages(value: Any) -> list[dict[str, Any]]:
    """Turns with role, content as text, and thoughts where they stand apart."""
    if not is_messages(value):
        raise UnusableError("unparseable", "no list of messages")
    turns = []
    for turn in value:
        speaker = of_turn(turn, "role", "from")
        role = _ROLES.get(str(speaker).lower())
        content = of_turn(turn, "content", "value")
        if isinstance(content, list):
            parts = [part for part in content if isinstance(part, dict)]
            if any((part.get("type") or "text") != "text" for part in parts):
                raise UnusableError("tools", "a part that is no text")
            content = "".join(str(part.get("text") or "") for part in parts)
        if role is None or turn.get("tool_calls"):
            raise UnusableError("tools", f"a turn of {speaker}")
        thoughts = next((turn[name] for name in _THOUGHTS if turn.get(name)), None)
        turns.append({"role": role, "content": text_of(content) or "", "thoughts": thoughts})
    return turns


def _of_messages(
    turns: Sequence[dict[str, Any]], fields: dict[str, Any], reading: Reading
) -> _Text:
    kept = [turn for turn in turns if turn["role"] != "system"]
    answers = [index for index, turn in enumerate(kept) if turn["role"] == "assistant"]
    if not answers or answers[-1] == 0 or kept[answers[-1] - 1]["role"] != "user":
        raise UnusableError("no_question" if answers else "no_answer", "no question and answer")
    if len(answers) > 1:
        raise UnusableError("turns", f"{len(answers)} answers")
    last = kept[answers[-1]]
    question = kept[answers[-1] - 1]["content"]
    if not question.strip():
        raise UnusableError("no_question", "the question is empty")
    return _Text(question, last["content"], text_of(last["thoughts"]))


def _candidate(row: RawRow, sample: int, text: _Text, reading: Reading) -> Candidate:
    fields: dict[str, Any] = row.fields or {}
    columns = reading.columns.columns
    if text.flag is False:
        raise UnusableError("flagged", "published as wrong or as incomplete")
    reasoning, rest = _split(text, reading)
    if not reasoning and not reading.keeps_empty_thoughts:
        raise UnusableError("no_thoughts", "the thoughts are empty")
    if not rest:
        raise UnusableError("no_answer", "nothing follows the thoughts")
    summary, is_marked = summary_of(rest)
    is_own = columns.completion is None and columns.messages is None
    details = fields.get("metadata")
    tests = program_tests(field_of(fields, columns.tests), details) if columns.tests else None
    kind = _kind(fields, reading, summary, has_tests=tests is not None, is_own=is_own)
    is_value = reading.columns.preset == "worked"
    answer = summary if is_value else answer_of(summary, kind, is_marked=is_marked)
    form = reading.form
    kept_summary = None if is_value else summary
    written = canonical_text(reasoning, answer, kept_summary, form)
    _check_text(text.question, written, kind, reading)
    return Candidate(
        file=row.file, row=row.number, sample=sample,
        question=without_requests(text.question) if not is_value else text.question,
        reasoning=reasoning, answer=answer, summary=kept_summary, kind=kind,
        topic=_topic(text_of(field_of(fields, columns.topic or "")), reading.topic),
        reference=_reference(fields, columns.reference),
        is_own_reference=is_value,
        is_flagged_right=bool(text.flag),
        licence=text_of(field_of(fields, columns.licence or "")) or "",
        tests=tests, text=written[:SHOWN],
    )  # fmt: skip


def _split(text: _Text, reading: Reading) -> tuple[str, str]:
    if text.reasoning is None:
        marks = reading.marks
        if not text.completion.strip():
            raise UnusableError("no_answer", "the text is empty")
        if marks is None:
            raise UnusableError("no_thoughts", "no marks of thoughts")
        return split_thoughts(text.completion, marks)
    reasoning, rest = without_marks(text.reasoning, reading.marks), text.completion.strip()
    marks = reading.marks
    if marks is not None and marks.closing in rest:
        again, rest = split_thoughts(rest, marks)
        if again != reasoning:
            raise UnusableError("unparseable", "two different thoughts")
    return reasoning, rest


def _kind(
    fields: dict[str, Any], reading: Reading, summary: str, *, has_tests: bool, is_own: bool
) -> str:
    kinds = reading.columns.kinds
    if isinstance(kinds, str):
        return kinds
    columns = reading.columns.columns
    name = kinds.column if isinstance(kinds, KindsByColumn) else columns.kind
    value = text_of(field_of(fields, name)) if name else None
    if value is not None:
        stated = kinds.values.get(value, value) if isinstance(kinds, KindsByColumn) else value
        return stated if stated in GRADERS else "open"
    if has_tests:
        return "code"
    if reading.columns.preset == "worked" or reading.is_mathematics or states_value(summary):
        return "math"
    return "open"


def _topic(value: str | None, default: str) -> str:
    return re.sub(r"[^a-z0-9_]+", "_", (value or default).lower()).strip("_")[:40] or default


def _reference(fields: dict[str, Any], column: str | None) -> str | None:
    text = text_of(field_of(fields, column)) if column else None
    return None if text is None or text.strip().lower() in _NO_REFERENCE else text.strip()


def _check_text(question: str, text: str, kind: str, reading: Reading) -> None:
    """UnusableError where training would refuse the text in the student's form."""
    try:
        f"{question}{text}".encode()
    except UnicodeEncodeError as error:
        raise UnusableError("unsafe_characters", "half of a surrogate pair") from error
    faults = lint(text, form=reading.form)
    if reading.is_lenient and kind != "open" and reading.form is None:
        faults = [fault for fault in faults if not fault.startswith(("invisible", "white space"))]
    if not faults:
        return
    if faults[0].startswith("invisible"):
        raise UnusableError("unsafe_characters", faults[0])
    is_empty = faults == ["the thoughts are empty"]
    if is_empty and reading.keeps_empty_thoughts:
        return
    raise UnusableError("no_thoughts" if is_empty else "unparseable", "; ".join(faults))
