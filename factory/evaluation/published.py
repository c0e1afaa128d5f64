"""Scores that others published, and whether ours reproduce them.

The numbers stand in `evals/published.yaml` with their sources.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field, ValidationError

from factory.core.errors import DataError
from factory.core.records import Record, SamplingConfig
from factory.core.shipped import shipped
from factory.core.yaml12 import load_mapping
from factory.evaluation.statistics import Z
from factory.evaluation.summary import Summary

PATH = shipped("evals") / "published.yaml"
SHARP = 0.03
"""A noise band wider than this, to either side, can tell no reproduction: ours."""
ROUNDING = 0.0005
"""Published numbers have one decimal of a percent."""

Verdict = Literal["reproduced", "not reproduced", "cannot tell"]


class Protocol(Record):
    """How the published answers were drawn."""

    temperature: float
    top_p: float
    max_new_tokens: int


class PublishedBenchmark(Record):
    """A benchmark as the source asked it."""

    title: str
    n: int | None
    """Problems; None where the source does not say."""
    k: int
    """Samples a problem."""


class PublishedModel(Record):
    """One row of a published table: metrics by benchmark, shares in percent."""

    model: str
    source: str
    scores: dict[str, dict[str, float]]


class Published(Record):
    """The file's content."""

    protocol: Protocol
    benchmarks: dict[str, PublishedBenchmark]
    models: tuple[PublishedModel, ...] = Field(min_length=1)

    def benchmark_key(self, name: str) -> str | None:
        """The key of the benchmark that a name means, by letters and digits; None if it means none.

        `math500`, `MATH-500` and `math_500` are one, and so are `aime24`, `AIME 2024` and
        `aime_2024`: a recipe names its benchmarks freely, and another spelling must not keep a
        score from its verdict.
        """
        wanted = _letters_and_digits(name)
        for key, benchmark in self.benchmarks.items():
            if wanted in (_letters_and_digits(key), _letters_and_digits(benchmark.title)):
                return key
        return None


class Reproduction(Record):
    """Our pass@1 beside a published one."""

    benchmark: str
    model: str
    source: str
    published: float
    ours: float
    n: int
    k: int
    band: float | None
    """How far apart two such measurements of one model fall in 95 % of cases; None where our
    samples cannot tell."""
    verdict: Verdict
    reason: str


def _letters_and_digits(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())


def load_published(path: Path = PATH) -> Published:
    """The published scores; DataError where the file is malformed."""
    data = load_mapping(path)
    names: set[str] = set(data.get("benchmarks") or ())
    rows: list[dict[str, Any]] = data.get("models") or []
    try:
        models = [_row(row, names) for row in rows]
        return Published.model_validate_json(json.dumps({**data, "models": models}))
    except (ValidationError, AttributeError) as error:
        raise DataError(f"{path}: not a file of published scores: {error}") from error


def _row(row: dict[str, Any], benchmarks: set[str]) -> dict[str, Any]:
    scores = {name: value for name, value in row.items() if name in benchmarks}
    return {**{key: row[key] for key in row if key not in scores}, "scores": scores}


def hub_id(config: Mapping[str, Any]) -> str | None:
    """The hub id behind the config of a `model` stage; None of any other, or of a changed one."""
    source = config.get("source")
    if not isinstance(source, Mapping) or config.get("turns") or config.get("context"):
        return None
    source = cast("Mapping[str, Any]", source)
    return source["id"] if source.get("type") == "hub" else None


def reproductions(
    rows: Sequence[Summary], *, model: str, published: Published
) -> list[Reproduction]:
    """Our sampled scores of a model beside every published one of the same benchmark."""
    rows_found: list[Reproduction] = []
    for row in rows:
        key = published.benchmark_key(row.benchmark)
        if key is None or row.mode != "sampled":
            continue
        scores = published.benchmarks[key]
        for theirs in published.models:
            value = theirs.scores.get(key, {}).get("pass@1")
            if theirs.model == model and value is not None:
                differences = _differences(row.sampling, published.protocol)
                share = round(value / 100, 6)
                rows_found.append(_judge(row, theirs, share, scores, differences=differences))
    return rows_found


def _judge(
    row: Summary,
    theirs: PublishedModel,
    value: float,
    benchmark: PublishedBenchmark,
    *,
    differences: str,
) -> Reproduction:
    band = noise_band(row, benchmark.k)
    gap = row.strict.value - value
    verdict, reason = _verdict(gap, band, row=row, benchmark=benchmark)
    return Reproduction(
        benchmark=row.benchmark,
        model=theirs.model,
        source=theirs.source,
        published=value,
        ours=row.strict.value,
        n=row.n,
        k=row.k,
        band=band,
        verdict=verdict,
        reason="; ".join(part for part in (reason, differences) if part),
    )


def noise_band(row: Summary, published_k: int) -> float | None:
    """Half width of the band that holds 95 % of differences between two runs of one model.

        1.96 sqrt(s^2 / k + s^2 / k_published) + 0.0005,    s^2 = k sampling^2 + 1 / (4 n^2)

    Both runs ask the same problems, so only the sampling error counts; the published run's is ours
    at its k. The added square is one undecided problem more, so that a model which always answers
    alike is not held to be without noise. Ours; published tables give no errors. None with one
    sample a problem.
    """
    if row.errors.sampling is None:
        return None
    variance = _one_sample(row)
    return Z * math.sqrt(variance / row.k + variance / published_k) + ROUNDING


def _one_sample(row: Summary) -> float:
    """Squared sampling error of the score with one sample a problem."""
    assert row.errors.sampling is not None
    return row.errors.sampling**2 * row.k + 1 / (4 * row.n**2)


def _verdict(
    gap: float, band: float | None, *, row: Summary, benchmark: PublishedBenchmark
) -> tuple[Verdict, str]:
    if benchmark.n is None:
        return "cannot tell", "the source does not say which problems"
    if row.n != benchmark.n:
        return "cannot tell", f"asked {row.n} problems of {benchmark.n}"
    if band is None:
        return "cannot tell", "one sample a problem gives no noise band"
    message = f"{100 * gap:+.1f} points, noise band ± {100 * band:.1f}"
    if abs(gap) > band:
        return "not reproduced", message
    if band > SHARP:
        left = ((SHARP - ROUNDING) / Z) ** 2 - _one_sample(row) / benchmark.k
        more = f"k = {math.ceil(_one_sample(row) / left)} would do" if left > 0 else "no k would do"
        return "cannot tell", f"{message}, which is wider than {100 * SHARP:g}: {more}"
    return "reproduced", message


def _differences(sampling: SamplingConfig, protocol: Protocol) -> str:
    """What was asked otherwise than published: the first place to look for a gap."""
    named = [
        f"{name} {getattr(sampling, name):g} (published {wanted:g})"
        for name, wanted in protocol.model_dump().items()
        if getattr(sampling, name) != wanted
    ]
    return f"asked with {', '.join(named)}" if named else ""
