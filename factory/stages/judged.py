"""What stages share in which a judge decides: answers, pairs, labels."""

from collections.abc import Mapping
from typing import Any

from factory.core.artifacts import Artifact
from factory.core.blocks import Block, Table, Text
from factory.core.readable import count, plural
from factory.core.records import Record, SamplingConfig
from factory.cost.context import CostContext, StageCost
from factory.cost.flows import Answers, Texts
from factory.cost.work import reading_work
from factory.grading.judge import JudgeSettings
from factory.preferences import sources
from factory.sampling.judging import agreement_table
from factory.stages.stage import Origin, Stage, StageConfig, file_origin, sampling_stage

JUDGED_SHARE = 0.5
"""Of pairs that a judge decides and that balancing keeps; an assumption."""
INSTRUCTION_CHARACTERS = 1500
"""Of what a judge is told before it reads."""


def judge_work(
    cost: CostContext, path: str, settings: JudgeSettings, *, question: float, completion: float,
    rows: float,
) -> StageCost:  # fmt: skip
    """A judge, at the field path of its reference, that decides so many answers."""
    return reading_work(
        cost, path, settings.sampling, question=600 + question, extra=completion, prompts=rows,
        samples=settings.votes,
    )  # fmt: skip


def judge_blocks(artifact: Artifact) -> list[Block]:
    """How much a judge decided, and how often it agreed with rules, where there was one."""
    metrics = artifact.manifest.metrics
    table = agreement_table(artifact.manifest.name, metrics)
    blocks: list[Block] = [] if table is None else [table]
    if "judged" not in metrics:
        return blocks
    answers = plural(round(metrics["judged"]), "different answer")
    return [Text(f"A judge model decided {answers}."), *blocks]


def judged_texts(
    cost: CostContext, sampling: SamplingConfig, *, votes: int, at_once: int, kept: float
) -> tuple[StageCost, Texts]:
    """A judge that reads so many answers at once, and the share of its decisions that is kept."""
    traces: Answers = cost.read("source.traces")
    decisions = traces.rows / at_once
    taken = reading_work(
        cost, "source.judge", sampling, question=INSTRUCTION_CHARACTERS + traces.question,
        extra=at_once * traces.completion, prompts=decisions, samples=votes,
    )  # fmt: skip
    characters = traces.question + 3.6 * traces.completion
    return taken, Texts(kept * decisions, at_once, characters)


def preference_row(config: type[StageConfig], line: type[Record], **fields: Any) -> Stage:
    """The row of a stage whose `source` a judge decides, or a file or data set of such lines."""
    return sampling_stage(
        config, version=2, preload=(), origins=preference_origins,
        external_files=lambda config: sources.external_files(config.source),
        check=lambda config: sources.column_problems(config.source, line),
        missing=lambda config: sources.missing(config.source), **fields,
    )  # fmt: skip


def preference_origins(artifact: Artifact) -> list[Origin]:
    """A file or a data set; what a judge made comes from its inputs."""
    source = artifact.manifest.config["source"]
    return [] if source["type"] == "judged" else [file_origin(source)]


SHOWN = ("stage", "source", "kept", "dropped", "judge", "balance")
"""What a report shows of a set of pairs or labels."""


def preference_table(artifact: Artifact, balance: str) -> Table:
    """One row: where the data came from, what was dropped, how the judge voted, how balanced."""
    manifest = artifact.manifest
    metrics = manifest.metrics
    dropped = {
        name.removeprefix("dropped."): value
        for name, value in metrics.items()
        if name.startswith("dropped.")
    }
    reasons = ", ".join(f"{count(n)} {reason}" for reason, n in sorted(dropped.items()))
    kept = plural(round(metrics.get(manifest.kind, 0)), manifest.kind.removesuffix("s"))
    source = manifest.config.get("source")
    row = (
        manifest.name, _source(source) if isinstance(source, Mapping) else "", kept,
        reasons or "none", _judge(metrics), balance,
    )  # fmt: skip
    return Table(SHOWN, (row,), label="Preference data")


def _source(source: Mapping[str, Any]) -> str:
    name = source.get("path") or source.get("id") or f"judged by {source.get('judge')}"
    return str(name).rpartition("/")[2] if source.get("type") == "local" else str(name)


def _judge(metrics: Mapping[str, float]) -> str:
    if "votes" not in metrics:
        return "not judged here"
    unreadable = count(metrics.get("unreadable_votes", 0))
    words = f"{count(metrics['votes'])} votes, {unreadable} unreadable"
    first = metrics.get("first_place")
    return words if first is None else f"{words}, first place {first:+.2f}"
