"""Artifacts that a test has changed, sealed again: what reads them takes nothing else."""

from factory.core.artifacts import MANIFEST, Artifact, FileEntry, content_hash, sha256_file
from factory.core.files import with_hash


def resealed(artifact: Artifact) -> Artifact:
    """The artifact with a manifest that fits its files as they are now."""
    paths = sorted(path for path in artifact.path.rglob("*") if path.is_file())
    files = {
        path.relative_to(artifact.path).as_posix(): FileEntry(
            size=path.stat().st_size, sha256=sha256_file(path)
        )
        for path in paths
        if path != artifact.path / MANIFEST
    }
    update = {"files": files, "content": content_hash(files)}
    manifest = artifact.manifest.model_copy(update=update)
    text = with_hash(manifest.model_dump_json(indent=2) + "\n")
    (artifact.path / MANIFEST).write_text(text, encoding="utf-8")
    return Artifact(artifact.path, manifest)
