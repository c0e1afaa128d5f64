"""What a report shows of stages that keep some traces and drop others."""

from collections.abc import Sequence

from factory.core.artifacts import Artifact
from factory.core.blocks import Bar, Block, Cell, Fold, Sample, Samples, Table, Text
from factory.core.jsonl import read_records
from factory.core.readable import count, percent, plural
from factory.stages.fitness import Rejected

HEADER = ("fate", "traces", "share", "")


def fates(artifact: Artifact) -> Sequence[Block]:
    """How many traces were kept, why the others were dropped, most frequent first, and the first
    trace dropped for each reason."""
    metrics = artifact.manifest.metrics
    counts = {
        key.removeprefix("rejected."): round(value)
        for key, value in metrics.items()
        if key.startswith("rejected.") and value > 0
    }
    reasons = sorted(counts, key=lambda reason: (-counts[reason], reason))
    kept = round(metrics.get("kept", 0))
    total = kept + sum(counts.values())
    share = f" ({percent(kept / total)})" if total else ""
    rows = [("kept", kept, "kept"), *((f"dropped: {r}", counts[r], "dropped") for r in reasons)]
    blocks: list[Block] = [
        Text(f"{count(kept)} of {plural(total, 'trace')} kept{share}."),
        Table(
            HEADER,
            tuple(
                (fate, count(n), percent(n / (total or 1)), _bar(n, total, look))
                for fate, n, look in rows
            ),
            numbers=(1, 2),
            label=f"Fate of the traces of {artifact.manifest.name}",
        ),
    ]
    examples = _first_rejected(artifact)
    samples = tuple(examples[reason] for reason in reasons if reason in examples)
    if samples:
        title = "The first trace dropped for each reason"
        blocks.append(Fold(title, (Samples(samples),), on_page_only=True))
    return blocks


def _bar(number: int, total: int, look: str) -> Cell:
    return Cell(bar=Bar(((look, float(number)),), look, float(total)))


def _first_rejected(artifact: Artifact) -> dict[str, Sample]:
    if "rejected.jsonl" not in artifact.manifest.files:
        return {}
    first: dict[str, Sample] = {}
    for row in read_records(artifact.file("rejected.jsonl"), Rejected):
        if row.reason not in first:
            first[row.reason] = Sample.of(row.reason, row.trace)
    return first
