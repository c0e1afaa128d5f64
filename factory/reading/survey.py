"""How the files of a source are read: the first rows of each decide, and are shown by the plan."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from factory.core.errors import DataError
from factory.core.readable import clip, count, percent
from factory.reading.candidates import Candidate, Reading, candidates
from factory.reading.columns import (
    ColumnMap,
    Columns,
    KindsByColumn,
    as_line,
    field_of,
    is_messages,
    mapping_of,
    of_turn,
    text_of,
)
from factory.reading.files import RawRow
from factory.reading.thoughts import Marks, marks_of, split_thoughts, states_value
from factory.text.chat import OutputForm

FIRST_ROWS = 200
"""Of each file: what is guessed is guessed from these."""
NEARLY_ALL = 0.9
"""Share of answers with a value from which a text without one is at fault."""
EXAMPLE = 80
"""Characters of an example that the plan shows."""


@dataclass(frozen=True)
class TableOfRows:
    """One file of a source, or a data set."""

    name: str
    rows: Callable[[Sequence[str] | None], Iterator[RawRow]]
    """Its rows, which may be unparsed; of these columns alone, or of all."""
    hub_id: str = ""


@dataclass(frozen=True)
class ReadingSettings:
    """What a recipe says of how its rows are read."""

    preset: str = "auto"
    columns: Columns | None = None
    kinds: KindsByColumn | str | None = None
    marks: tuple[str, str] | None = None
    form: OutputForm | None = None
    topic: str = "imported"
    empty_thoughts: Literal["keep", "drop"] = "drop"
    is_lenient: bool = False


@dataclass(frozen=True)
class Survey:
    """The first rows of a file and how they are read."""

    table: TableOfRows
    rows: Sequence[RawRow]
    reading: Reading

    def lines(self) -> list[str]:
        """What a plan says of it: each role with its column and an example, and the shares."""
        reading, mapping = self.reading, self.reading.columns
        first = next((row.fields for row in self.rows if row.fields is not None), {})
        lines = [f"{self.table.name}: {mapping.preset}; {as_line(mapping.columns)}"]
        for role, names in mapping.columns.named().items():
            value = field_of(first, names[0])
            shown, cut = clip(" ".join(str(value)[: 4 * EXAMPLE].split()), EXAMPLE)
            example = f"{shown}{'…' * bool(cut)}"
            lines.append(f"  {role}: {', '.join(names)} ({mapping.why.get(role, '')}): {example}")
        if reading.marks is not None:
            opened = ", opened by the prompt" if reading.marks.is_opened else ""
            lines.append(f"  thoughts: {reading.marks.opening} {reading.marks.closing}{opened}")
        if reading.system is not None:
            lines.append(f"  system: cut, the same in all rows: {reading.system[:EXAMPLE]!r}")
        shares = Counter[str]()
        for row in self.rows:
            for item in candidates(row, reading):
                shares["usable" if isinstance(item, Candidate) else item.reason] += 1
        total = sum(shares.values())
        shown = ", ".join(f"{name} {percent(n / total)}" for name, n in shares.most_common())
        lines.append(f"  first {count(len(self.rows))} rows: {shown or 'none'}")
        if mapping.licence or mapping.note:
            notes = [f"licence {mapping.licence}"] if mapping.licence else []
            lines.append(f"  {'; '.join([*notes, *filter(None, [mapping.note])])}")
        return [line.encode("utf-8", "replace").decode("utf-8") for line in lines]


def survey(table: TableOfRows, settings: ReadingSettings) -> Survey:
    """DataError where it is not clear how a file is read; see `mapping_of`."""
    rows = [row.parsed() for row in islice(table.rows(None), FIRST_ROWS)]
    fields = [row.fields for row in rows if row.fields is not None]
    if not fields:
        first = f": {rows[0].where}: {rows[0].fault}" if rows else ""
        raise DataError(f"{table.name}: holds no row that can be read{first}")
    mapping = mapping_of(
        fields, table.name, columns=settings.columns, preset=settings.preset, hub_id=table.hub_id
    )
    if settings.kinds is not None:
        mapping = _with_kinds(mapping, settings.kinds)
    texts = [text for row in fields for text in _completions(row, mapping.columns)]
    marks = Marks(*settings.marks) if settings.marks else marks_of(texts)
    thoughts_apart = mapping.columns.reasoning is not None
    rests = texts if marks is None or thoughts_apart else list(_rests(texts, marks))
    values = sum(map(states_value, rests))
    reading = Reading(
        columns=mapping,
        marks=marks,
        is_mathematics=bool(rests) and values >= NEARLY_ALL * len(rests),
        system=_system(fields, mapping.columns),
        form=settings.form,
        topic=settings.topic,
        keeps_empty_thoughts=settings.empty_thoughts == "keep",
        is_lenient=settings.is_lenient,
    )
    return Survey(table, rows, reading)


def _with_kinds(mapping: ColumnMap, kinds: KindsByColumn | str) -> ColumnMap:
    return ColumnMap(
        mapping.columns, mapping.preset, kinds, mapping.licence, mapping.note, mapping.why
    )


def _rests(texts: Sequence[str], marks: Marks) -> Iterator[str]:
    for text in texts:
        try:
            yield split_thoughts(text, marks)[1]
        except ValueError:
            continue


def _completions(fields: dict[str, Any], columns: Columns) -> list[str]:
    """The texts of a row in which thoughts may be marked, or answers stand."""
    name = columns.messages or columns.completion or columns.answer
    value = field_of(fields, name) if name else None
    if is_messages(value):
        content = of_turn(value[-1], "content", "value")
        if isinstance(content, list):
            content = "".join(str(p.get("text") or "") for p in content if isinstance(p, dict))
        return [content] if isinstance(content, str) else []
    values = value if isinstance(value, list) else [value]
    return [text for text in map(text_of, values) if text]


def _system(fields: Sequence[dict[str, Any]], columns: Columns) -> str | None:
    """The system message that all of the rows have."""
    messages = {_own_system(row, columns) for row in fields}
    return messages.pop() if len(messages) == 1 else None


def _own_system(row: dict[str, Any], columns: Columns) -> str | None:
    if columns.system is not None:
        return text_of(field_of(row, columns.system))
    for name in (columns.messages, *columns.question):
        turns = field_of(row, name) if name else None
        if is_messages(turns) and of_turn(turns[0], "role", "from") == "system":
            return text_of(of_turn(turns[0], "content", "value"))
    return None
