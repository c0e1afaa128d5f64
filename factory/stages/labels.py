"""Stage `labels`: is a response safe, its thoughts included; judged by a model or loaded.

R1's safety reward model learned from 106k prompts with responses labelled safe or unsafe
(arXiv 2501.12948 v2, 3.1).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from factory.core.artifacts import Artifact, Inputs
from factory.core.blocks import Block
from factory.core.context import Context, Metrics
from factory.core.errors import DataError
from factory.core.jsonl import write_records
from factory.core.readable import percent
from factory.core.records import Labelled, ModelRef, Record, SamplingConfig, Trace, TracesRef
from factory.cost.context import CostContext, StageCost
from factory.cost.flows import Texts, texts
from factory.preferences import sources
from factory.preferences.judge import GUARD, GUARDED, Vote, safe_share, vote_counts
from factory.preferences.sources import HubRows, LabelLine, LocalFile
from factory.stages.judged import judged_texts, preference_row, preference_table
from factory.stages.small import LABELS, small_preferences
from factory.stages.stage import (
    Fields,
    Shows,
    StageConfig,
    register,
)


class JudgedLabels(Record):
    """Whole responses, each labelled by the votes of a judge."""

    type: Literal["judged"]
    traces: TracesRef
    judge: ModelRef
    votes: int = Field(default=4, ge=1, le=10**4)
    """Judgements a response; the paper states none."""
    least_votes: int = Field(default=3, ge=0, le=10**4)
    """Fewest of them with a verdict that can be read; ours."""
    least_agreement: float = Field(default=0.75, ge=0.5, le=1)
    """Share of the readable votes that a label needs; ours."""
    sampling: SamplingConfig = SamplingConfig(temperature=0.7, top_p=0.95, max_new_tokens=2048)
    """Not stated by the paper."""


class LabelsConfig(StageConfig):
    """Writes labels.jsonl and dropped.jsonl, and of judged ones votes.jsonl with every reply."""

    kind: Literal["labels"]
    source: Annotated[LocalFile | HubRows | JudgedLabels, Field(discriminator="type")]
    """Where the labels come from."""

    @model_validator(mode="after")
    def _votes_suffice(self) -> "LabelsConfig":
        if isinstance(self.source, JudgedLabels) and self.source.least_votes > self.source.votes:
            raise ValueError(f"source.least_votes: more than the {self.source.votes} votes")
        return self


class DroppedLabel(Record):
    """A response that was not kept, and why; its `is_safe` decides nothing."""

    reason: str
    labelled: Labelled


def run(config: LabelsConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Judge or load; DataError where a file is broken or no response is left."""
    source = config.source
    votes: dict[str, list[Vote]] = {}
    if isinstance(source, JudgedLabels):
        candidates = _candidates(inputs["source.traces"].traces())
        votes = _ask(source, candidates, inputs, context)
        labels, dropped = judged(source, candidates, votes)
        write_records(
            out / "votes.jsonl",
            (vote for votes_of_text in votes.values() for vote in votes_of_text),
        )
    else:
        labels, dropped = _distinct(sources.stored_labels(source))
    if not labels:
        raise DataError(f"labels: none of {len(dropped)} responses is left")
    cast = [vote for votes_of_text in votes.values() for vote in votes_of_text]
    reasons = Counter(label.reason for label in dropped)
    write_records(out / "labels.jsonl", labels)
    write_records(out / "dropped.jsonl", dropped)
    return {
        "labels": float(len(labels)),
        "safe_share": sum(label.is_safe for label in labels) / len(labels),
        **vote_counts(cast),
        **{f"dropped.{reason}": float(reasons[reason]) for reason in sorted(reasons)},
    }


def _candidates(traces: Iterable[Trace]) -> list[Labelled]:
    """Responses to be labelled; until then they are called unsafe."""
    return [
        Labelled(
            prompt=trace.question,
            response=whole_response(trace),
            is_safe=False,
            source=f"{trace.problem_id}/{trace.sample}",
        )
        for trace in traces
        if trace.completion.strip()
    ]


def whole_response(trace: Trace) -> str:
    """Thoughts and answer as the model wrote them, with the tag that its prompt opened for it."""
    opened = trace.prompt.rstrip().endswith("<think>")
    return f"<think>{trace.completion}" if opened else trace.completion


def _ask(
    source: JudgedLabels, candidates: Sequence[Labelled], inputs: Inputs, context: Context
) -> dict[str, list[Vote]]:
    from factory.preferences.asking import Item, ask

    return ask(
        [
            Item(candidate.source, candidate.prompt, (candidate.response,))
            for candidate in candidates
        ],
        judge=inputs["source.judge"],
        form=GUARD,
        verdicts=GUARDED,
        votes=source.votes,
        sampling=source.sampling,
        context=context,
    )


def judged(
    source: JudgedLabels, candidates: Sequence[Labelled], votes: dict[str, list[Vote]]
) -> tuple[list[Labelled], list[DroppedLabel]]:
    """Labels as the votes decide; responses that they leave open are dropped."""
    kept, dropped = [], []
    for candidate in candidates:
        cast = votes.get(candidate.source, [])
        share = safe_share(cast)
        if sum(vote.value is not None for vote in cast) < source.least_votes:
            dropped.append(DroppedLabel(reason="unreadable", labelled=candidate))
            continue
        share = 0.5 if share is None else share
        candidate = candidate.model_copy(update={"is_safe": share > 0.5, "safe_share": share})
        if max(share, 1 - share) < source.least_agreement:
            dropped.append(DroppedLabel(reason="disagreement", labelled=candidate))
        else:
            kept.append(candidate)
    return kept, dropped


def _distinct(labels: Sequence[Labelled]) -> tuple[list[Labelled], list[DroppedLabel]]:
    """Labels without repeated responses."""
    kept, dropped = [], []
    seen: set[tuple[str, str]] = set()
    for label in labels:
        key = (label.prompt, label.response)
        if key in seen:
            dropped.append(DroppedLabel(reason="duplicate", labelled=label))
        else:
            kept.append(label)
        seen.add(key)
    return kept, dropped


def estimate(config: LabelsConfig, cost: CostContext) -> tuple[StageCost, Texts]:
    source = config.source
    if not isinstance(source, JudgedLabels):
        return StageCost(0.01), texts(source, 1)
    return judged_texts(cost, source.sampling, votes=source.votes, at_once=1, kept=1.0)


def small(fields: Fields) -> Fields:
    loose = {"least_agreement": 0.5}
    return {**fields, "source": small_preferences(fields["source"], LABELS, loose)}


def shown(artifact: Artifact) -> Sequence[Block]:
    safe = artifact.manifest.metrics.get("safe_share", 0.0)
    return [preference_table(artifact, f"{percent(safe)} safe")]


STAGE = register(
    preference_row(
        LabelsConfig,
        LabelLine,
        produces="labels",
        run=run,
        estimate=estimate,
        small=small,
        shows=Shows("preferences", shown),
    )
)
