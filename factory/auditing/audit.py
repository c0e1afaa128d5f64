"""A set of traces looked through: in bounded memory, with all processors."""

import os
import random
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from factory.auditing.faults import FAULTS, faults
from factory.core.errors import FactoryError
from factory.core.parallel import in_order
from factory.core.records import Record, Trace
from factory.core.stored import StoredRecords
from factory.problems.benchmark import BENCHMARKS, benchmark_problems
from factory.problems.equal import Digests
from factory.problems.overlap import HeldOut
from factory.problems.similar import near_duplicates
from factory.problems.splits import question_key
from factory.text.chat import PromptConfig
from factory.text.templates import open_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 256
"""Traces that a process looks through at once."""
SAMPLES = 20
"""Traces of each fault that are shown, drawn at random."""
LIMITS = (1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
QUANTILES = (0.0, 0.1, 0.5, 0.9, 0.99, 1.0)
NAMES = tuple(FAULTS)
Progress = Callable[[int, int], None]
"""Traces looked through so far, and all."""


class Settings(Record):
    """What is looked for."""

    student: str = ""
    """Folder of the model by whose tokenizer lengths are counted; none: lengths in characters."""
    context: int | None = None
    """Tokens a trace may have; None: as many as the student reads."""
    near_duplicates: float = Field(default=0.8, gt=0, le=1)
    """Likeness from which two texts are nearly the same, as `mix` measures it."""
    processes: int = Field(default=1, ge=1)


class Lengths(Record):
    """How long the rows of training are."""

    unit: str
    """tokens or characters."""
    rows: int
    """Those that can be trained on."""
    quantiles: dict[str, int]
    longer_than: dict[str, int]
    """Rows longer than a limit."""
    context: int | None = None
    """Tokens that the student reads."""


class Example(Record):
    """A trace that has a fault."""

    problem_id: str
    sample: int
    index: int
    """Where it stands in the set, from 0."""
    like: str = ""
    """What it overlaps with."""


class Audit(Record):
    """What a set of traces holds."""

    schema_version: int = 1
    name: str
    rows: int
    clean: int
    """Rows without any fault."""
    faults: dict[str, int]
    """Rows with each fault, by its name; a row may have several."""
    dropped: dict[str, int] = Field(default_factory=dict)
    """What is not among the rows, by reason: where a file was read."""
    outcomes: dict[str, int]
    benchmarks: dict[str, int]
    """Rows that overlap with each benchmark."""
    unseen_benchmarks: tuple[str, ...]
    """Benchmarks that were not compared with, and why."""
    topics: dict[str, int]
    licences: dict[str, int]
    problems: int
    """Different questions."""
    lengths: Lengths
    examples: dict[str, tuple[Example, ...]]
    settings: Settings


@dataclass(frozen=True)
class _Seen:
    """What a process found of one trace."""

    marks: int
    """Bits of NAMES."""
    digest: bytes
    question: bytes
    length: int
    outcome: str
    topic: str
    overlaps: tuple[str, ...]
    """benchmark/problem, each once."""


def audit(
    name: str,
    traces: StoredRecords[Trace],
    settings: Settings,
    *,
    folder: Path,
    licences: Mapping[str, int] | None = None,
    dropped: Mapping[str, int] | None = None,
    progress: Progress = lambda done, total: None,
) -> Audit:
    """Look through all traces twice; `folder` takes files of some hundred bytes a trace meanwhile.

    What each trace is by itself first, then which are nearly the same.
    """
    index, unseen = _benchmarks()
    tokenizer, context = _student(settings)
    look = partial(_looked, traces, index, tokenizer)
    chunks = [range(at, min(at + CHUNK, len(traces))) for at in range(0, len(traces), CHUNK)]
    marks, lengths = array("I"), array("Q")
    texts, questions = Digests(), Digests()
    counts = {part: Counter[str]() for part in ("outcomes", "topics", "benchmarks")}
    like: dict[int, str] = {}
    for seen in in_order(look, chunks, settings.processes):
        for row in seen:
            too_long = context is not None and row.length > context
            marks.append(row.marks | (too_long << NAMES.index("too_long")))
            lengths.append(row.length)
            texts.append(row.digest)
            questions.append(row.question)
            counts["outcomes"][row.outcome] += 1
            counts["topics"][row.topic] += 1
            counts["benchmarks"].update({entry.partition("/")[0] for entry in row.overlaps})
            if row.overlaps:
                like[len(marks) - 1] = ", ".join(row.overlaps)
        progress(len(marks), len(traces))
    like |= _mark_twins(traces, marks, texts, settings, folder)
    total = {name: sum(mark >> bit & 1 for mark in marks) for bit, name in enumerate(NAMES)}
    return Audit(
        name=name,
        rows=len(marks),
        clean=sum(mark == 0 for mark in marks),
        faults=total,
        dropped=dict(dropped or {}),
        outcomes=dict(sorted(counts["outcomes"].items())),
        benchmarks=dict(sorted(counts["benchmarks"].items())),
        unseen_benchmarks=unseen,
        topics=dict(counts["topics"].most_common()),
        licences=dict(licences or {}),
        problems=len(questions) - len(questions.repeated()),
        lengths=_lengths(lengths, context, "tokens" if tokenizer else "characters"),
        examples={
            name: _examples(traces, marks, bit, like) for bit, name in enumerate(NAMES)
        },
        settings=settings,
    )  # fmt: skip


def _looked(
    traces: StoredRecords[Trace],
    index: HeldOut,
    tokenizer: "PreTrainedTokenizerBase | None",
    places: range,
) -> list[_Seen]:
    """What the traces at these places are by themselves."""
    rows = [traces[at] for at in places]
    tokens = _tokens(rows, tokenizer) if tokenizer else [len(row.completion) for row in rows]
    return [_seen(row, index, length) for row, length in zip(rows, tokens, strict=True)]


def _seen(trace: Trace, index: HeldOut, length: int) -> _Seen:
    names = faults(trace)
    hit = index.question_hit(trace.question) or index.text_hit(trace.completion)
    overlaps: dict[str, None] = {}
    if hit:
        hits = (*index.question_hits(trace.question), *index.text_hits(trace.completion))
        overlaps = dict.fromkeys(hit.problem for hit in hits)
        names.append("contaminated")
    key = question_key(trace.question)
    return _Seen(
        marks=sum(1 << NAMES.index(name) for name in names),
        digest=Digests.of(key, trace.completion),
        question=Digests.of(key),
        length=length,
        outcome=trace.verdict.outcome,
        topic=trace.problem_id.rpartition("-")[0] or trace.problem_id,
        overlaps=tuple(overlaps),
    )


def _mark_twins(
    traces: StoredRecords[Trace],
    marks: "array[int]",
    texts: Digests,
    settings: Settings,
    folder: Path,
) -> dict[int, str]:
    """Mark what stands earlier already, the same or nearly; returns what each is like."""
    like: dict[int, str] = {}

    def mark(name: str, index: int, first: int) -> None:
        marks[index] |= 1 << NAMES.index(name)
        other = traces[first]
        like[index] = f"{other.problem_id}/{other.sample}"

    repeated: set[int] = set()
    for first, *others in texts.groups():
        for index in others:
            repeated.add(index)
            mark("duplicate", index, first)
    different = array("Q", (index for index in range(len(marks)) if index not in repeated))
    view = _Texts(traces, different)
    twins = near_duplicates(
        view, settings.near_duplicates, folder=folder, processes=settings.processes
    )
    for twin, first in twins.items():
        mark("near_duplicate", different[twin], different[first])
    return like


@dataclass(frozen=True)
class _Texts:
    """Question and text of the traces at some places."""

    traces: StoredRecords[Trace]
    places: Sequence[int]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> str:
        trace = self.traces[self.places[index]]
        return f"{trace.question}\n{trace.completion}"


def _examples(
    traces: StoredRecords[Trace], marks: "array[int]", bit: int, like: Mapping[int, str]
) -> tuple[Example, ...]:
    indices = [index for index, mark in enumerate(marks) if mark >> bit & 1]
    chosen = sorted(random.Random(bit).sample(indices, min(SAMPLES, len(indices))))
    explained = ("contaminated", "duplicate", "near_duplicate")
    return tuple(
        Example(
            problem_id=traces[index].problem_id, sample=traces[index].sample, index=index,
            like=like.get(index, "") if NAMES[bit] in explained else "",
        )
        for index in chosen
    )  # fmt: skip


def _benchmarks() -> tuple[HeldOut, tuple[str, ...]]:
    """The questions of all benchmarks there are, and why some are not there."""
    problems, unseen = [], []
    for name in BENCHMARKS.names():
        try:
            given = benchmark_problems(name)
        except FactoryError as error:
            unseen.append(f"{name}: {error}")
            continue
        problems += [p.model_copy(update={"id": f"{name}/{p.id}"}) for p in given]
    return HeldOut(problems), tuple(unseen)


def _student(settings: Settings) -> "tuple[PreTrainedTokenizerBase | None, int | None]":
    if not settings.student:
        return None, settings.context
    from transformers import AutoConfig

    folder = Path(settings.student)
    tokenizer: Any = open_tokenizer(folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    own = getattr(config, "max_position_embeddings", None)
    return tokenizer, min(filter(None, (own, settings.context)), default=None)


def _tokens(traces: Sequence[Trace], tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Tokens of each trace as a row of training; 0 for one without thoughts or answer."""
    from factory.trainers.rows import token_rows

    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # this is one of several processes
    prompt = PromptConfig() if tokenizer.chat_template else PromptConfig(style="zero")
    is_row = [trace.reasoning is not None and trace.answer is not None for trace in traces]
    usable = [trace for trace, usable in zip(traces, is_row, strict=True) if usable]
    rows = iter(token_rows(usable, prompt, tokenizer) if usable else ())
    return [next(rows).tokens if usable else 0 for usable in is_row]


def _lengths(lengths: "array[int]", context: int | None, unit: str) -> Lengths:
    ordered = sorted(filter(None, lengths))
    last = max(0, len(ordered) - 1)
    return Lengths(
        unit=unit,
        rows=len(ordered),
        quantiles={f"{q:g}": ordered[round(q * last)] for q in QUANTILES} if ordered else {},
        longer_than={str(limit): sum(n > limit for n in ordered) for limit in LIMITS},
        context=context,
    )
