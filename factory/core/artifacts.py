"""Sealed artifacts: folders that are complete or do not exist.

    artifacts/<name>-<12 hex>/           sealed: content files + manifest.json
    artifacts/<name>-<12 hex>.partial/   being made; its content is never trusted
    artifacts/<name>-<12 hex>.run/       log.txt, metrics.jsonl, scratch/: how it was made
    artifacts/<name>-<12 hex>.pruned/    what `factory prune` left of it: all but its large files

A stage fills `.partial`; sealing fsyncs every file, writes the manifest last and renames. The
content (every file but the manifest) is the same bytes each time it is made on one machine;
seconds, commit and machine live in the manifest and in `.run`.

Whoever reads an artifact reads what was sealed: opening it checks the manifest by its own hash, and
`Artifact.file` the files by the manifest's.
"""

import hashlib
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError

from factory.core.errors import ArtifactError
from factory.core.files import fsync, read_file, with_hash, without_hash, write_file
from factory.core.jsonl import read_records
from factory.core.records import ArtifactKind, Record, Trace
from factory.core.stored import StoredRecords

MANIFEST = "manifest.json"
PRUNED = ".pruned"
SHORT = 12
SMALL_BYTES = 8 * 2**20
"""A file up to this size is hashed by every process that reads of its artifact; a larger one once,
until its stamp is another."""

_SEALED_NAME = re.compile(rf"[^.]+-[0-9a-f]{{{SHORT}}}")
_STAMPS = TypeAdapter(dict[str, tuple[str, int, int, int, int]])
_checked: set[tuple[object, ...]] = set()
"""Stamps of the files that this process has hashed and that were right."""


class FileEntry(Record):
    size: int
    sha256: str


class InputEntry(Record):
    name: str
    fingerprint: str


class PluginEntry(Record):
    """A row of a plug-in that decided what was made; its text is kept in `<store>/plugins/`."""

    origin: str
    version: int
    sha256: str


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
    plugins: dict[str, PluginEntry] = Field(default_factory=dict)
    """By door/name; empty where the factory's own rows alone were used."""


@dataclass(frozen=True)
class Artifact:
    """A sealed folder and its manifest."""

    path: Path
    manifest: Manifest
    has_hash: bool = True
    """Whether the manifest has a hash of its own; artifacts of earlier versions have none."""

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def run_path(self) -> Path:
        """The folder with its log and telemetry; may be missing where it was copied without."""
        return self.path.with_name(self.path.name.removesuffix(PRUNED) + ".run")

    def file(self, name: str) -> Path:
        """Path of a content file, which holds what was sealed, as the small files beside it do.

        ArtifactError if the artifact has none of that name, or a file is another than was sealed.
        """
        if name not in self.manifest.files:
            raise ArtifactError(f"{self.path}: has no file {name!r}")
        check_files(self, name)
        return self.path / name

    def traces(self) -> Iterator[Trace]:
        """The traces of a traces artifact, in order of (problem, sample)."""
        return read_records(self.file("traces.jsonl"), Trace)

    def stored_traces(self) -> StoredRecords[Trace]:
        """The same by their place, for what goes through them more than once."""
        return StoredRecords(self.file("traces.jsonl"), Trace)


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


def remains(root: Path, fingerprint: str) -> Artifact | None:
    """What `factory prune` left of the artifact of this fingerprint: its manifest and small files;
    None where it was not pruned."""
    for path in sorted(root.glob(f"*-{fingerprint[:SHORT]}{PRUNED}")):
        artifact = open_artifact(path)
        if artifact.fingerprint == fingerprint:
            return artifact
    return None


def survey(store: Path) -> tuple[list[Artifact], dict[Path, ArtifactError]]:
    """All sealed artifacts of a store, oldest first; and the folders that should be one, each with
    what is wrong with it."""
    intact: list[Artifact] = []
    broken: dict[Path, ArtifactError] = {}
    # A build killed while it sealed may have left a manifest in a folder that is not sealed.
    marked = {path.parent for path in store.glob("*/manifest.json") if not path.parent.suffix}
    named = {path for path in store.glob("*-*") if _SEALED_NAME.fullmatch(path.name)}
    for folder in sorted(marked | {path for path in named if path.is_dir()}):
        try:
            intact.append(open_artifact(folder))
        except ArtifactError as error:
            broken[folder] = error
    intact.sort(key=lambda artifact: (artifact.manifest.created, artifact.name))
    return intact, broken


