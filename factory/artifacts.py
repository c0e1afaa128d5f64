"""Sealed artifacts: folders that are complete or do not exist.

    artifacts/<name>-<12 hex>/           sealed: content files + manifest.json
    artifacts/<name>-<12 hex>.partial/   being made; its content is never trusted
    artifacts/<name>-<12 hex>.run/       log.txt, metrics.jsonl, scratch/: how it was made

A stage fills `.partial`; sealing fsyncs every file, writes the manifest last and renames. The
content (every file but the manifest) is the same bytes each time it is made on one machine;
seconds, commit and machine live in the manifest and in `.run`.
"""

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from factory.errors import ArtifactError
from factory.jsonl import append_rows, read_records, recover_rows
from factory.records import ArtifactKind, Record, Trace

MANIFEST = "manifest.json"
SHORT = 12


class FileEntry(Record):
    size: int
    sha256: str


class InputEntry(Record):
    name: str
    fingerprint: str


class Manifest(Record):
    """Everything known about how an artifact was made."""

    kind: ArtifactKind
    name: str
    """The stage's name in its recipe."""
    stage: str
    """The stage's kind: model, problems, generate, ..."""
    stage_version: int
    fingerprint: str
    """sha256 of kind, version, config, seed, input fingerprints and package versions."""
    content: str
    """sha256 over the names and hashes of all content files: equal bytes, equal content."""
    config: dict[str, Any]
    inputs: dict[str, InputEntry]
    """By field path, as the stage's config names them."""
    seed: int
    metrics: dict[str, float]
    versions: dict[str, str]
    machine: dict[str, Any]
    commit: str
    dirty: bool
    seconds: float
    peak_memory_gib: float
    created: str
    """UTC, ISO 8601."""
    files: dict[str, FileEntry]


@dataclass(frozen=True)
class Artifact:
    """A sealed folder and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def run_path(self) -> Path:
        """The folder with its log and telemetry; may be missing where it was copied without."""
        return self.path.with_name(self.path.name + ".run")

    def file(self, name: str) -> Path:
        """Path of a content file; ArtifactError if the artifact has none of that name."""
        if name not in self.manifest.files:
            raise ArtifactError(f"{self.path}: has no file {name!r}")
        return self.path / name

    def traces(self) -> Iterator[Trace]:
        """The traces of a traces artifact, in order of (problem, sample)."""
        return read_records(self.file("traces.jsonl"), Trace)


class Inputs(dict[str, Artifact]):
    """A stage's opened inputs by field path: `inputs["model"]`, `inputs["parts.0.traces"]`."""

    def many(self, field: str) -> list[Artifact]:
        """The inputs of a tuple field, in the recipe's order."""
        prefix = field + "."
        keys = [key for key in self if key.startswith(prefix)]
        return [self[key] for key in sorted(keys, key=lambda key: int(key.split(".")[1]))]


def folder_name(name: str, fingerprint: str) -> str:
    return f"{name}-{fingerprint[:SHORT]}"


def find(root: Path, fingerprint: str) -> Artifact | None:
    """The sealed artifact of this fingerprint under `root`, whatever its name, or None."""
    for path in sorted(root.glob(f"*-{fingerprint[:SHORT]}")):
        if (path / MANIFEST).exists():
            artifact = open_artifact(path)
            if artifact.fingerprint == fingerprint:
                return artifact
    return None


def stored(store: Path) -> list[Artifact]:
    """All sealed artifacts of a store, oldest first."""
    # A build killed while it sealed may have left a manifest in a folder that is not sealed.
    sealed = [path.parent for path in store.glob("*/manifest.json") if not path.parent.suffix]
    found = [open_artifact(folder) for folder in sealed]
    return sorted(found, key=lambda artifact: (artifact.manifest.created, artifact.name))


def open_artifact(path: Path) -> Artifact:
    """Open a sealed folder; ArtifactError if it has no valid manifest. Hashes: see `verify`."""
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: not a sealed artifact: no readable {MANIFEST}") from error
    try:
        return Artifact(path, Manifest.model_validate_json(text))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{path / MANIFEST}: broken: {where}: {first['msg']}") from error


def verify(artifact: Artifact, *, known: bool = False) -> None:
    """Compare every file with the manifest; ArtifactError names the first that differs.

    With `known`, a file whose size, inode and modification time are those of the last full check
    is not read again: that is what makes a second build start at once. Inputs of a stage that is
    about to run are always read in full.
    """
    stamps_path = artifact.run_path / "verified.jsonl"
    stamps = {row["file"]: row["stamp"] for row in recover_rows(stamps_path)} if known else {}
    fresh = []
    for name, entry in artifact.manifest.files.items():
        path = artifact.path / name
        try:
            stat = path.stat()
            stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
            if stat.st_size != entry.size:
                raise ArtifactError(f"{path}: {stat.st_size} bytes, the manifest says {entry.size}")
            if stamps.get(name) == stamp:
                continue
            if sha256_file(path) != entry.sha256:
                raise ArtifactError(
                    f"{path}: content differs from its manifest (sha256); "
                    f"delete {artifact.path} and build again to make it anew"
                )
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from error
        fresh.append({"file": name, "stamp": stamp})
    if known and fresh:
        stamps_path.parent.mkdir(exist_ok=True)
        append_rows(stamps_path, fresh)


def seal(partial: Path, final: Path, fields: Mapping[str, Any]) -> Artifact:
    """Hash and fsync every file of `partial`, write the manifest last, rename to `final`.

    `fields` are the manifest's fields except `files` and `content`.
    """
    files: dict[str, FileEntry] = {}
    for path in sorted(p for p in partial.rglob("*") if p.is_file()):
        name = path.relative_to(partial).as_posix()
        files[name] = FileEntry(size=path.stat().st_size, sha256=sha256_file(path))
        fsync(path)
    manifest = Manifest(**fields, files=files, content=content_hash(files))
    target = partial / MANIFEST
    target.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    fsync(target)
    fsync(partial)
    partial.rename(final)
    fsync(final.parent)
    return Artifact(final, manifest)


def content_hash(files: Mapping[str, FileEntry]) -> str:
    """One sha256 over names and hashes of an artifact's files, in the manifest's order."""
    lines = "".join(f"{name}\0{entry.sha256}\n" for name, entry in files.items())
    return hashlib.sha256(lines.encode()).hexdigest()


def set_aside(path: Path, reason: str) -> Path:
    """Move a broken folder out of the way, with its reason beside it; never delete it."""
    target = path.with_name(f"{path.name}.broken-{time.time_ns()}")
    path.rename(target)
    (target / "REASON.txt").write_text(reason + "\n", encoding="utf-8")
    return target


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Force a file's content, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
