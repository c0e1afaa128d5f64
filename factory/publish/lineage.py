"""From prompt to score, every step with its hashes: what makes a published folder checkable."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from factory.building.plan import put
from factory.core.artifacts import (
    MANIFEST,
    Artifact,
    FileEntry,
    content_hash,
    find,
    sha256_file,
    survey,
)
from factory.core.errors import ArtifactError
from factory.core.files import note, write_file
from factory.core.records import ArtifactKind, Record

LINEAGE = "lineage.json"
HUB_OWN = (".gitattributes",)
"""Files that a hub adds to a repository by itself; they are not ours to check."""


class Origin(Record):
    """One sealed artifact on the way: its manifest without what names the machine."""

    name: str
    """Unique in this lineage; two stages of one name are told apart by their fingerprints."""
    stage: str
    kind: ArtifactKind
    fingerprint: str
    content: str
    seed: int
    config: dict[str, Any]
    inputs: dict[str, str]
    """Fingerprints by field path."""
    metrics: dict[str, float]
    versions: dict[str, str]
    commit: str
    dirty: bool
    files: dict[str, FileEntry]


class Lineage(Record):
    """What was published, from what, and the hash of every file of the folder but this one."""

    format: Literal[1]
    name: str
    artifact: str
    """Fingerprint of the published artifact."""
    licence: str
    origins: tuple[Origin, ...]
    """Inputs first, then the artifact itself, then the scores of it."""
    files: dict[str, FileEntry]


def ancestry(artifact: Artifact, store: Path) -> list[Artifact]:
    """Every artifact that led to this one, inputs first, itself last.

    ArtifactError where one is no longer in the store: nothing can be said about what it held.
    """
    order: dict[str, Artifact] = {}

    def visit(current: Artifact) -> None:
        if current.fingerprint in order:
            return
        for path, entry in current.manifest.inputs.items():
            source = find(store, entry.fingerprint)
            if source is None:
                raise ArtifactError(
                    f"{current.name}: its input {path} ({entry.name}, {entry.fingerprint[:12]}) is "
                    f"not in {store}: the lineage is not whole; build the recipe again"
                )
            visit(source)
        order[current.fingerprint] = current

    visit(artifact)
    return list(order.values())


def scores_of(artifact: Artifact, store: Path) -> list[Artifact]:
    """The evaluations of a model, oldest first.

    ArtifactError where a broken folder speaks of this model: an evaluation must not be left out.
    """
    intact, broken = survey(store)
    for folder, error in broken.items():
        manifest = folder / MANIFEST
        if manifest.is_file() and artifact.fingerprint.encode() in manifest.read_bytes():
            raise error
        note(f"left out: {error}")
    return [
        scores
        for scores in intact
        if scores.manifest.kind == "scores"
        and any(
            path == "model" and entry.fingerprint == artifact.fingerprint
            for path, entry in scores.manifest.inputs.items()
        )
    ]


def origins(artifacts: Iterable[Artifact]) -> tuple[Origin, ...]:
    """The artifacts as records, each under a name of its own, references by these names."""
    artifacts = list({artifact.fingerprint: artifact for artifact in artifacts}.values())
    names: dict[str, str] = {}
    for artifact in artifacts:
        name = artifact.name
        if name in names.values():
            name = f"{name[:51]}_{artifact.fingerprint[:12]}"
        names[artifact.fingerprint] = name
    return tuple(_origin(artifact, names) for artifact in artifacts)


def _origin(artifact: Artifact, names: Mapping[str, str]) -> Origin:
    manifest = artifact.manifest
    config = _portable(manifest.config)
    for path, entry in manifest.inputs.items():
        put(config, path, names.get(entry.fingerprint, entry.name))
    return Origin(
        name=names[artifact.fingerprint],
        stage=manifest.stage,
        kind=manifest.kind,
        fingerprint=manifest.fingerprint,
        content=manifest.content,
        seed=manifest.seed,
        config=config,
        inputs={path: entry.fingerprint for path, entry in manifest.inputs.items()},
        metrics=manifest.metrics,
        versions=manifest.versions,
        commit=manifest.commit,
        dirty=manifest.dirty,
        files=manifest.files,
    )


def _portable(value: Any, key: str = "") -> Any:
    """A config without folders of this machine: of an absolute `path` the last name stays."""
    if isinstance(value, dict):
        return {name: _portable(item, name) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(item, key) for item in value]
    if key == "path" and isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return value


def resolved_recipe(name: str, lineage: Iterable[Origin]) -> dict[str, Any]:
    """A recipe that makes all of the lineage; it loads, and gives equal fingerprints."""
    stages = {step.name: {**step.config, "seed": step.seed} for step in lineage}
    return {"name": name[:64].replace(".", "_"), "stages": stages}


def write_lineage(
    folder: Path, name: str, artifact: Artifact, *, licence: str, made_from: tuple[Origin, ...]
) -> str:
    """Hash every file of the folder into its lineage.json; returns the hash of that file."""
    files = {path: _entry(folder / path) for path in _files(folder) if path != LINEAGE}
    lineage = Lineage(
        format=1,
        name=name,
        artifact=artifact.fingerprint,
        licence=licence,
        origins=made_from,
        files=files,
    )
    target = folder / LINEAGE
    write_file(target, lineage.model_dump_json(indent=2) + "\n")
    return sha256_file(target)


def read_lineage(folder: Path) -> Lineage:
    """The lineage of a published folder; ArtifactError where there is none that can be read."""
    path = folder / LINEAGE
    try:
        return Lineage.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{folder}: not a published folder: no readable {LINEAGE}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{path}: broken: {where}: {first['msg']}") from error


def faults(folder: Path) -> list[str]:
    """What in a published folder is not as its lineage says, one line each; empty if all is.

    Besides the files: every artifact's content hash must follow from its files' hashes, every
    input must be there, and the published artifact must be one of them.
    """
    lineage = read_lineage(folder)
    messages = []
    there = {path for path in _files(folder) if path != LINEAGE and path not in HUB_OWN}
    for path, entry in lineage.files.items():
        if path not in there:
            messages.append(f"{path}: is missing")
        elif (folder / path).stat().st_size != entry.size:
            size = (folder / path).stat().st_size
            messages.append(f"{path}: has {size} bytes, the lineage says {entry.size}")
        elif sha256_file(folder / path) != entry.sha256:
            messages.append(f"{path}: its content differs from the lineage (sha256)")
    messages += [f"{path}: is not in the lineage" for path in sorted(there - set(lineage.files))]
    return messages + _broken_links(lineage)


def _broken_links(lineage: Lineage) -> list[str]:
    fingerprints = {origin.fingerprint for origin in lineage.origins}
    messages = (
        [] if lineage.artifact in fingerprints else [f"{LINEAGE}: lacks the published artifact"]
    )
    for origin in lineage.origins:
        if content_hash(origin.files) != origin.content:
            messages.append(f"{LINEAGE}: {origin.name}: its content is not that of its files")
        for path, fingerprint in origin.inputs.items():
            if fingerprint not in fingerprints:
                messages.append(f"{LINEAGE}: {origin.name}: its input {path} is not there")
    return messages


def places_of(file: Path, lineage: Lineage) -> list[str]:
    """Where in a lineage a file of these bytes stands: `kept/traces.jsonl`."""
    digest = sha256_file(file)
    places = [
        f"{origin.name}/{path}"
        for origin in lineage.origins
        for path, entry in origin.files.items()
        if entry.sha256 == digest
    ]
    return places + [path for path, entry in lineage.files.items() if entry.sha256 == digest]


def _entry(path: Path) -> FileEntry:
    return FileEntry(size=path.stat().st_size, sha256=sha256_file(path))


def _files(folder: Path) -> list[str]:
    """Relative paths of all files, sorted; what git keeps for itself is left out."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return sorted(path.as_posix() for path in paths if path.parts[0] != ".git")
