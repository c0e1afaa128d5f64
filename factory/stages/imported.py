"""Stage `imported`: traces from data sets as people publish them, and from files of one's own."""

import json
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from factory.core.artifacts import Artifact, Inputs, sha256_file
from factory.core.context import Context, Metrics
from factory.core.records import (
    ProblemsRef,
    Record,
)
from factory.cost.context import CostContext, StageCost
from factory.cost.flows import Answers
from factory.cost.work import line_work
from factory.grading import GRADING_PACKAGES
from factory.problems.trace_source import (
    TRACE_SOURCES,
    AnyTraceSource,
)
from factory.reading.candidates import Reading
from factory.reading.files import at_rest
from factory.stages.fates import fates
from factory.stages.stage import Fields, Origin, Shows, light_stage, register
from factory.stages.texts import (
    Policy,
    TextsConfig,
    held_out_keys,
    metrics_of,
    surveys,
    texts_of,
    write_traces,
)


class Teacher(Record):
    """Who wrote the texts."""

    name: str
    """Its hub id."""
    licence: str = ""
    """As the hub writes it."""


class ImportedConfig(TextsConfig):
    """Texts of files or a hub data set, by column; dropped.jsonl has each that is not kept."""

    kind: Literal["imported"]
    source: AnyTraceSource
    """Where they are."""
    unlike: tuple[ProblemsRef, ...] = ()
    """No question of their held-out splits may be learned from."""
    topic: str = Field(default="imported", pattern=r"^[a-z0-9_]{1,40}$")
    """The beginning of the problems' ids, where no column says it."""
    empty_thoughts: Literal["keep", "drop"] = "drop"
    """What becomes of texts without thoughts."""
    teacher: Teacher | None = None
    """Who wrote them, for lineage and licences."""

    def outlook(self) -> list[str]:
        """How the files are read, and what is not stated."""
        if missing(self):
            return []
        lines = [line for part in surveys(self, policy_of(self)) for line in part.lines()]
        if not self.licence:
            lines.append("licence: not stated; publish refuses without, publish --private says so")
        return lines


def policy_of(config: ImportedConfig) -> Policy:
    is_kept = config.empty_thoughts == "keep"
    label = getattr(config.source, "path", None) or getattr(config.source, "id", None)
    return Policy(
        config.source, str(label or f"trace source {config.source.type}"), config.topic,
        keeps_empty_thoughts=is_kept, is_lenient=False, tells_apart=True,
    )  # fmt: skip


def run(config: ImportedConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Write traces.jsonl in the order of the files, dropped.jsonl and sources.json."""
    policy = policy_of(config)
    held_out = held_out_keys(inputs.many("unlike"))
    with at_rest(partial(external_files, config)) as files:
        tally, read = write_traces(config, policy, held_out, out, context)
        hashes = [
            {"name": file.name, "bytes": file.stat().st_size, "sha256": sha256_file(file)}
            for file in files
        ]
    facts = {
        "files": hashes,
        "read": [_facts(part.reading, part.table.name) for part in read],
        "licences": dict(sorted(tally.licences.items())),
    }
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    (out / "sources.json").write_text(text, encoding="utf-8")
    if tally.counts:
        context.note(f"{config.kind}: {policy.label}: {tally.summary()}")
    return metrics_of(tally)


def _facts(reading: Reading, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "preset": reading.columns.preset,
        "columns": reading.columns.columns.model_dump(mode="json", exclude_defaults=True),
        "marks": reading.marks and [reading.marks.opening, reading.marks.closing],
        "system": reading.system,
        "licence": reading.columns.licence,
    }


def external_files(config: ImportedConfig) -> tuple[Path, ...]:
    """Files outside the store that decide what this stage makes."""
    return TRACE_SOURCES[config.source.type].files(config.source)


def missing(config: ImportedConfig) -> list[str]:
    """The commit, where the recipe leaves it open."""
    return TRACE_SOURCES[config.source.type].missing(config.source)


def estimate(config: ImportedConfig, cost: CostContext) -> tuple[StageCost, Answers]:
    """By the sizes of the files and their first rows."""
    return line_work(texts_of(config, policy_of(config)))


def small(fields: Fields) -> Fields:
    """A hub set is stood for by worked examples that come with the factory."""
    if fields["source"]["type"] != "hub":
        return fields
    own = {"type": "local", "path": "recipes/data/worked_sums.jsonl"}
    return {**fields, "source": own, "preset": "auto", "columns": None, "kinds": None}


def origins(artifact: Artifact) -> list[Origin]:
    """The data set and who wrote its texts."""
    config = artifact.manifest.config
    source = config["source"]
    what = source.get("id") or Path(str(source.get("path") or source["type"])).name
    licences = json.loads(artifact.file("sources.json").read_text(encoding="utf-8"))["licences"]
    data = [Origin(what, licence) for licence in licences]
    teacher = config.get("teacher")
    return data + ([Origin(teacher["name"], teacher["licence"])] if teacher else [])


STAGE = register(
    light_stage(
        ImportedConfig,
        produces="traces",
        version=2,
        run=run,
        estimate=estimate,
        packages=(*GRADING_PACKAGES, "pyarrow"),
        external_files=external_files,
        uses=lambda config: {
            ("graders", name) for name in TRACE_SOURCES[config.source.type].graders(config.source)
        },
        missing=missing,
        memory_settings=("threads",),
        small=small,
        origins=origins,
        shows=Shows("selection", fates),
    )
)
