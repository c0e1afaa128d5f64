"""Texts that others wrote, as traces: what the stages `imported` and `written` share.

Every text of a row is split into thoughts and answer, graded again where there is a reference,
and kept, or dropped with its reason: candidates = kept + dropped. Nothing is held in memory.
"""

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from factory.core.artifacts import Artifact
from factory.core.context import Context, Metrics
from factory.core.errors import DataError, Unpriced
from factory.core.jsonl import read_records
from factory.core.parallel import in_order
from factory.core.records import (
    AddedLater,
    Problem,
    ProblemKind,
    SamplingConfig,
    Trace,
)
from factory.cost.flows import WRITTEN_CHARACTERS, Answers
from factory.grading import GradingPool
from factory.problems.sizes import QUESTION_CHARACTERS, lines
from factory.problems.splits import as_written, own_key, question_key
from factory.problems.trace_source import (
    TRACE_SOURCES,
    TraceSource,
    TraceSourceConfig,
    WorkedExample,
)
from factory.reading.candidates import (
    LEFT_OUT,
    Candidate,
    Dropped,
    Reading,
    candidates,
)
from factory.reading.columns import ColumnMap, Columns, KindsByColumn
from factory.reading.files import RawRow
from factory.reading.survey import FIRST_ROWS, ReadingSettings, Survey, survey
from factory.stages.regrading import Graded, graded
from factory.stages.stage import StageConfig
from factory.text.chat import OutputForm, canonical_text

BATCH = 512
"""Rows that are read, or examples of a plug-in that are graded, together."""
BLOCK_BYTES = 2**20
"""Of the rows that a process reads, and that are graded, together."""
PARSED_BYTES = 2**15
"""Counted for a row whose length is not known."""
COUNT_BITS = 24
"""For the number of a question's texts."""
LOOK_AFTER = 200
"""Rows after which a share of refused texts beyond all doubt stops the stage."""
BEYOND_DOUBT = 0.5
EXAMPLES = 3
"""Of each reason, in the report and in errors."""
PACKED = {".gz": 3.0, ".zst": 3.5, ".parquet": 2.5}
"""How much text a packed byte holds; assumed."""
IMPORTED_TOKENS = 3000.0
"""Of a text of a hub data set; assumed."""


class TextsConfig(StageConfig):
    """How texts that others wrote become traces."""

    preset: Annotated[str, AddedLater()] = "auto"
    """A published set's name (see docs/traces.md); `auto` takes the one whose columns the file has,
    else what the columns are called. `factory plan` shows what it takes."""
    columns: Annotated[Columns | None, AddedLater()] = None
    """The column of each part of a row, instead of a preset's."""
    kinds: Annotated[ProblemKind | KindsByColumn | None, AddedLater()] = None
    """Kind of all problems, or by a column: `{column: domain, values: {science: open}}`. None: the
    preset's, else `math` where answers state a value and `open` for the rest."""
    marks: Annotated[tuple[str, str] | None, AddedLater()] = None
    """What stands around the thoughts; None takes the pair that most texts have."""
    form: Annotated[OutputForm | None, AddedLater()] = None
    """The student's output form (`prompt.form` of sft): texts that it cannot hold are dropped here.
    None: the four tags."""
    max_refused_share: Annotated[float, AddedLater()] = Field(default=0.05, ge=0, le=1)
    """Share of texts that may be refused before the stage stops; ours. What is left out on purpose
    does not count."""
    max_per_question: Annotated[int | None, AddedLater()] = Field(default=None, ge=1, le=10**6)
    """Further texts of a question are left out (`over_quota`)."""
    max_characters: Annotated[int | None, AddedLater()] = Field(default=None, ge=1, le=10**9)
    """Longer texts, thoughts and answer together, are left out (`too_long`)."""
    unreferenced: Annotated[Literal["keep", "drop"], AddedLater()] = "keep"
    """`keep` takes texts without a usable reference as published, with the verdict `ungradable`."""
    licence: Annotated[str, AddedLater()] = ""
    """Of the texts, as the hub writes it; those in recipes/data/ are under this repository's."""


class Policy(NamedTuple):
    """What the two kinds of stage have of their own."""

    source: TraceSourceConfig
    label: str
    topic: str
    keeps_empty_thoughts: bool
    is_lenient: bool
    unlisted: tuple[str, ...] = ()
    """Reasons that dropped.jsonl leaves out."""
    tells_apart: bool = False
    """Questions that case or the forms of characters part are different ones, as 2² and 22."""


