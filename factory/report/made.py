"""What sealed artifacts say of their making."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from factory.building.pricing import recorded
from factory.core.artifacts import Artifact, Manifest
from factory.report.records import Made, StageRow, Step
from factory.stages import STAGES


def stage_row(step: Step) -> StageRow:
    """What a stage was asked for, and what its artifact says."""
    artifact = step.artifact
    return StageRow(
        name=step.name,
        kind=step.stage,
        produces=step.produces,
        inputs=dict(step.inputs),
        config=dict(step.config or (artifact.manifest.config if artifact is not None else {})),
        made=None if artifact is None else _made(artifact),
    )


def _made(artifact: Artifact) -> Made:
    manifest = artifact.manifest
    metrics = {name: _finite(value) for name, value in sorted(manifest.metrics.items())}
    tokens = metrics.get("completion_tokens")
    learns = manifest.stage in STAGES and STAGES[manifest.stage].tokens == "learned"
    return Made(
        folder=artifact.path.name,
        fingerprint=manifest.fingerprint,
        content=manifest.content,
        seed=manifest.seed,
        seconds=manifest.seconds,
        estimate=recorded(artifact),
        peak_memory_gib=manifest.peak_memory_gib,
        sampled_tokens=None if tokens is None or learns else round(tokens),
        learned_tokens=round(tokens) if tokens is not None and learns else None,
        size_bytes=sum(entry.size for entry in manifest.files.values()),
        commit=manifest.commit,
        dirty=manifest.dirty,
        created=manifest.created,
        metrics=metrics,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def commit_of(manifest: Manifest) -> str:
    """The commit of the code, with `(dirty)` where the tree had changes."""
    return manifest.commit + (" (dirty)" if manifest.dirty else "")


def variants(tables: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """All values that each key takes, keys and values sorted."""
    values: dict[str, set[str]] = {}
    for table in tables:
        for key, value in table.items():
            values.setdefault(key, set()).add(str(value))
    return {key: tuple(sorted(values[key])) for key in sorted(values)}
