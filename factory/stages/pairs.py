"""Stage `pairs`: which of two responses is better, judged by a model or loaded.

R1's helpful reward model learned from 66k pairs of responses to general prompts: a judge was asked
four times for each, in random order, and pairs with a mean gap above 1 were kept, the lengths of
both sides comparable over all (arXiv 2501.12948 v2, 3.1).
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
from factory.core.records import ModelRef, Pair, Record, SamplingConfig, Trace, TracesRef
from factory.cost.context import CostContext, StageCost
from factory.cost.flows import Texts, texts
from factory.preferences import sources
from factory.preferences.judge import COMPARE, COMPARED, Vote, preference, vote_counts
from factory.preferences.lengths import length_gap, unbalanced
from factory.preferences.sources import HubRows, LocalFile, PairLine
from factory.stages.judged import JUDGED_SHARE, judged_texts, preference_row, preference_table
from factory.stages.small import PAIRS, small_preferences
from factory.stages.stage import (
    Fields,
    Shows,
    StageConfig,
    register,
)


class JudgedPairs(Record):
    """Neighbouring samples of each problem, compared by a judge."""

    type: Literal["judged"]
    traces: TracesRef
    """Responses to compare: samples 0 and 1 of a problem, 2 and 3, and so on."""
    compares: Literal["answer", "completion"] = "answer"
    """The answer or summary alone, as the reward model reads it; or, of models that write without
    tags, the whole text."""
    judge: ModelRef
    votes: int = Field(default=4, ge=2, multiple_of=2, le=10**4)
    """Judgements a pair, half of them in either order; four in R1v2 3.1."""
    least_votes: int = Field(default=3, ge=0, le=10**4)
    """Fewest of them with a verdict that can be read; ours."""
    margin: float = Field(default=1.0, ge=-1, lt=2)
    """The mean gap must be above it: 1 in R1v2 3.1, on the scale of Arena-Hard's five verdicts
    from 2 to -2. -1 keeps ties and what the judge said nothing about, for rehearsals."""
    sampling: SamplingConfig = SamplingConfig(temperature=0.7, top_p=0.95, max_new_tokens=2048)
    """Not stated by the paper. Above 0, or the votes of an order are one vote."""


class PairsConfig(StageConfig):
    """Writes pairs.jsonl and dropped.jsonl, and of judged ones votes.jsonl with every reply."""

    kind: Literal["pairs"]
    source: Annotated[LocalFile | HubRows | JudgedPairs, Field(discriminator="type")]
    """Where the pairs come from."""
    max_length_gap: float | None = Field(default=0.1, ge=1e-9, le=1e6)
    """Largest difference of mean lengths, chosen against rejected, as a share of the mean length;
    pairs are dropped until it holds. The paper asks for comparable lengths and gives no number:
    0.1 is ours. None does not balance."""

    @model_validator(mode="after")
    def _votes_suffice(self) -> "PairsConfig":
        if isinstance(self.source, JudgedPairs) and self.source.least_votes > self.source.votes:
            raise ValueError(f"source.least_votes: more than the {self.source.votes} votes")
        return self


class DroppedPair(Record):
    """A pair that was not kept, and why."""

    reason: str
    pair: Pair


Judged = tuple[list[Pair], list[DroppedPair]]


def run(config: PairsConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Judge or load, then balance; DataError where a file is broken or no pair is left."""
    source = config.source
    votes: dict[str, list[Vote]] = {}
    if isinstance(source, JudgedPairs):
        candidates, dropped = _candidates(inputs["source.traces"].traces(), source)
        votes = _ask(source, candidates, inputs, context)
        pairs, undecided = judged(source, candidates, votes)
        dropped += undecided
        write_records(
            out / "votes.jsonl",
            (vote for votes_of_text in votes.values() for vote in votes_of_text),
        )
    else:
        pairs, dropped = _distinct(sources.stored_pairs(source))
    gap_before = length_gap(pairs)
    if config.max_length_gap is not None:
        places = unbalanced(pairs, config.max_length_gap)
        dropped += [DroppedPair(reason="length", pair=pairs[index]) for index in sorted(places)]
        pairs = [pair for index, pair in enumerate(pairs) if index not in places]
    reasons = Counter(row.reason for row in dropped)
    if not pairs:
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        raise DataError(f"pairs: none of {len(dropped)} is left ({counts or 'there were none'})")
    write_records(out / "pairs.jsonl", pairs)
    write_records(out / "dropped.jsonl", dropped)
    return {
        "pairs": float(len(pairs)),
        "prompts": float(len({pair.prompt for pair in pairs})),
        "length_gap_before": gap_before,
        "length_gap": length_gap(pairs),
        **_vote_metrics(votes),
        **{f"dropped.{reason}": float(reasons[reason]) for reason in sorted(reasons)},
    }


