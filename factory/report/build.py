"""Artifacts -> Report, purely: no clock, no environment, no paths outside the artifacts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from factory.artifacts import Artifact, Manifest
from factory.evaluation.claim import Claim
from factory.pricing import recorded
from factory.report.asked import all_asked
from factory.report.browser import browser
from factory.report.claims import claim_rows
from factory.report.contamination import contaminations
from factory.report.curves import training_runs
from factory.report.evolution import evolutions
from factory.report.headline import headline
from factory.report.lineage import index
from factory.report.records import Contamination, Made, Report, StageRow, Step
from factory.report.scorecard import (
    all_answers,
    compare,
    evaluations,
    published_scores,
    tallies,
    traps,
)
from factory.report.selection import mixtures, selections
from factory.report.stories import stories
from factory.report.strata import all_strata
from factory.report.text import plural
from factory.stages import STAGES


def build(
    recipe_name: str, description: str, steps: Sequence[Step], claims: Sequence[Claim] = ()
) -> Report:
    """The report of one recipe's plan, from what of it is sealed.

    `steps` are in plan order. A step without artifact is listed as not made, and everything that
    does not need it is still shown. Raises ArtifactError or DataError where an artifact's files
    are missing or malformed.
    """
    by_name = index(steps)
    rows = evaluations(by_name)
    answers = all_answers(rows, by_name)
    asked = all_asked(rows, answers, by_name)
    comparisons = compare(rows, answers, by_name)
    overlapping = contaminations(rows, answers, by_name)
    runs = training_runs(steps)
    manifests = [step.artifact.manifest for step in steps if step.artifact is not None]
    stages = tuple(_stage_row(step) for step in steps)
    return Report(
        recipe=recipe_name,
        description=description,
        headline=headline(
            rows,
            comparisons,
            stages,
            [*traps(rows, answers), *_unsandboxed(manifests), *_trained_on(overlapping)],
        ),
        claims=tuple(claim_rows(claims, by_name)),
        stages=stages,
        evaluations=tuple(rows),
        comparisons=tuple(comparisons),
        reproductions=tuple(published_scores(rows, answers, by_name)),
        runs=tuple(runs),
        evolutions=tuple(evolutions(steps, runs)),
        selections=tuple(selections(steps)),
        mixtures=tuple(mixtures(steps)),
        stories=tuple(stories(rows, answers, asked)),
        browser=browser(rows, answers, asked),
        tallies=tuple(tallies(rows, answers)),
        strata=tuple(all_strata(rows, answers, asked)),
        contaminations=tuple(overlapping),
        packages=_variants(manifest.versions for manifest in manifests),
        machine=_variants(manifest.machine for manifest in manifests),
        commits=tuple(sorted({_commit(manifest) for manifest in manifests})),
    )


def _unsandboxed(manifests: Sequence[Manifest]) -> list[str]:
    """A warning about artifacts that were made with the sandbox switched off."""
    names = [manifest.name for manifest in manifests if manifest.machine.get("unsandboxed")]
    if not names:
        return []
    return [f"unsandboxed: made while models' programs ran without isolation: {', '.join(names)}"]


def _trained_on(found: Sequence[Contamination]) -> list[str]:
    """A warning about scores on questions that the model was trained on as they are."""
    return [
        f"{one.label} was trained on {one.same} of {plural(one.problems, 'question')} of "
        f"{one.benchmark} as they are."
        for one in found
        if one.same
    ]


def _stage_row(step: Step) -> StageRow:
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


def _commit(manifest: Manifest) -> str:
    return manifest.commit + (" (dirty)" if manifest.dirty else "")


def _variants(tables: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """All values that each key takes, keys and values sorted."""
    found: dict[str, set[str]] = {}
    for table in tables:
        for key, value in table.items():
            found.setdefault(key, set()).add(str(value))
    return {key: tuple(sorted(found[key])) for key in sorted(found)}
