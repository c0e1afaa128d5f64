"""Fill a folder, put it before the gate, and let it have its name only if it passes."""

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from factory.core.artifacts import Artifact, verify
from factory.core.errors import ArtifactError, RecipeError
from factory.core.files import fsync
from factory.core.machine import Machine
from factory.publish import dataset
from factory.publish.card import Card, add_gaps, write_card
from factory.publish.export import (
    is_weights,
    refuse_served,
    write_adapters,
    write_json,
    write_settings,
    write_weights,
)
from factory.publish.gate import (
    Check,
    Subject,
    as_gaps,
    examine_settings,
    examine_text,
    examine_weights,
)
from factory.publish.hub import check_repository
from factory.publish.licences import Terms, sources, terms
from factory.publish.lineage import (
    Origin,
    ancestry,
    faults,
    origins,
    read_lineage,
    resolved_recipe,
    scores_of,
    write_lineage,
)
from factory.publish.template import training_prompt

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
TOKENS = 512
"""Longest answer of the gate's own questions."""


@dataclass(frozen=True)
class Target:
    """Where to publish: a new folder, which for a hub is what will be uploaded."""

    folder: Path
    repository: str = ""
    """ORG/NAME on a hub; empty for a folder that is all."""

    @property
    def address(self) -> str:
        """What transformers and vLLM load it by."""
        return self.repository or self.folder.name


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    files: Mapping[str, int]
    """Bytes by path, of what is or would be published."""
    checks: Sequence[Check]
    terms: Terms
    lineage: str = ""
    """sha256 of lineage.json: whoever holds it can check all the rest. Empty for a trial."""


@dataclass(frozen=True)
class _Draft:
    """A filled folder before it is run."""

    subject: Subject
    ancestors: Sequence[Artifact]
    """What led to the artifact, itself last."""
    origins: tuple[Origin, ...]
    checks: list[Check]


