"""Stage `mix`: several trace sets as one, by quota, shuffled; duplicates and leaks left out.

R1's SFT set by domain (arXiv 2501.12948 v2, Table 5; samples):

    math 395,285   code 211,129   STEM 10,124   logic 10,395   general 177,812   all 804,745
"""

import math
import random
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from itertools import count as count_from
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from factory.core.artifacts import Artifact, Inputs
from factory.core.blocks import Block, Table
from factory.core.context import Context, Metrics
from factory.core.errors import DataError
from factory.core.jsonl import read_records, write_records
from factory.core.parallel import in_order
from factory.core.readable import count, percent
from factory.core.records import AddedLater, Problem, ProblemsRef, Record, Trace, TracesRef
from factory.core.seeds import derive
from factory.core.stored import BLOCK, StoredRecords, in_blocks, write_made
from factory.cost.context import CostContext, StageCost
from factory.cost.flows import Answers
from factory.cost.work import line_work
from factory.problems.equal import Digests
from factory.problems.overlap import HeldOut
from factory.problems.similar import near_duplicates
from factory.stages.stage import (
    Fields,
    Shows,
    StageConfig,
    light_stage,
    register,
)

Domain = Literal["math", "code", "stem", "logic", "general"]
DOMAINS: tuple[Domain, ...] = get_args(Domain)
TABLE_5: dict[Domain, int] = {
    "math": 395_285, "code": 211_129, "stem": 10_124, "logic": 10_395, "general": 177_812,
}  # fmt: skip
"""R1's SFT samples by domain (v2, T.5)."""


class Part(Record):
    """One trace set and how much of it is taken, drawn at random; all of it by default."""

    traces: TracesRef
    count: int | None = Field(default=None, ge=1, le=10**9)
    """How many of them."""
    share: float | None = Field(default=None, gt=0.0, le=1.0)
    """Share of the mixture; then every part states one, and they sum to 1."""
    domain: Annotated[Domain | None, AddedLater()] = None
    """What its traces are about; all parts state it or none does."""


Reason = Literal["held out", "near duplicate"]


class Dropped(Record):
    """A trace that was left out: a line of dropped.jsonl."""

    problem_id: str
    sample: int
    reason: Reason
    like: str
    """The held-out problem, or the trace that was kept, as problem/sample."""
    shared: str
    """The rule and the words that both have; empty for near duplicates."""


class MixConfig(StageConfig):
    """Writes traces.jsonl: all parts together, in random order, none twice; and dropped.jsonl
    where it looks for leaks or near duplicates."""

    kind: Literal["mix"]
    parts: tuple[Part, ...] = Field(min_length=1)
    """What is mixed."""
    limit: int | None = Field(default=None, ge=1, le=10**9)
    """Largest number of traces in all; without it shares give the largest mixture they can."""
    quotas: Annotated[Literal["r1"] | None, AddedLater()] = None
    """`r1`: the domains' shares are those of R1's SFT set (v2, Table 5), among the domains that the
    parts name. None: whatever the parts give."""
    unlike: Annotated[tuple[ProblemsRef, ...], AddedLater()] = ()
    """Traces whose question or text is like a held-out question of these are left out: 8 words of
    questions in a row, 13 of long texts, short questions whole, numbers masked too. Paraphrases
    are missed."""
    near_duplicates: Annotated[float | None, AddedLater()] = Field(default=None, gt=0, le=1)
    """Leaves out a trace whose question and text together are that like an earlier one: Jaccard
    similarity of their 5-word runs. None looks for equal texts only."""

    @model_validator(mode="after")
    def _quotas_agree(self) -> "MixConfig":
        named = [part.domain for part in self.parts if part.domain is not None]
        if named and len(named) < len(self.parts):
            raise ValueError("where one part has a domain, every part has one")
        if self.quotas is not None:
            if not named:
                raise ValueError(f"quotas {self.quotas} need the domain of every part")
            if any(part.share or part.count for part in self.parts):
                raise ValueError(f"quotas {self.quotas} leave no room for shares and counts")
        shares = [part.share for part in self.parts if part.share is not None]
        if not shares:
            return self
        if len(shares) < len(self.parts) or any(part.count is not None for part in self.parts):
            raise ValueError("where one part has a share, every part has one and none a count")
        if not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
            raise ValueError(f"the shares sum to {sum(shares):g}, not to 1")
        return self