@dataclass
class Tally:
    """Counts of what became of the texts, with the first of each reason."""

    bound: float
    label: str
    counts: Counter[str] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Dropped]] = field(default_factory=dict)
    kept: int = 0
    differing: int = 0
    """Published as right and found to be wrong."""

    def keep(self, text: Graded, licence: str) -> None:
        self.kept += 1
        self.licences[text.candidate.licence or licence] += 1

    def drop(self, dropped: Dropped) -> None:
        self.counts[dropped.reason] += 1
        self.differing += dropped.was_flagged_right
        examples = self.examples.setdefault(dropped.reason, [])
        if len(examples) < EXAMPLES:
            examples.append(dropped)

    @property
    def refused(self) -> int:
        return sum(n for reason, n in self.counts.items() if reason not in LEFT_OUT)

    @property
    def candidates(self) -> int:
        return self.kept + sum(self.counts.values())

    def check(self, share: float) -> None:
        """DataError where a larger share than this is refused."""
        if self.refused <= share * self.candidates:
            return
        raise DataError(
            f"{self.label}: {self.refused} of {self.candidates} texts are refused, more than "
            f"max_refused_share {self.bound:g} allows: {self.summary()}"
        )

    def summary(self) -> str:
        """Every reason with its count, then the first texts of each reason that is a fault."""
        counted = ", ".join(f"{n} {reason}" for reason, n in self.counts.most_common())
        shown = [
            f"  {example.file}:{example.row}: {example.reason}: {example.detail or example.text}"
            for reason, examples in self.examples.items()
            if reason not in LEFT_OUT
            for example in examples
        ]
        return "\n".join([counted or "there are none", *shown])


def settings_of(config: TextsConfig, policy: Policy) -> ReadingSettings:
    return ReadingSettings(
        preset=config.preset,
        columns=config.columns,
        kinds=config.kinds,
        marks=config.marks,
        form=config.form,
        topic=policy.topic,
        empty_thoughts="keep" if policy.keeps_empty_thoughts else "drop",
        is_lenient=policy.is_lenient,
    )


def surveys(config: TextsConfig, policy: Policy) -> list[Survey]:
    """How each file is read; empty for a plug-in's source, which gives worked examples."""
    tables = TRACE_SOURCES[policy.source.type].tables
    if tables is None:
        return []
    settings = settings_of(config, policy)
    return [survey(table, settings) for table in tables(policy.source)]


def metrics_of(tally: Tally) -> Metrics:
    rejected = {f"rejected.{reason}": float(n) for reason, n in sorted(tally.counts.items())}
    return {
        "traces": float(tally.kept),
        "kept": float(tally.kept),
        "candidates": float(tally.candidates),
        "flags_differ": float(tally.differing),
        **rejected,
    }


def held_out_keys(problems: Iterable[Artifact]) -> set[str]:
    """Keys of the questions that may not be learned from."""
    return {
        question_key(problem.prompt)
        for artifact in problems
        for problem in read_records(artifact.file("held_out.jsonl"), Problem)
    }


def write_traces(
    config: TextsConfig, policy: Policy, held_out: set[str], out: Path, context: Context
) -> tuple[Tally, list[Survey]]:
    """Read, grade and write; DataError where too much is refused or nothing is left."""
    tally = Tally(config.max_refused_share, policy.label)
    read = surveys(config, policy)
    row = TRACE_SOURCES[policy.source.type]
    processes = context.machine.thread_count()
    worked = row.tables is None
    source = _batches(_worked(row, policy), BATCH) if worked else _rows(read, processes)
    seen = Seen(config, held_out, tells_apart=policy.tells_apart)
    with ExitStack() as stack:
        traces = stack.enter_context((out / "traces.jsonl").open("w", encoding="utf-8"))
        dropped = stack.enter_context(LateFile(out / "dropped.jsonl"))
        pool = stack.enter_context(GradingPool(processes))
        for batch in source:
            for item in _judged(batch, seen, pool, config, policy):
                if isinstance(item, Dropped):
                    tally.drop(item)
                    if item.reason not in policy.unlisted:
                        dropped.write(item.model_dump_json() + "\n")
                else:
                    text, key = item
                    tally.keep(text, config.licence)
                    trace = _trace(text, key, seen.sample_of(key), config.form)
                    traces.write(trace.model_dump_json() + "\n")
            context.progress(tally.candidates, None, unit="texts")
            if tally.candidates >= LOOK_AFTER:
                tally.check(max(config.max_refused_share, BEYOND_DOUBT))
    tally.check(config.max_refused_share)
    if not tally.kept:
        raise DataError(
            f"{policy.label}: none of {tally.candidates} examples is left to learn from: "
            f"{tally.summary()}"
        )
    return tally, read