def publish(
    artifact: Artifact,
    target: Target,
    machine: Machine,
    *,
    licences: Mapping[str, str],
    is_trial: bool,
    is_private: bool = False,
    tokens: int = TOKENS,
) -> Outcome:
    """Write the artifact as `target`, unless a check refuses it; a trial leaves nothing behind.

    A private export names in its card what it lacks for others, and is written without it. A trial
    makes the checks that need neither weights nor rows. ArtifactError for artifacts that
    are neither model nor traces, whose ancestry is not whole, or whose folder exists already.
    """
    _check_target(target.folder, artifact)
    verify(artifact, was_checked=is_trial)
    if is_trial:
        with tempfile.TemporaryDirectory(prefix="factory-publish-") as scratch:
            draft = _write_small(artifact, Path(scratch), target, licences)
            weights = {n: e.size for n, e in artifact.manifest.files.items() if is_weights(n)}
            return Outcome({**_sizes(Path(scratch)), **weights}, draft.checks, draft.subject.terms)
    partial = target.folder.with_name(target.folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        draft = _write_small(artifact, partial, target, licences)
        draft.checks.extend(_write_large(draft))
        return _finish(draft, target.folder, machine, tokens=tokens, is_private=is_private)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_small(
    artifact: Artifact, folder: Path, target: Target, licences: Mapping[str, str]
) -> _Draft:
    """All files but weights and rows, and the checks of these files."""
    name = target.folder.name
    store = artifact.path.parent
    ancestors = ancestry(artifact, store)
    is_model = artifact.manifest.kind == "model"
    scores = scores_of(artifact, store) if is_model else []
    made_from = origins(
        [*ancestors, *(ancestor for s in scores for ancestor in ancestry(s, store))]
    )
    used = sources(artifact, ancestors, licences)
    stated_terms = terms(name, used)
    prompt = training_prompt(artifact, ancestors)
    subject = Subject(folder, artifact, prompt, scores, stated_terms, (Path.cwd(), store.resolve()))
    write_json(folder / "recipe.json", resolved_recipe(name, made_from))
    if not is_model:
        dataset.write_card(name, artifact, made_from, used, stated_terms, folder)
        return _Draft(subject, ancestors, made_from, examine_text(subject))
    write_settings(artifact, prompt, folder)
    card = Card(name, target.address, artifact, made_from, used, stated_terms, prompt, scores)
    write_card(card, folder)
    checks = [*examine_text(subject), *examine_settings(subject)]
    return _Draft(subject, ancestors, made_from, checks)


def _write_large(draft: _Draft) -> list[Check]:
    """Weights or rows, and their checks."""
    subject = draft.subject
    if subject.artifact.manifest.kind == "model":
        write_weights(subject.artifact, subject.folder)
        write_adapters(subject.artifact, draft.ancestors, subject.folder)
        return [examine_weights(subject)]
    return dataset.write_rows(subject.artifact, draft.ancestors, subject.folder, subject.places)


def _finish(
    draft: _Draft, target: Path, machine: Machine, *, tokens: int, is_private: bool
) -> Outcome:
    """Run the model, write gate and lineage, and give the folder its name if nothing refuses."""
    subject, folder = draft.subject, draft.subject.folder
    checks = as_gaps(draft.checks) if is_private else draft.checks
    terms_asked = subject.terms
    if subject.artifact.manifest.kind == "model" and not refused(checks):
        from factory.publish.running import examine_running, learned_questions

        learned = learned_questions(draft.ancestors) if is_private else []
        ran = examine_running(subject, machine, tokens=tokens, learned=learned)
        checks = [*checks, *ran]
        checks = as_gaps(checks) if is_private else checks
    if refused(checks):
        return Outcome(_sizes(folder), checks, terms_asked)
    if is_private:
        add_gaps(folder, [f"{c.name}: {c.reason}" for c in checks if c.status == "gap"])
    write_json(folder / "gate.json", [check.model_dump() for check in checks])
    digest = write_lineage(
        folder,
        target.name,
        subject.artifact,
        licence=terms_asked.licence,
        made_from=draft.origins,
    )
    if broken := faults(folder):
        raise AssertionError(f"a folder that was just written is not as its lineage: {broken}")
    for path in _files(folder):
        fsync(path)
    if target.is_dir():
        target.rmdir()
    folder.rename(target)
    fsync(target.parent)
    return Outcome(_sizes(target), checks, terms_asked, digest)


def refused(checks: Sequence[Check]) -> list[Check]:
    """The checks that refuse the folder."""
    return [check for check in checks if check.status == "refused"]


def target_of(to: str, store: Path) -> Target:
    """What `--to` names; a hub's folder lies in the store, so that a second call finds it."""
    if not to.startswith("hub:"):
        return Target(Path(to))
    repository = to.removeprefix("hub:")
    check_repository(repository)
    return Target(store / "published" / repository, repository)


def is_written(target: Target, artifact: Artifact) -> bool:
    """Whether an earlier call has published this artifact to the target's folder.

    ArtifactError where the folder holds another one, was changed since, or lacks a newer score.
    """
    if not target.folder.is_dir() or not any(target.folder.iterdir()):
        return False
    lineage = read_lineage(target.folder)
    if lineage.artifact != artifact.fingerprint:
        raise ArtifactError(
            f"{target.folder}: holds another artifact ({lineage.artifact[:12]}); publish under "
            "another name, or remove the folder"
        )
    if broken := faults(target.folder):
        raise ArtifactError(
            f"{target.folder}: changed since the gate let it through: {broken[0]}; remove it"
        )
    fingerprints = {origin.fingerprint for origin in lineage.origins}
    newer = [
        s.name
        for s in scores_of(artifact, artifact.path.parent)
        if s.fingerprint not in fingerprints
    ]
    if newer:
        raise ArtifactError(f"{target.folder}: written before {newer[0]} was measured; remove it")
    return True


def _check_target(target: Path, artifact: Artifact) -> None:
    if artifact.manifest.kind not in ("model", "traces"):
        raise ArtifactError(
            f"{artifact.path}: holds {artifact.manifest.kind}; models and traces can be published"
        )
    refuse_served(artifact)
    if not NAME.fullmatch(target.name):
        raise RecipeError(
            f"--to {target}: the folder's name becomes the published name: letters, digits, "
            "'.', '_' and '-', at most 96"
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ArtifactError(f"--to {target}: exists already; name a new folder or remove it")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sizes(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in _files(folder)}
