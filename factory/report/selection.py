"""What became of traces on their way: selected, rewritten, reviewed, mixed."""

from collections.abc import Mapping, Sequence

from factory.artifacts import Artifact
from factory.jsonl import read_records
from factory.report.records import (
    DomainRow,
    Mixture,
    Rejection,
    Rewriting,
    Sample,
    Selection,
    Step,
)
from factory.report.stories import LIMIT, sample_of
from factory.report.text import clip, percent
from factory.stages.fitness import Rejected
from factory.stages.mix import DOMAINS
from factory.stages.review import statement
from factory.stages.rewrite import Reply

SELECTING = ("select", "rewrite", "review")
"""Kinds of stages that keep some traces and drop others."""


def selections(steps: Sequence[Step]) -> list[Selection]:
    """What each sealed stage that drops traces kept, and why it dropped the others."""
    return [
        _selection(step.name, step.stage, step.artifact)
        for step in steps
        if step.artifact is not None and step.stage in SELECTING
    ]


def _selection(name: str, kind: str, artifact: Artifact) -> Selection:
    metrics = artifact.manifest.metrics
    counts = {
        key.removeprefix("rejected."): round(value)
        for key, value in metrics.items()
        if key.startswith("rejected.") and value > 0
    }
    examples = _first_rejected(artifact)
    return Selection(
        stage=name,
        kind=kind,
        kept=round(metrics.get("kept", 0)),
        remark=review_remark(metrics, str(artifact.manifest.config.get("policy")))
        if kind == "review"
        else "",
        rejections=tuple(
            Rejection(reason=reason, count=counts[reason], example=examples.get(reason))
            for reason in sorted(counts, key=lambda reason: (-counts[reason], reason))
        ),
        rewriting=_first_rewriting(artifact) if kind == "rewrite" else None,
    )


def review_remark(metrics: Mapping[str, float], policy: str) -> str:
    """Who decided about a review's traces, and how far two passes agree."""
    people, rest = round(metrics.get("by_person", 0)), round(metrics.get("by_policy", 0))
    told = statement(people, people + rest, policy)
    if "agreement.n" not in metrics:
        return told
    kappa = metrics.get("agreement.kappa")
    shown = "not defined" if kappa is None else f"{kappa:.2f}"
    return (
        f"{told}; two passes agree on {percent(metrics['agreement.share'], 0)} of "
        f"{round(metrics['agreement.n'])} traces, Cohen's kappa {shown}"
    )


def _first_rejected(artifact: Artifact) -> dict[str, Sample]:
    """The first rejected trace of each reason."""
    if "rejected.jsonl" not in artifact.manifest.files:
        return {}
    found: dict[str, Sample] = {}
    for row in read_records(artifact.file("rejected.jsonl"), Rejected):
        if row.reason not in found:
            found[row.reason] = sample_of(row.reason, row.trace)
    return found


def _first_rewriting(artifact: Artifact) -> Rewriting | None:
    """The first reply that was kept, beside its draft."""
    if "replies.jsonl" not in artifact.manifest.files:
        return None
    for row in read_records(artifact.file("replies.jsonl"), Reply):
        if row.reason is None:
            return Rewriting(draft=clip(row.draft, LIMIT)[0], reply=clip(row.reply, LIMIT)[0])
    return None


def mixtures(steps: Sequence[Step]) -> list[Mixture]:
    """The domains of each sealed mixture whose parts state them, beside those of R1's SFT set."""
    found = []
    for step in steps:
        metrics = step.artifact.manifest.metrics if step.artifact is not None else {}
        rows = tuple(
            DomainRow(
                domain=domain,
                kept=round(metrics[f"domains.{domain}.kept"]),
                share=metrics[f"domains.{domain}.share"],
                r1_share=metrics[f"domains.{domain}.r1_share"],
            )
            for domain in DOMAINS
            if f"domains.{domain}.kept" in metrics
        )
        if rows:
            found.append(Mixture(stage=step.name, rows=rows))
    return found