def _vote_metrics(votes: dict[str, list[Vote]]) -> Metrics:
    """How the judge voted; `first_place` is 0 for one that does not care about the order."""
    cast = [vote for votes_of_text in votes.values() for vote in votes_of_text]
    if not cast:
        return {}
    values = [vote.value for vote in cast if vote.value is not None]
    return {**vote_counts(cast), "first_place": sum(values) / len(values) if values else 0.0}


def _candidates(traces: Iterable[Trace], source: JudgedPairs) -> Judged:
    """Pairs to be judged, in order of the problems; those that cannot be are dropped."""
    by_problem: dict[str, list[Trace]] = {}
    for trace in traces:
        by_problem.setdefault(trace.problem_id, []).append(trace)
    kept, dropped = [], []
    for own in by_problem.values():
        for first, second in zip(own[::2], own[1::2], strict=False):
            sides = [_compared(trace, source) for trace in (first, second)]
            pair = Pair(
                prompt=first.question,
                chosen=sides[0] or "(no answer)",
                rejected=sides[1] or "(no answer)",
                source=f"{first.problem_id}/{first.sample} {second.problem_id}/{second.sample}",
            )
            if not all(sides):
                dropped.append(DroppedPair(reason="no_answer", pair=pair))
            elif sides[0] == sides[1]:
                dropped.append(DroppedPair(reason="identical", pair=pair))
            else:
                kept.append(pair)
    return kept, dropped


def _compared(trace: Trace, source: JudgedPairs) -> str:
    """What of a response is compared; empty where there is nothing."""
    if source.compares == "completion":
        return trace.completion.strip()
    return trace.summary or trace.answer or ""


def _ask(
    source: JudgedPairs, candidates: Sequence[Pair], inputs: Inputs, context: Context
) -> dict[str, list[Vote]]:
    from factory.preferences.asking import Item, ask

    items = [Item(pair.source, pair.prompt, (pair.chosen, pair.rejected)) for pair in candidates]
    return ask(
        items,
        judge=inputs["source.judge"],
        form=COMPARE,
        verdicts=COMPARED,
        votes=source.votes,
        sampling=source.sampling,
        context=context,
    )


def judged(source: JudgedPairs, candidates: Sequence[Pair], votes: dict[str, list[Vote]]) -> Judged:
    """Pairs as the votes decide, the preferred response as the chosen one."""
    kept, dropped = [], []
    for pair in candidates:
        cast = votes.get(pair.source, [])
        readable = sum(vote.value is not None for vote in cast)
        gap = preference(cast)
        if readable < source.least_votes or (gap is None and source.margin >= 0):
            dropped.append(DroppedPair(reason="unreadable", pair=pair))
            continue
        gap = gap or 0.0
        if gap < 0:
            swapped = {"chosen": pair.rejected, "rejected": pair.chosen}
            pair = pair.model_copy(update=swapped)
        pair = pair.model_copy(update={"gap": abs(gap)})
        if abs(gap) > source.margin:
            kept.append(pair)
        else:
            dropped.append(DroppedPair(reason="margin", pair=pair))
    return kept, dropped


def _distinct(pairs: Sequence[Pair]) -> Judged:
    """Pairs without those whose sides are equal, and without repeated ones."""
    kept, dropped = [], []
    seen: set[tuple[str, str, str]] = set()
    for pair in pairs:
        key = (pair.prompt, pair.chosen, pair.rejected)
        reason = "identical" if pair.chosen == pair.rejected else "duplicate"
        if pair.chosen == pair.rejected or key in seen:
            dropped.append(DroppedPair(reason=reason, pair=pair))
        else:
            kept.append(pair)
        seen.add(key)
    return kept, dropped


def estimate(config: PairsConfig, cost: CostContext) -> tuple[StageCost, Texts]:
    source = config.source
    if not isinstance(source, JudgedPairs):
        return StageCost(0.01), texts(source, 2)
    return judged_texts(cost, source.sampling, votes=source.votes, at_once=2, kept=JUDGED_SHARE)


def small(fields: Fields) -> Fields:
    loose = {"margin": -1.0, "compares": "completion"}
    return {**fields, "source": small_preferences(fields["source"], PAIRS, loose)}


def shown(artifact: Artifact) -> Sequence[Block]:
    metrics = artifact.manifest.metrics
    before, after = (metrics.get(name, 0.0) for name in ("length_gap_before", "length_gap"))
    balance = f"chosen {100 * after:+.1f} % longer ({100 * before:+.1f} % before balancing)"
    return [preference_table(artifact, balance)]


STAGE = register(
    preference_row(
        PairsConfig,
        PairLine,
        produces="pairs",
        run=run,
        estimate=estimate,
        small=small,
        shows=Shows("preferences", shown),
    )
)
