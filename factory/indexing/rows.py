"""Scores gathered from reports and from sealed evaluations: a row a model, benchmark and metric."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_core import from_json

from factory.core.artifacts import MANIFEST, open_artifact
from factory.core.errors import ArtifactError, DataError, RecipeError
from factory.core.files import check_regular, without_hash
from factory.core.jsonl import read_records
from factory.core.records import Record, Score
from factory.evaluation.frontier import CurvePoint

LARGEST_REPORT = 256 * 2**20
"""Bytes of a report.json that is read; those of whole builds have some 100 KB."""
_NO_REPORT = (
    OSError, KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError,
)  # fmt: skip
"""What reading the JSON of a stranger may raise."""
MODES = {"pass@1": "sampled", "greedy": "greedy"}
"""Metrics that tallies of answers stand behind: models are compared by these."""


class IndexRow(Record):
    """One score of one model."""

    recipe: str
    """Empty where no report says it."""
    model: str
    benchmark: str
    version: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    k: int
    rank: int | None = None
    """1 + models that are better for certain; None where no difference between models is shown."""
    compared: int = 0
    """Models on the same problems, this one too."""
    parameters: float | None = Field(default=None, ge=0, le=1e15)
    answer_tokens: float | None = Field(default=None, ge=0, le=1e15)
    """Mean over all answers of the evaluation."""
    thinking_tokens: float | None = Field(default=None, ge=0, le=1e15)
    """Mean up to the end of the thoughts, where budgets of them were set."""
    tokens_per_right: float | None = Field(default=None, ge=0, le=1e15)
    """Tokens drawn for each right answer; likewise."""
    seconds: float | None = Field(default=None, ge=0, le=1e12)
    """That the model and all it was made from took."""
    created: str
    evaluation: str
    """Fingerprint."""


@dataclass(frozen=True)
class Entry:
    """A row, and the answers behind it: by problem the share that is right."""

    row: IndexRow
    samples: int = 1
    shares: Mapping[str, float] = field(default_factory=dict)
    points: tuple[CurvePoint, ...] = ()
    """Of pass@1, or of greedy: its accuracy against thinking tokens."""


def gather(sources: Sequence[Path]) -> tuple[list[Entry], list[str]]:
    """The rows of stores and report.json files; and a line for each that cannot be read.

    An evaluation that several of them quote is one. RecipeError for a path that is neither.
    """
    entries: dict[tuple[str, str, str], Entry] = {}
    faults: list[str] = []
    for source in sources:
        quoted: dict[str, set[tuple[str, str]]] = {}
        for path in _reports(source):
            try:
                made = list(_of_report(path))
            except _NO_REPORT as error:
                faults.append(
                    f"{path}: left out: no report of a version that is known: {error}"[:500]
                )
                continue
            for stage, entry in made:
                quoted.setdefault(stage, set()).add((entry.row.recipe, entry.row.model))
                entries.setdefault(_key(entry.row), entry)
        if source.is_dir():
            have = {evaluation[:12] for evaluation, _, _ in entries}
            for row in _of_store(source, quoted, faults, have):
                entries.setdefault(_key(row), Entry(row))
    return list(entries.values()), faults


def _key(row: IndexRow) -> tuple[str, str, str]:
    return row.evaluation, row.benchmark, row.metric


def _reports(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise RecipeError(f"{source}: no such store or report.json")
    if (source / "report.json").is_file():
        return [source / "report.json"]
    return sorted(source.glob("reports/*/report.json"))


def _of_report(path: Path) -> Iterator[tuple[str, Entry]]:
    """Its rows, each with the name of the evaluation."""
    if check_regular(path).st_size > LARGEST_REPORT:
        raise ValueError(f"larger than {LARGEST_REPORT} bytes")
    text, _ = without_hash(path.read_bytes())
    report = from_json(text)
    stages = {row["name"]: row for row in report["stages"]}
    tallies = {
        (row["stage"], row["benchmark"], row["mode"]): row for row in report.get("tallies", ())
    }
    thinking = [
        _sensible(CurvePoint.model_validate(row, strict=False))
        for row in report.get("sections", {}).get("thinking", ())
    ]
    for evaluation in report["evaluations"]:
        stage = stages[evaluation["stage"]]
        if stage["made"] is None:
            continue
        scores = [Score.model_validate(score, strict=False) for score in evaluation["scores"]]
        made = stage["made"]
        rows = _rows(
            scores, recipe=str(report["recipe"]), model=str(evaluation["label"]),
            created=str(made["created"]), evaluation=str(made["fingerprint"]),
            tokens=made.get("sampled_tokens"), origin=_origin(evaluation["model"], stages),
        )  # fmt: skip
        for full in rows:
            tally = tallies.get((evaluation["stage"], full.benchmark, MODES.get(full.metric)))
            if tally is None:
                yield evaluation["stage"], Entry(full)
                continue
            points = [
                point for point in thinking
                if (point.model, point.benchmark, point.mode)
                == (full.model, full.benchmark, MODES[full.metric])
            ]  # fmt: skip
            shares = {str(name): float(value) for name, value in tally["shares"].items()}
            samples = int(tally["samples"])
            if samples < 1 or not all(0 <= share <= 1 for share in shares.values()):
                raise ValueError(f"{full.benchmark}: shares of right answers that are none")
            if points:
                spent = {
                    "thinking_tokens": points[-1].thinking.value,
                    "tokens_per_right": points[-1].tokens_per_right,
                }
                full = IndexRow.model_validate({**dict(full), **spent})
            entry = Entry(full, samples=samples, shares=shares, points=(*points,))
            yield evaluation["stage"], entry


def _sensible(point: CurvePoint) -> CurvePoint:
    """ValueError where a stranger's numbers could not be drawn."""
    shares = (point.accuracy.low, point.accuracy.value, point.accuracy.high, point.closed)
    tokens = (
        point.thinking.low, point.thinking.value, point.thinking.high, point.tokens,
        point.tokens_per_right or 0.0, point.tokens_per_right_low or 0.0,
        point.tokens_per_right_high or 0.0, float(point.budget or 0),
    )  # fmt: skip
    if not all(0 <= share <= 1 for share in shares) or not all(0 <= t <= 1e15 for t in tokens):
        raise ValueError(f"{point.benchmark}: tokens of thought that are none")
    return point