def run(config: MixConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Draw each part's quota; metrics `kept`, `duplicates`, `parts.<i>.kept` and `.available`.

    Where parts have domains also `domains.<domain>.kept`, `.share` and `.r1_share`.
    """
    names = [part.traces for part in config.parts]
    traces = _Parts([artifact.stored_traces() for artifact in inputs.many("parts")])
    processes = context.machine.thread_count()
    pools = traces.pools(traces.repeated(processes))
    duplicates = len(traces) - sum(map(len, pools))
    pools, dropped = _cleaned(traces, pools, config, inputs.many("unlike"), context)
    quotas = _quotas(config, [len(pool) for pool in pools])
    chosen: list[int] = []
    for index, (pool, quota, name) in enumerate(zip(pools, quotas, names, strict=True)):
        if quota > len(pool):
            raise DataError(
                f"mix: part {index} ({name}): {quota} traces asked, {len(pool)} different there"
            )
        chosen += random.Random(derive(context.seed, "mix", index)).sample(pool, quota)
    random.Random(derive(context.seed, "mix")).shuffle(chosen)
    chosen = chosen[: config.limit]
    if not chosen:
        raise DataError(f"mix: no traces in any of {', '.join(names)}")
    write_made(out / "traces.jsonl", chosen, traces.__getitem__, traces.at_once, processes)
    metrics = {"kept": float(len(chosen)), "duplicates": float(duplicates)}
    if config.unlike or config.near_duplicates is not None:
        write_records(out / "dropped.jsonl", dropped)
        for reason in get_args(Reason):
            number = sum(row.reason == reason for row in dropped)
            metrics[f"dropped.{reason.replace(' ', '_')}"] = float(number)
    kept = Counter(traces.part(index) for index in chosen)
    for index, pool in enumerate(pools):
        metrics[f"parts.{index}.available"] = float(len(pool))
        metrics[f"parts.{index}.kept"] = float(kept[index])
    return metrics | domain_shares([config.parts[part].domain for part in kept.elements()])


class _Parts:
    """The traces of all parts by one running number, a part after the other."""

    def __init__(self, parts: Sequence[StoredRecords[Trace]]) -> None:
        self._parts = parts
        self._starts = list(accumulate(map(len, parts), initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Trace:
        part = self.part(index)
        return self._parts[part][index - self._starts[part]]

    def part(self, index: int) -> int:
        return bisect_right(self._starts, index) - 1

    @property
    def at_once(self) -> int:
        """How many traces a process works on at once."""
        return min(part.at_once for part in self._parts)

    def repeated(self, processes: int) -> set[int]:
        """Places of (problem, completion) pairs that stand earlier already."""

        def digested(places: Sequence[int]) -> bytes:
            traces = map(self.__getitem__, places)
            return b"".join([Digests.of(t.problem_id, t.completion) for t in traces])

        digests = Digests()
        for block in in_order(digested, in_blocks(range(len(self)), self.at_once), processes):
            digests.append(block)
        return digests.repeated()

    def pools(self, without: Container[int]) -> list[Sequence[int]]:
        """The places of each part that are left."""
        ranges = pairwise(self._starts)
        return [array("Q", (p for p in range(*ends) if p not in without)) for ends in ranges]


@dataclass(frozen=True)
class _TextsOf:
    """The texts of some traces, in the order of their places."""

    traces: _Parts
    places: Sequence[int]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, at: int) -> str:
        trace = self.traces[self.places[at]]
        return f"{trace.question}\n{trace.completion}"


def domain_shares(domains: Sequence[Domain | None]) -> Metrics:
    """How many of the traces are of each domain, their share, and the share in R1's SFT set.

    Nothing where the traces have no domains.
    """
    if None in domains:
        return {}
    metrics: Metrics = {}
    for domain in DOMAINS:
        kept = sum(name == domain for name in domains)
        metrics[f"domains.{domain}.kept"] = float(kept)
        metrics[f"domains.{domain}.share"] = kept / len(domains)
        metrics[f"domains.{domain}.r1_share"] = TABLE_5[domain] / sum(TABLE_5.values())
    return metrics


def _cleaned(
    traces: _Parts,
    pools: list[Sequence[int]],
    config: MixConfig,
    held_out: list[Artifact],
    context: Context,
) -> tuple[list[Sequence[int]], list[Dropped]]:
    """The pools without what is like a held-out question or an earlier trace, and why."""
    dropped: list[Dropped] = []
    processes = context.machine.thread_count()
    if held_out:
        index = HeldOut(
            problem
            for artifact in held_out
            for problem in read_records(artifact.file("held_out.jsonl"), Problem)
        )
        pools = [_not_held_out(traces, pool, index, dropped, processes) for pool in pools]
    if config.near_duplicates is not None:
        places = array("Q", chain.from_iterable(pools))
        twins = near_duplicates(
            _TextsOf(traces, places), config.near_duplicates,
            folder=context.scratch, processes=processes,
        )  # fmt: skip
        for twin, other in twins.items():
            kept = traces[places[other]]
            message = f"{kept.problem_id}/{kept.sample}"
            dropped.append(_dropped(traces[places[twin]], "near duplicate", message, ""))
        counter = count_from(0)
        pools = [array("Q", (p for p in pool if next(counter) not in twins)) for pool in pools]
    return pools, dropped


def _not_held_out(
    traces: _Parts, pool: Sequence[int], held_out: HeldOut, dropped: list[Dropped], processes: int
) -> Sequence[int]:
    """The places of traces that hold no held-out question; the others are added to `dropped`."""

    def hits(places: Sequence[int]) -> list[tuple[int, Dropped]]:
        rows = []
        for index in places:
            trace = traces[index]
            hit = held_out.question_hit(trace.question) or held_out.text_hit(trace.completion)
            if hit is not None:
                message = f"{hit.rule}: {hit.shared}"
                rows.append((index, _dropped(trace, "held out", hit.problem, message)))
        return rows

    leaks = dict(chain.from_iterable(in_order(hits, in_blocks(pool, BLOCK), processes)))
    dropped += leaks.values()
    return array("Q", (index for index in pool if index not in leaks))


def _dropped(trace: Trace, reason: Reason, like: str, shared: str) -> Dropped:
    return Dropped(
        problem_id=trace.problem_id, sample=trace.sample, reason=reason, like=like, shared=shared
    )


def _quotas(config: MixConfig, available: list[int]) -> list[int]:
    """Traces to draw from each part."""
    if config.quotas is not None:
        return _domain_quotas([part.domain for part in config.parts], available, config.limit)
    shares = [part.share for part in config.parts if part.share is not None]
    if not shares:
        return [
            size if part.count is None else part.count
            for part, size in zip(config.parts, available, strict=True)
        ]
    total = min(size / share for size, share in zip(available, shares, strict=True))
    if config.limit is not None:
        total = min(total, config.limit)
    # 1e-9: shares such as 0.1 times 30 must not fall to 2 by rounding.
    return [math.floor(share * total + 1e-9) for share in shares]


def _domain_quotas(
    domains: Sequence[Domain | None], available: Sequence[int], limit: int | None
) -> list[int]:
    """Traces to draw from each part, so that the domains have their shares of Table 5.

    With t_d = Table 5's samples among the domains there are, and a_d traces available, the mixture
    has min over d of a_d * sum(t) / t_d traces, or `limit`; the parts of a domain give in turn, as
    much as their share of what it has, the largest remainders first.
    """
    supply: dict[Domain, int] = {domain: 0 for domain in DOMAINS if domain in domains}
    for domain, size in zip(domains, available, strict=True):
        if domain is not None:
            supply[domain] += size
    total_share = sum(TABLE_5[domain] for domain in supply)
    total = min(supply[domain] * total_share / TABLE_5[domain] for domain in supply)
    total = total if limit is None else min(total, limit)
    quotas = [0] * len(domains)
    for domain in supply:
        wanted = math.floor(total * TABLE_5[domain] / total_share + 1e-9)
        places = [index for index, name in enumerate(domains) if name == domain]
        exact = [wanted * available[index] / max(1, supply[domain]) for index in places]
        for index, quota in zip(places, exact, strict=True):
            quotas[index] = math.floor(quota)
        left = wanted - sum(quotas[index] for index in places)
        by_rest = sorted(range(len(places)), key=lambda i: (math.floor(exact[i]) - exact[i], i))
        for i in by_rest[:left]:
            quotas[places[i]] += 1
    return quotas


def estimate(config: MixConfig, cost: CostContext) -> tuple[StageCost, Answers]:
    parts: list[Answers] = [
        cost.read(f"parts.{number}.traces") for number in range(len(config.parts))
    ]
    counts = expected_quotas(config, [part.rows for part in parts])
    rows = max(1.0, sum(counts))
    kept = min(rows, config.limit or rows)

    def mean(name: str) -> float:
        return sum(getattr(a, name) * n for a, n in zip(parts, counts, strict=True)) / rows

    mixture = Answers(kept, kept, mean("question"), mean("completion"))
    return line_work(mixture, read=sum(part.rows for part in parts))


def expected_quotas(config: MixConfig, available: Sequence[float]) -> list[float]:
    """Rows taken of each part: the largest mixture that its shares allow, or all, or counts."""
    parts = config.parts
    weights: list[float] = [part.share or 0.0 for part in parts]
    if config.quotas:
        domains: list[Domain] = [part.domain for part in parts if part.domain is not None]
        totals: dict[Domain, float] = dict.fromkeys(domains, 0.0)
        for domain, rows in zip(domains, available, strict=True):
            totals[domain] += rows
        weights = [
            TABLE_5[domain] * rows / totals[domain]
            for domain, rows in zip(domains, available, strict=True)
        ]
    if not any(weights):
        return [min(rows, part.count or rows) for part, rows in zip(parts, available, strict=True)]
    scale = min(rows / weight for rows, weight in zip(available, weights, strict=True) if weight)
    return [scale * weight for weight in weights]


def small(fields: Fields) -> Fields:
    parts = [{**part, "count": None} for part in fields["parts"]]
    return {**fields, "parts": parts, "limit": None}


def shown(artifact: Artifact) -> Sequence[Block]:
    """The domains of a mixture whose parts state them, beside those of R1's SFT set (arXiv
    2501.12948 v2, Table 5)."""
    metrics = artifact.manifest.metrics
    rows = tuple(
        (
            domain,
            count(metrics[f"domains.{domain}.kept"]),
            percent(metrics[f"domains.{domain}.share"]),
            percent(metrics[f"domains.{domain}.r1_share"]),
        )
        for domain in DOMAINS
        if f"domains.{domain}.kept" in metrics
    )
    header = ("domain", "traces", "share", "R1's SFT set")
    return [Table(header, rows, numbers=(1, 2, 3), label="Traces by domain")] if rows else []


STAGE = register(
    light_stage(
        MixConfig,
        produces="traces",
        version=1,
        run=run,
        estimate=estimate,
        small=small,
        shows=Shows("selection", shown),
    )
)
