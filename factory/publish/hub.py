"""A published folder on a hub: one commit, then every file there is compared with its hash.

The hub's own client sends large files first and names them in the commit, so until the commit
nothing of a folder can be seen. An upload that was cut off is run again: what the hub has whole is
not sent twice, and a commit whose answer was lost is found instead of made again.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from factory.core.artifacts import sha256_file
from factory.core.errors import ArtifactError, EngineError, RecipeError
from factory.publish.lineage import HUB_OWN, LINEAGE, faults, read_lineage

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

RepositoryType = Literal["model", "dataset"]
TOLD = 3
"""Files that a message names."""


@dataclass(frozen=True)
class Uploaded:
    """Where a folder lies now."""

    url: str
    """Of the commit."""
    was_there: bool
    """Whether an earlier upload had made the commit already."""


def check_repository(repository: str) -> None:
    """RecipeError unless the text is ORG/NAME as a hub allows it."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise RecipeError(f"--to hub:{repository}: {error}") from error
    if "/" not in repository:
        raise RecipeError(f"--to hub:{repository}: expected hub:ORG/NAME, with a user or an ORG")


def upload(folder: Path, repository: str, kind: RepositoryType) -> Uploaded:
    """Commit every file of a published folder to a repository, which is made if it is not there.

    The repository must be empty, or hold nothing but files of this folder. The address and the
    token are those of huggingface_hub (HF_ENDPOINT; HF_TOKEN or `hf auth login`). ArtifactError
    for a folder that is not as its lineage says, or a repository with other files; EngineError
    where there is no token, or the hub refuses, breaks off, or holds other bytes afterwards.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if broken := faults(folder):
        raise ArtifactError(f"{folder}: not as its lineage says: {'; '.join(broken[:TOLD])}")
    token = get_token()
    if token is None:
        raise EngineError("no token for the hub: set HF_TOKEN, or log in with `hf auth login`")
    api = HfApi(token=token)
    names = [*read_lineage(folder).files, LINEAGE]
    with _told(repository, token):
        api.create_repo(repository, repo_type=kind, exist_ok=True)
        before = api.repo_info(repository, repo_type=kind).sha
        there = _files_at(api, repository, kind, before)
    others = sorted(set(there) - set(names) - set(HUB_OWN))
    others += _differing(folder, [name for name in names if name in there], there)
    if others:
        raise ArtifactError(
            f"hub:{repository}: holds other files already: {', '.join(others[:TOLD])}; publish to "
            "a new repository, or remove this one"
        )
    if set(names) <= set(there):
        return Uploaded(_commit_url(api, repository, kind, before), was_there=True)
    with _told(repository, token):
        made = api.create_commit(
            repository,
            [CommitOperationAdd(name, str(folder / name)) for name in names],
            commit_message=f"Publish {folder.name}",
            commit_description=f"{LINEAGE} sha256: {sha256_file(folder / LINEAGE)}",
            repo_type=kind,
            parent_commit=before,
        )
        there = _files_at(api, repository, kind, made.oid)
    if wrong := _differing(folder, names, there):
        raise EngineError(
            f"hub:{repository}: after the upload these files are not there as they are here: "
            f"{', '.join(wrong[:TOLD])}; remove the repository and publish again"
        )
    return Uploaded(made.commit_url, was_there=False)


def _files_at(
    api: "HfApi", repository: str, kind: RepositoryType, commit: str | None
) -> dict[str, "RepoFile"]:
    from huggingface_hub.hf_api import RepoFile

    tree = api.list_repo_tree(repository, recursive=True, revision=commit, repo_type=kind)
    return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}


def _differing(folder: Path, names: list[str], there: Mapping[str, "RepoFile"]) -> list[str]:
    """The names whose file on the hub is missing or has other bytes: sha256 of large files, and
    git's own hash of the others."""
    return [name for name in names if name not in there or not _is_same(folder / name, there[name])]


def _is_same(path: Path, remote: "RepoFile") -> bool:
    if remote.lfs is not None:
        return remote.lfs.sha256 == sha256_file(path)
    content = path.read_bytes()
    blob = b"blob %d\0" % len(content) + content
    return remote.blob_id == hashlib.sha1(blob, usedforsecurity=False).hexdigest()


def _commit_url(api: "HfApi", repository: str, kind: RepositoryType, commit: str | None) -> str:
    prefix = "datasets/" if kind == "dataset" else ""
    return f"{api.endpoint}/{prefix}{repository}/commit/{commit}"


@contextmanager
def _told(repository: str, token: str) -> Iterator[None]:
    """What the client raises, in a line of ours that does not hold the token.

    The client wraps what a transfer raises in a RuntimeError, and says of a card that the hub
    refuses in a ValueError.
    """
    import httpx

    try:
        yield
    except (httpx.HTTPError, OSError, RuntimeError, ValueError) as error:
        said = [str(error), str(error.__cause__ or "")]
        reason = " ".join(" ".join(said).split()).replace(token, "(the token)")
        raise EngineError(
            f"hub:{repository}: {reason or type(error).__name__}: nothing of this upload can be "
            "seen there yet, or all of it; run the same command again to finish it"
        ) from None
