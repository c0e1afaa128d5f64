"""Stage `mix`: several trace sets as one, by quota, shuffled."""

import math
import random
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from factory.artifacts import Inputs
from factory.context import Context, Metrics
from factory.errors import DataError
from factory.jsonl import write_records
from factory.records import Record, Trace, TracesRef
from factory.seeds import derive
from factory.stages.stage import Stage, StageConfig


class Part(Record):
    """One trace set and how much of it is taken, drawn at random; all of it by default."""

    traces: TracesRef
    count: int | None = Field(default=None, ge=1)
    share: float | None = Field(default=None, gt=0.0, le=1.0)
    """Share of the mixture; then every part states one, and they sum to 1."""


class MixConfig(StageConfig):
    """Writes traces.jsonl: all parts together, in random order, none twice."""

    kind: Literal["mix"]
    parts: tuple[Part, ...] = Field(min_length=1)
    limit: int | None = Field(default=None, ge=1)
    """Largest number of traces in all; without it shares give the largest mixture they can."""

    @model_validator(mode="after")
    def _quotas_agree(self) -> "MixConfig":
        shares = [part.share for part in self.parts if part.share is not None]
        if not shares:
            return self
        if len(shares) < len(self.parts) or any(part.count is not None for part in self.parts):
            raise ValueError("where one part has a share, every part has one and none a count")
        if not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
            raise ValueError(f"the shares sum to {sum(shares):g}, not to 1")
        return self


def run(config: MixConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Draw each part's quota; metrics `kept`, `duplicates`, `parts.<i>.kept` and `.available`."""
    names = [part.traces for part in config.parts]
    pools, duplicates = _distinct([list(artifact.traces()) for artifact in inputs.many("parts")])
    quotas = _quotas(config, [len(pool) for pool in pools])
    chosen: list[tuple[int, Trace]] = []
    for index, (pool, quota, name) in enumerate(zip(pools, quotas, names, strict=True)):
        if quota > len(pool):
            raise DataError(
                f"mix: part {index} ({name}): {quota} traces asked, {len(pool)} different there"
            )
        drawn = random.Random(derive(context.seed, "mix", index)).sample(pool, quota)
        chosen.extend((index, trace) for trace in drawn)
    random.Random(derive(context.seed, "mix")).shuffle(chosen)
    chosen = chosen[: config.limit]
    if not chosen:
        raise DataError(f"mix: no traces in any of {', '.join(names)}")
    write_records(out / "traces.jsonl", (trace for _, trace in chosen))
    metrics = {"kept": float(len(chosen)), "duplicates": float(duplicates)}
    for index, pool in enumerate(pools):
        metrics[f"parts.{index}.available"] = float(len(pool))
        metrics[f"parts.{index}.kept"] = float(sum(part == index for part, _ in chosen))
    return metrics


def _distinct(pools: list[list[Trace]]) -> tuple[list[list[Trace]], int]:
    """Each pool without (problem, completion) pairs seen before, and how many those were."""
    seen: set[tuple[str, str]] = set()
    kept: list[list[Trace]] = []
    for pool in pools:
        fresh = []
        for trace in pool:
            key = (trace.problem_id, trace.completion)
            if key not in seen:
                fresh.append(trace)
            seen.add(key)
        kept.append(fresh)
    return kept, sum(map(len, pools)) - sum(map(len, kept))


def _quotas(config: MixConfig, available: list[int]) -> list[int]:
    """Traces to draw from each part."""
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


STAGE = Stage(config=MixConfig, produces="traces", version=1, run=run)