class LateFile:
    """A text file that is there only if something is written to it."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, None

    def write(self, text: str) -> None:
        if self._file is None:
            self._file = self._path.open("w", encoding="utf-8")
        self._file.write(text)

    def __enter__(self) -> "LateFile":
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()


class Hashes:
    """A set of 64-bit hashes, 12 to 24 bytes each: open addressing with linear probes."""

    def __init__(self) -> None:
        self._table, self._count = array("Q", bytes(2**13)), 0

    def add(self, value: int) -> bool:
        """Whether it is new."""
        table, mask = self._table, len(self._table) - 1
        value = value or 1  # 0 is an empty place
        at = value & mask
        while table[at]:
            if table[at] == value:
                return False
            at = (at + 1) & mask
        table[at] = value
        self._count += 1
        if 3 * self._count > 2 * len(table):
            self._table, self._count = array("Q", bytes(16 * len(table))), 0
            for other in filter(None, table):
                self.add(other)
        return True


class Seen:
    """Questions and texts that came before, by hashes of 64 bits."""

    def __init__(self, config: TextsConfig, held_out: set[str], *, tells_apart: bool) -> None:
        self._quota, self._tells_apart = config.max_per_question, tells_apart
        self._held_out = held_out
        self._texts = Hashes()
        self._questions: dict[int, int] = {}
        """By the hash of its key: 40 bits of the first such question as it is written, behind them
        its number of texts."""

    def key_of(self, question: str) -> str:
        """What its texts are counted by: `question_key`; of a question that only case or the forms
        of characters part from an earlier one, a key of its own."""
        key = question_key(question)
        if not self._tells_apart or key in self._held_out:
            return key
        exact = as_written(question).encode("utf-8", "surrogatepass")
        bits = int.from_bytes(blake2b(exact, digest_size=5).digest(), "big")
        first = self._questions.setdefault(_short(key), bits << COUNT_BITS)
        return key if first >> COUNT_BITS == bits else own_key(question)

    def objection(self, candidate: Candidate, key: str) -> str:
        """Why a text is left out before anybody grades it; empty where nothing is against it."""
        if key in self._held_out:
            return "held_out"
        digest = blake2b(digest_size=8)
        for part in (key, candidate.reasoning, candidate.answer, candidate.summary or ""):
            digest.update(part.encode("utf-8") + b"\0")
        return "" if self._texts.add(int.from_bytes(digest.digest(), "big")) else "repeated"

    def is_full(self, key: str) -> bool:
        return self._quota is not None and self._count(key) >= self._quota

    def sample_of(self, key: str) -> int:
        """The number of this text among those of its question."""
        number = self._count(key)
        self._questions[_short(key)] = self._questions.get(_short(key), 0) + 1
        return number

    def _count(self, key: str) -> int:
        return self._questions.get(_short(key), 0) & (2**COUNT_BITS - 1)


def _short(key: str) -> int:
    return int(key[:16], 16)


def _batches(
    items: Iterator[Candidate | Dropped], size: int
) -> Iterator[list[Candidate | Dropped]]:
    while batch := list(islice(items, size)):
        yield batch


def _rows(read: list[Survey], processes: int) -> Iterator[list[Candidate | Dropped]]:
    """What the rows of all files hold, in order, a block of rows at once."""

    def held(block: tuple[int, list[RawRow]]) -> list[Candidate | Dropped]:
        part, rows = block
        return [item for row in rows for item in candidates(row, read[part].reading)]

    return in_order(held, _blocks(read), processes)


def _blocks(read: list[Survey]) -> Iterator[tuple[int, list[RawRow]]]:
    """(number of the file, rows of it) of BATCH rows or about BLOCK_BYTES."""
    for number, part in enumerate(read):
        block: list[RawRow] = []
        size = 0
        for row in part.table.rows(part.reading.columns.top_level()):
            block.append(row)
            size += len(row.line) or PARSED_BYTES
            if size >= BLOCK_BYTES or len(block) == BATCH:
                yield number, block
                block, size = [], 0
        yield number, block


def _worked(row: TraceSource, policy: Policy) -> Iterator[Candidate | Dropped]:
    """Worked examples of a plug-in, read as rows of a file that has these columns."""
    columns = Columns(
        question=("question",), reasoning="reasoning", answer="answer", reference="reference",
        kind="kind", topic="topic",
    )  # fmt: skip
    reading = Reading(
        ColumnMap(columns, "worked"), None, is_mathematics=True, topic=policy.topic,
        keeps_empty_thoughts=policy.keeps_empty_thoughts, is_lenient=policy.is_lenient,
    )  # fmt: skip
    for number, example in enumerate(row.examples(policy.source), start=1):
        fields = example.model_dump(include=set(WorkedExample.model_fields) - {"origin"})
        yield from candidates(RawRow(policy.label, number, fields), reading)


def _judged(
    batch: Iterable[Candidate | Dropped],
    seen: Seen,
    pool: GradingPool,
    config: TextsConfig,
    policy: Policy,
) -> Iterator[tuple[Graded, str] | Dropped]:
    """What becomes of each text, in order."""
    fates: list[Dropped | None] = []
    kept: list[Candidate] = []
    keys: list[str] = []
    for item in batch:
        if isinstance(item, Dropped):
            fates.append(item)
            continue
        key = seen.key_of(item.question)
        length = len(item.reasoning) + len(item.summary or item.answer)
        reason = seen.objection(item, key)
        if config.max_characters is not None and length > config.max_characters:
            reason = "too_long"
        fates.append(_left_out(item, reason))
        if not reason:
            kept.append(item)
            keys.append(key)
    verdicts = zip(graded(kept, pool, source=policy.source.type), keys, strict=True)
    for fate in fates:
        if fate is not None:
            yield fate
            continue
        item, key = next(verdicts)
        if isinstance(item, Dropped):
            yield item
        elif config.unreferenced == "drop" and item.verdict.outcome == "ungradable":
            yield item.candidate.dropped("no_reference")
        elif seen.is_full(key):
            yield item.candidate.dropped("over_quota")
        else:
            yield item, key


def _left_out(candidate: Candidate, reason: str) -> Dropped | None:
    return candidate.dropped(reason) if reason else None


def _trace(text: Graded, key: str, sample: int, form: OutputForm | None) -> Trace:
    item = text.candidate
    return Trace(
        problem_id=f"{item.topic}-{key[:12]}",
        sample=sample,
        question=item.question,
        prompt=item.question,
        completion=canonical_text(item.reasoning, item.answer, item.summary, form),
        reasoning=item.reasoning,
        answer=item.answer,
        summary=item.summary,
        finish_reason="stop",
        completion_tokens=0,
        seed=0,
        sampling=SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=1),
        style="written",
        model="",
        verdict=text.verdict,
    )


def texts_of(config: TextsConfig, policy: Policy) -> Answers:
    """How many texts a source holds, by the size of its files and the length of the first rows."""
    row = TRACE_SOURCES[policy.source.type]
    if row.size is not None:
        number = row.size(policy.source)
        return Answers(number, number, QUESTION_CHARACTERS, IMPORTED_TOKENS)
    files = row.files(policy.source)
    if not files:
        raise Unpriced(f"{policy.label} states neither size nor files")
    if row.tables is None:
        number = sum(map(lines, files))
        return Answers(number, number, QUESTION_CHARACTERS, IMPORTED_TOKENS)
    rows, texts, characters, questions = 0.0, 0.0, 0.0, 0.0
    for part, file in zip(surveys(config, policy), files, strict=True):
        items = [i for raw in part.rows for i in candidates(raw, part.reading)]
        usable = [item for item in items if isinstance(item, Candidate)]
        if not usable:
            continue
        read = sum(len(json.dumps(raw.fields, ensure_ascii=False)) for raw in part.rows)
        number = float(len(part.rows))
        if len(part.rows) >= FIRST_ROWS:
            characters_of_file = file.stat().st_size * PACKED.get(file.suffix, 1.0)
            number = max(number, number * characters_of_file / read)
        share = number / len(part.rows)
        rows += number
        texts += share * len(usable)
        characters += share * sum(len(i.reasoning) + len(i.summary or i.answer) for i in usable)
        questions += share * sum(len(i.question) for i in usable)
    if not texts:
        raise Unpriced(f"{policy.label}: none of the first rows holds a usable text")
    return Answers(texts, rows, questions / texts, characters / texts / WRITTEN_CHARACTERS)
