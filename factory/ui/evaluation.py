"""`factory eval`: from names on the command line to a recipe, and its results as tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.building.plan import make_plan
from factory.building.recipe import MACHINE_KEY, Recipe
from factory.building.suite import (
    PROTOCOL_KEY,
    Suite,
    endpoint_source,
    evaluation_name,
    evaluation_recipe,
    hub_source,
    load_protocol,
    load_suite,
    stage_name,
)
from factory.core.artifacts import MANIFEST, Artifact, check_files, find, open_artifact, verify
from factory.core.errors import RecipeError
from factory.ui.console import Console, Text
from factory.ui.tables import lookup


@dataclass(frozen=True)
class Evaluation:
    """What `factory eval` builds, and how its results are to be read."""

    recipe: Recipe
    suite: Suite
    models: tuple[str, ...]
    """Names of the model stages asked about."""
    baseline: str | Artifact | None
    """The model stage, or the sealed scores, that each is compared with."""


def evaluation_of(
    models: Sequence[str], *, suite: str, protocol: str | None, against: str | None, store: Path,
    overrides: Sequence[str] = (),
) -> Evaluation:  # fmt: skip
    """The evaluation of these models: artifacts, folders, `owner/name@commit`, `embedded`, or
    served ones as `URL#NAME`; `overrides` change the protocol: `protocol.limit=5`.

    RecipeError or ArtifactError says which name means nothing.
    """
    named = load_suite(suite)
    chosen = protocol or named.protocol
    for override in overrides:
        if not override.startswith((PROTOCOL_KEY, MACHINE_KEY)):
            raise RecipeError(f"--set {override}: eval takes protocol.KEY=VALUE, machine.KEY=VALUE")
    stages: dict[str, Mapping[str, Any]] = {}

    def add(text: str) -> str:
        fields = model_fields(text, store)
        same = [name for name, stage in stages.items() if stage == fields]
        name = same[0] if same else stage_name(text, [*stages, *named.problems])
        stages[name] = fields
        return name

    names = tuple(dict.fromkeys(add(text) for text in models))
    baseline: str | Artifact | None = None
    if against is not None:
        baseline = _scores(against, store) or add(against)
    recipe = evaluation_recipe(
        stages, named, load_protocol(chosen, overrides), name=f"eval-{suite}-{chosen}"[:64]
    )
    return Evaluation(recipe, named, names, baseline)


def model_fields(text: str, store: Path) -> dict[str, Any]:
    """Settings of a model stage for a name on the command line."""
    if text == "embedded":
        return {"kind": "model", "source": {"type": "embedded"}}
    elsewhere = hub_source(text) or endpoint_source(text)
    if elsewhere is not None:
        return elsewhere
    folder = Path(text)
    if (folder / "config.json").is_file() and not (folder / MANIFEST).exists():
        return {"kind": "model", "source": {"type": "local", "path": text}}
    is_sealed = (folder / MANIFEST).exists()
    artifact = open_artifact(folder) if is_sealed else lookup(text, store, kind="model")
    if artifact is None or artifact.manifest.kind != "model":
        raise RecipeError(
            f"{text}: no model: neither a folder with a config.json, nor an artifact of {store}, "
            "nor a hub model owner/name@commit (40 hex digits), nor a served one URL#NAME, nor "
            "`embedded`"
        )
    verify(artifact, was_checked=True)
    manifest = artifact.manifest
    if manifest.stage == "model":
        # The same settings and seed have the same fingerprint: the artifact itself is taken.
        return {**manifest.config, "kind": "model", "seed": manifest.seed}
    return {"kind": "model", "source": {"type": "local", "path": str(artifact.path)}}


def _scores(text: str, store: Path) -> Artifact | None:
    """Sealed scores, checked before anything is measured for hours; None for another name."""
    is_sealed = (Path(text) / MANIFEST).exists()
    scores = open_artifact(Path(text)) if is_sealed else lookup(text, store, kind="scores")
    if scores is None or scores.manifest.kind != "scores":
        return None
    check_files(scores)
    return scores


def evaluation_fields(evaluation: Evaluation, store: Path) -> dict[str, Any]:
    """What `show_evaluation` shows, for programs."""
    from factory.evaluation.compare import compare
    from factory.evaluation.summary import summaries

    scores = _made(evaluation, store)
    baseline = evaluation.baseline
    other = scores[evaluation_name(baseline)] if isinstance(baseline, str) else baseline
    rows: list[dict[str, Any]] = []
    for model in evaluation.models:
        own = scores[evaluation_name(model)]
        against = compare(own, other) if other is not None and model != baseline else []
        rows.append(
            {
                "model": model,
                "scores": str(own.path),
                "benchmarks": [row.model_dump() for row in summaries(own)],
                "against": [row.model_dump() for row in against],
            }
        )
    not_run = [row.model_dump() for row in evaluation.suite.not_run]
    return {"models": rows, "baseline": other and str(other.path), "not_run": not_run}


def _made(evaluation: Evaluation, store: Path) -> dict[str, Artifact]:
    """The artifacts of its steps by name."""
    artifacts = {step.name: find(store, step.fingerprint) for step in make_plan(evaluation.recipe)}
    return {name: artifact for name, artifact in artifacts.items() if artifact is not None}


def show_evaluation(evaluation: Evaluation, store: Path, console: Console) -> None:
    """The scores of each model, what was not run and why, and comparisons with the baseline."""
    from factory.evaluation.compare import compare
    from factory.evaluation.summary import summaries
    from factory.ui.scores import show_comparisons, show_summaries

    scores = _made(evaluation, store)
    for model in evaluation.models:
        console.rule(Text(model, "bold"))
        show_summaries(summaries(scores[evaluation_name(model)]), console)
    for benchmark in evaluation.suite.not_run:
        console.print(
            f"not run: {benchmark.name}: {benchmark.reason}", markup=False, highlight=False
        )
    baseline = evaluation.baseline
    if baseline is None:
        return
    other = scores[evaluation_name(baseline)] if isinstance(baseline, str) else baseline
    for model in evaluation.models:
        if model != baseline:
            console.rule(Text(f"{model} against {other.name}", "bold"))
            show_comparisons(compare(scores[evaluation_name(model)], other), console)
