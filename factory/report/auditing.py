"""An audit of traces -> one page that loads nothing."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from factory.auditing.audit import Audit
from factory.auditing.faults import FAULTS
from factory.core.blocks import (
    Bar,
    Block,
    Bullets,
    Cell,
    Fold,
    Sample,
    Samples,
    Section,
    Table,
    Text,
)
from factory.core.readable import count, percent, plural
from factory.core.records import Trace
from factory.core.stored import StoredRecords
from factory.reading.candidates import Dropped
from factory.report import html

MOST_TOPICS = 20


def audit_page(
    audit: Audit,
    traces: StoredRecords[Trace],
    dropped: Mapping[str, Sequence[Dropped]] = MappingProxyType({}),
) -> str:
    """The whole page; texts of samples are read from the traces. `dropped` are examples of what is
    not among them, by reason."""
    facts = f"{plural(audit.rows, 'trace')} · {plural(audit.problems, 'different question')}"
    lead = f"{count(audit.clean)} of {count(audit.rows)} traces have no fault{_share(audit)}."
    sections = [
        ("faults", _faults(audit)),
        ("lengths", _lengths(audit)),
        ("benchmarks", _benchmarks(audit)),
        ("origin", _origin(audit)),
        ("samples", _samples(audit, traces, dropped)),
    ]
    return html.page(audit.name, lead, facts, sections, kind="Trace audit")


def _share(audit: Audit) -> str:
    return f" ({percent(audit.clean / audit.rows)})" if audit.rows else ""


def _faults(audit: Audit) -> Section:
    rows = [
        (
            Cell(name.replace("_", " "), note=words),
            count(audit.faults[name]),
            percent(audit.faults[name] / (audit.rows or 1)),
            Cell(bar=_bar(audit.faults[name], audit.rows)),
        )
        for name, words in FAULTS.items()
        if audit.faults[name]
    ]
    blocks: list[Block] = [Text("No trace has a fault that is looked for.", "strong")]
    if rows:
        blocks = [
            Text("A trace may have several faults."),
            Table(("fault", "traces", "share", ""), tuple(rows), numbers=(1, 2), label="Faults"),
        ]
    absent = [name.replace("_", " ") for name in FAULTS if not audit.faults[name]]
    if absent and rows:
        blocks.append(Text(f"No trace: {', '.join(absent)}.", "dim"))
    if audit.dropped:
        read = audit.rows + sum(audit.dropped.values())
        text = f"Left out of the {count(read)} texts that were read, and not among the traces:"
        named = {reason.replace("_", " "): n for reason, n in audit.dropped.items()}
        blocks += [Text(text), _counted("reason", named, read)]
    blocks += [Text("As they were graded:"), _counted("outcome", audit.outcomes, audit.rows)]
    return Section("Faults", tuple(blocks))


def _lengths(audit: Audit) -> Section:
    lengths = audit.lengths
    if not lengths.rows:
        return Section("Lengths", (Text("No trace has both thoughts and an answer."),))
    quantiles = tuple(
        (_quantile(float(at)), count(value)) for at, value in lengths.quantiles.items()
    )
    longer = tuple(
        (
            count(int(limit)),
            count(number),
            percent(number / lengths.rows),
            Cell(bar=_bar(number, lengths.rows)),
        )
        for limit, number in lengths.longer_than.items()
        if number
    )
    blocks: list[Block] = [
        Text(
            f"In {lengths.unit}, of {plural(lengths.rows, 'row')} with thoughts and answer"
            + ("." if lengths.unit == "characters" else ", question and end included.")
        )
    ]
    if lengths.context is not None:
        cut = audit.faults["too_long"]
        blocks.append(
            Text(
                f"A context of {count(lengths.context)} {lengths.unit} leaves out {count(cut)} "
                f"({percent(cut / lengths.rows)}).",
                "strong",
            )
        )
    blocks += [
        Table(("share of the traces", lengths.unit), quantiles, numbers=(1,)),
    ]
    if longer:
        header = (f"longer than, {lengths.unit}", "traces", "share", "")
        blocks.append(Table(header, longer, numbers=(0, 1, 2)))
    return Section("Lengths", tuple(blocks))


def _quantile(share: float) -> str:
    names = {0.0: "shortest", 0.5: "half have at most", 1.0: "longest"}
    return names.get(share, f"{percent(share, 0)} have at most")


def _benchmarks(audit: Audit) -> Section:
    blocks: list[Block] = [Text("No trace overlaps with a question of a benchmark.")]
    if audit.benchmarks:
        blocks = [
            Text(
                "Traces whose question is a benchmark's or shares 8 words in a row with it, or "
                "whose text holds 13 words of it, numbers masked too. A phrase of three "
                "questions or more does not count, and a paraphrase is missed."
            ),
            _counted("benchmark", audit.benchmarks, audit.rows),
        ]
    if audit.unseen_benchmarks:
        blocks += [Text("Not compared with:"), Bullets(audit.unseen_benchmarks)]
    return Section("Benchmarks", tuple(blocks))


def _origin(audit: Audit) -> Section:
    topics = dict(list(audit.topics.items())[:MOST_TOPICS])
    blocks: list[Block] = [_counted("topic or source", topics, audit.rows)]
    if len(audit.topics) > MOST_TOPICS:
        blocks.append(Text(f"And {len(audit.topics) - MOST_TOPICS} more.", "dim"))
    unknown = "No licence is recorded with these traces."
    licences = _counted("licence", audit.licences, audit.rows)
    blocks.append(licences if audit.licences else Text(unknown, "worse"))
    return Section("Origin and licences", tuple(blocks))


def _counted(title: str, counts: Mapping[str, int], total: int) -> Table:
    rows = tuple(
        (
            name,
            count(number),
            percent(number / (total or 1)),
            Cell(bar=_bar(number, total)),
        )
        for name, number in counts.items()
    )
    return Table((title, "traces", "share", ""), rows, numbers=(1, 2))


def _bar(number: int, total: int) -> Bar:
    return Bar((("dropped", float(number)),), f"{number} of {total}", float(total or 1))


def _samples(
    audit: Audit, traces: StoredRecords[Trace], dropped: Mapping[str, Sequence[Dropped]]
) -> Section:
    return Section("Samples", (*_folds(audit, traces), *_left_out(audit, dropped)))


def _left_out(audit: Audit, dropped: Mapping[str, Sequence[Dropped]]) -> Iterator[Block]:
    for reason, rows in dropped.items():
        cells = tuple((f"{row.file}:{row.row}", row.detail, row.text) for row in rows)
        title = f"left out, {reason.replace('_', ' ')}: {len(rows)} of {audit.dropped[reason]}"
        yield Fold(title, (Table(("row", "what is wrong", "how it begins"), cells),))


def _asked(trace: Trace) -> Trace:
    """The trace with its bare question as prompt."""
    return trace.model_copy(update={"prompt": trace.question})


def _folds(audit: Audit, traces: StoredRecords[Trace]) -> Iterator[Block]:
    for name, examples in audit.examples.items():
        if not examples:
            continue
        samples = tuple(
            Sample.of(
                f"trace {example.index + 1}" + (f": like {example.like}" if example.like else ""),
                _asked(traces[example.index]),
            )
            for example in examples
        )
        words = name.replace("_", " ")
        title = f"{words}: {count(len(samples))} of {count(audit.faults[name])}"
        yield Fold(title, (Samples(samples),))