def open_artifact(path: Path) -> Artifact:
    """Open a sealed folder; ArtifactError if its manifest is missing, or other than was sealed.

    The files are checked when they are read: see `Artifact.file` and `verify`.
    """
    target = path / MANIFEST
    try:
        data = target.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"{path}: not a sealed artifact: no readable {MANIFEST}: {_what_to_do(path)}"
        ) from error
    try:
        text, has_hash = without_hash(data)
        artifact = Artifact(path, Manifest.model_validate_json(text), has_hash)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "text"
        raise ArtifactError(
            f"{target}: broken: {where}: {first['msg']}: {_what_to_do(path)}"
        ) from error
    except ValueError as error:
        raise ArtifactError(f"{target}: changed: {error}: {_what_to_do(path)}") from error
    _check_manifest(artifact)
    return artifact


def verify(artifact: Artifact, *, was_checked: bool = False) -> None:
    """Compare every file with the manifest; ArtifactError names the first that differs.

    With `known`, a large file whose stamp (size, inode, times of content and of inode) is that of
    the last full check is not read again: that is what makes a second build start at once. Inputs
    of a stage that is about to run are always read in full.
    """
    _check_manifest(artifact)
    _check(artifact, artifact.manifest.files, was_checked=was_checked)


def check_files(artifact: Artifact, *names: str) -> None:
    """Compare these files and all small ones of the artifact with the manifest, once a process.

    ArtifactError names the first that differs, with what to do.
    """
    files = artifact.manifest.files
    small = [name for name, entry in files.items() if entry.size <= SMALL_BYTES]
    _check(artifact, dict.fromkeys([*names, *small]), was_checked=True)


def _check(artifact: Artifact, names: Iterable[str], *, was_checked: bool) -> None:
    entries = {name: artifact.manifest.files[name] for name in names}
    path = artifact.run_path / "verified.json"
    has_large = any(entry.size > SMALL_BYTES for entry in entries.values())
    instead = "large files are hashed again"
    stamps = (has_large and read_file(path, _STAMPS.validate_json, instead=instead)) or {}
    fresh = {}
    for name, entry in entries.items():
        stamp = _check_file(
            artifact, name, stamps.get(name) if was_checked else None, was_checked=was_checked
        )
        if entry.size > SMALL_BYTES and stamps.get(name) != stamp:
            fresh[name] = stamp
    if fresh:
        # Where it cannot be kept, on a full disk or a store of others, the next check reads again.
        with suppress(OSError):
            path.parent.mkdir(exist_ok=True)
            write_file(path, _STAMPS.dump_json({**stamps, **fresh}).decode() + "\n")


def _check_file(
    artifact: Artifact, name: str, kept: tuple[str, int, int, int, int] | None, *, was_checked: bool
) -> tuple[str, int, int, int, int]:
    """Hash a file unless its stamp is known; returns the stamp."""
    path, entry = artifact.path / name, artifact.manifest.files[name]
    advice = _what_to_do(artifact.path)
    try:
        stat = path.stat()
        if stat.st_size != entry.size:
            size = stat.st_size
            raise ArtifactError(f"{path}: {size} bytes, the manifest says {entry.size}: {advice}")
        # The inode's time moves with every write, and unlike the content's it cannot be set back.
        times = (stat.st_mtime_ns, stat.st_ctime_ns)
        stamp = (entry.sha256, stat.st_size, *times, stat.st_ino)
        mark = (stat.st_dev, *stamp)
        is_large = entry.size > SMALL_BYTES
        if was_checked and (mark in _checked or (is_large and kept == stamp)):
            return stamp
        if sha256_file(path) != entry.sha256:
            raise ArtifactError(f"{path}: content differs from its manifest (sha256): {advice}")
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}: {advice}") from error
    _checked.add(mark)
    return stamp


def _check_manifest(artifact: Artifact) -> None:
    """What an artifact says of itself in two places, which guards manifests without a hash too."""
    target, manifest = artifact.path / MANIFEST, artifact.manifest
    advice = _what_to_do(artifact.path)
    if content_hash(manifest.files) != manifest.content:
        raise ArtifactError(f"{target}: changed: content is not the hash of its files: {advice}")
    name = artifact.path.name
    is_named = not artifact.has_hash and _SEALED_NAME.fullmatch(name)
    if is_named and not manifest.fingerprint.startswith(name.rpartition("-")[2]):
        raise ArtifactError(f"{target}: changed: the folder has another fingerprint: {advice}")


def _what_to_do(folder: Path) -> str:
    return f"restore it from a copy, or delete {folder} and build again to make it anew"


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
    write_file(partial / MANIFEST, with_hash(manifest.model_dump_json(indent=2) + "\n"))
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
    write_file(target / "REASON.txt", reason + "\n")
    return target


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
