"""A set of traces to be audited: an artifact, or files, which are imported into a folder first."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from factory.core.artifacts import Artifact, Inputs
from factory.core.context import Context
from factory.core.data_file import DataFile
from factory.core.errors import DataError
from factory.core.jsonl import read_records
from factory.core.machine import Machine
from factory.core.records import Trace
from factory.core.stored import StoredRecords
from factory.problems.trace_source import LocalExamples
from factory.reading.candidates import Dropped
from factory.stages.imported import ImportedConfig, run

SHOWN = 20
"""Dropped texts of each reason that are shown: the first."""


@dataclass(frozen=True)
class TraceSet:
    """Traces, and what is known of those that are not among them."""

    name: str
    traces: StoredRecords[Trace]
    licences: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    """Texts that the import left out, by reason."""
    examples: dict[str, tuple[Dropped, ...]] = field(default_factory=dict)


def of_artifact(artifact: Artifact) -> TraceSet:
    """A traces artifact; of an imported one also what was dropped."""
    files = artifact.manifest.files
    traces = artifact.stored_traces()
    licence = str(artifact.manifest.config.get("licence") or "")
    licences = {licence: len(traces)} if licence else {}
    if "sources.json" in files:
        stated = json.loads(artifact.file("sources.json").read_text(encoding="utf-8"))
        licences = _named(stated["licences"])
    if artifact.manifest.stage != "imported" or "dropped.jsonl" not in files:
        return TraceSet(artifact.name, traces, licences)
    counts, examples = _dropped(artifact.file("dropped.jsonl"))
    return TraceSet(artifact.name, traces, licences, counts, examples)


def of_files(path: str, folder: Path, notify: Callable[[str], None]) -> TraceSet:
    """Files read as an `imported` stage reads them, nothing refused; its traces lie in `folder`.

    DataError where they cannot be read at all.
    """
    config = ImportedConfig(
        kind="imported", source=LocalExamples(path=DataFile(path)), max_refused_share=1.0
    )
    try:
        run(config, Inputs(), folder, Context(0, Machine(), folder))
    except DataError as error:
        # A set of which nothing is left is what an audit is to explain.
        if not (folder / "dropped.jsonl").exists():
            raise
        notify(str(error).partition("\n")[0])
    name = Path(path).name
    traces = StoredRecords(folder / "traces.jsonl", Trace)
    counts: Counter[str] = Counter()
    examples: dict[str, tuple[Dropped, ...]] = {}
    if (folder / "dropped.jsonl").exists():
        counts, examples = _dropped(folder / "dropped.jsonl")
    sources = folder / "sources.json"
    stated = json.loads(sources.read_text(encoding="utf-8"))["licences"] if sources.exists() else {}
    return TraceSet(name, traces, _named(stated), counts, examples)


def _named(licences: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in licences.items() if name}


def _dropped(path: Path) -> tuple[Counter[str], dict[str, tuple[Dropped, ...]]]:
    counts: Counter[str] = Counter()
    examples: dict[str, list[Dropped]] = {}
    for row in read_records(path, Dropped):
        counts[row.reason] += 1
        if counts[row.reason] <= SHOWN:
            examples.setdefault(row.reason, []).append(row)
    return counts, {reason: tuple(rows) for reason, rows in examples.items()}