def _rows(
    scores: Sequence[Score], *, recipe: str, model: str, created: str, evaluation: str,
    tokens: float | None, origin: tuple[float | None, float | None] = (None, None),
) -> Iterator[IndexRow]:  # fmt: skip
    """A row a score. Lenient readings, and metrics of the same answers, are counted once."""
    answers = {
        (score.benchmark, MODES.get(score.metric, "sampled")): sum(score.outcomes.values())
        for score in scores
    }
    total = sum(answers.values())
    for score in scores:
        yield IndexRow(
            recipe=recipe, model=model, benchmark=score.benchmark, version=score.version,
            metric=score.metric, value=score.value, low=score.low, high=score.high, n=score.n,
            k=score.k, created=created, evaluation=evaluation,
            answer_tokens=tokens / total if tokens and total else None,
            parameters=origin[0], seconds=origin[1],
        )  # fmt: skip


def _origin(model: str, stages: Mapping[str, Any]) -> tuple[float | None, float]:
    """Parameters of the model that the weights came from, and seconds of all it was made from."""
    seen: set[str] = set()
    pending = [model]
    while pending:
        name = pending.pop()
        if name in seen or name not in stages:
            continue
        seen.add(name)
        pending += stages[name]["inputs"].values()
    made = [stages[name]["made"] for name in seen if stages[name]["made"] is not None]
    size, name = None, model
    for _ in range(len(stages)):
        row = stages.get(name)
        if row is None or row["made"] is None:
            break
        size = row["made"]["metrics"].get("parameters", size)
        inputs = row["inputs"]
        models = [key for key in inputs.values() if stages.get(key, {}).get("produces") == "model"]
        name = inputs.get("model", models[0] if models else "")
    return size, sum(float(row["seconds"]) for row in made)


def _of_store(
    store: Path, quoted: Mapping[str, set[tuple[str, str]]], faults: list[str], have: set[str]
) -> Iterator[IndexRow]:
    """Rows of the store's sealed evaluations that no report quotes; they have no answers here.

    `have` begins the fingerprints of the others, which end the names of folders.

    `quoted` are the recipes and models of the evaluations in its reports, by name: an earlier one
    of a name that a single recipe has is taken for that recipe's.
    """
    for path in sorted(store.glob(f"*/{MANIFEST}")):
        try:
            if path.parent.name[-12:] in have:
                continue
            if path.parent.suffix or b'"kind": "scores"' not in path.read_bytes()[:200]:
                continue
            artifact = open_artifact(path.parent)
            scores = list(read_records(artifact.file("scores.jsonl"), Score))
        except (OSError, ArtifactError, DataError) as error:
            faults.append(f"left out: {error}")
            continue
        manifest = artifact.manifest
        model = manifest.inputs["model"].name if "model" in manifest.inputs else manifest.name
        origins = quoted.get(manifest.name, set())
        recipe, model = next(iter(origins)) if len(origins) == 1 else ("", model)
        yield from _rows(
            scores, recipe=recipe, model=model, created=manifest.created,
            evaluation=artifact.fingerprint, tokens=manifest.metrics.get("completion_tokens"),
        )  # fmt: skip


def replaced(entries: Iterable[Entry], ranks: Mapping[int, tuple[int | None, int]]) -> list[Entry]:
    """The entries with (rank, models compared) by position; others as they are."""
    made = []
    for at, entry in enumerate(entries):
        if at in ranks:
            rank, compared = ranks[at]
            row = entry.row.model_copy(update={"rank": rank, "compared": compared})
            entry = replace(entry, row=row)
        made.append(entry)
    return made
