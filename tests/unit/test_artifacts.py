"""Sealed artifacts: complete or not there, checked, and never two builds of one at once."""

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from factory.building.pipeline import _Lock, _seconds, check_store
from factory.building.plan import Step, make_plan
from factory.building.recipe import load_recipe
from factory.core.artifacts import (
    Artifact,
    Inputs,
    find,
    open_artifact,
    seal,
    set_aside,
    verify,
)
from factory.core.errors import ArtifactError

ROOT = Path(__file__).resolve().parents[2]


def fields(fingerprint: str = "ab" * 32) -> dict[str, Any]:
    return {
        "kind": "traces", "name": "t", "stage": "generate", "stage_version": 1,
        "fingerprint": fingerprint, "config": {}, "inputs": {}, "seed": 0, "metrics": {},
        "versions": {}, "machine": {}, "commit": "", "dirty": False, "seconds": 0.0,
        "peak_memory_gib": 0.0, "created": "",
    }  # fmt: skip


def sealed(store: Path, name: str = "t-abababababab", fingerprint: str = "ab" * 32) -> Artifact:
    partial = store / f"{name}.partial"
    (partial / "inner").mkdir(parents=True)
    (partial / "a.txt").write_bytes(b"one")
    (partial / "inner" / "b.txt").write_bytes(b"two")
    return seal(partial, store / name, fields(fingerprint))


@pytest.fixture
def step() -> Step:
    return make_plan(load_recipe(ROOT / "recipes" / "quickstart.yaml"))[0]


def test_sealing_renames_a_partial_folder_and_names_its_files(tmp_path: Path) -> None:
    artifact = sealed(tmp_path)
    assert not (tmp_path / "t-abababababab.partial").exists()
    assert set(artifact.manifest.files) == {"a.txt", "inner/b.txt"}
    assert open_artifact(artifact.path) == artifact
    assert find(tmp_path, "ab" * 32) == artifact
    verify(artifact)


def test_equal_content_is_told_by_one_hash_whatever_the_rest_of_the_manifest(
    tmp_path: Path,
) -> None:
    first = sealed(tmp_path / "one")
    two = sealed(tmp_path / "two", fingerprint="cd" * 32)
    assert first.manifest.content == two.manifest.content
    assert first.manifest.fingerprint != two.manifest.fingerprint


@pytest.mark.parametrize("name", ["a.txt", "inner/b.txt"])
@pytest.mark.parametrize("is_known", [False, True])
def test_a_flipped_byte_is_named_with_what_to_do(tmp_path: Path, name: str, is_known: bool) -> None:
    artifact = sealed(tmp_path)
    verify(artifact, was_checked=is_known)
    (artifact.path / name).write_bytes(b"onf")
    with pytest.raises(ArtifactError) as caught:
        verify(artifact, was_checked=is_known)
    message = str(caught.value)
    assert str(artifact.path / name) in message and "build again" in message
    assert len(message.splitlines()) == 1


def test_a_flipped_byte_of_an_old_date_is_noticed_by_a_full_check(tmp_path: Path) -> None:
    artifact = sealed(tmp_path)
    verify(artifact, was_checked=True)
    path = artifact.path / "a.txt"
    stat = path.stat()
    path.write_bytes(b"onf")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(ArtifactError, match=r"a\.txt"):
        verify(artifact)


def test_a_missing_and_a_shortened_file_are_named(tmp_path: Path) -> None:
    artifact = sealed(tmp_path)
    (artifact.path / "a.txt").write_bytes(b"o")
    with pytest.raises(ArtifactError, match=r"a\.txt: 1 bytes, the manifest says 3"):
        verify(artifact)
    (artifact.path / "a.txt").unlink()
    with pytest.raises(ArtifactError, match=r"a\.txt: cannot be read: No such file"):
        verify(artifact)


def test_a_known_file_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = sealed(tmp_path)
    verify(artifact, was_checked=True)
    read = []
    monkeypatch.setattr("factory.core.artifacts.sha256_file", lambda path: read.append(path))
    verify(artifact, was_checked=True)
    assert read == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": "model"}'])
def test_a_broken_manifest_is_named(tmp_path: Path, text: str) -> None:
    artifact = sealed(tmp_path)
    (artifact.path / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"manifest\.json: broken"):
        find(tmp_path, "ab" * 32)


def test_a_folder_without_a_manifest_is_not_an_artifact(tmp_path: Path) -> None:
    (tmp_path / "t-abababababab").mkdir()
    (tmp_path / "t-abababababab.partial").mkdir()
    assert find(tmp_path, "ab" * 32) is None
    with pytest.raises(ArtifactError, match="not a sealed artifact"):
        open_artifact(tmp_path / "t-abababababab")
    aside = set_aside(tmp_path / "t-abababababab", "why")
    assert (aside / "REASON.txt").read_text(encoding="utf-8") == "why\n"


def test_an_artifact_of_another_fingerprint_with_the_same_beginning_is_not_taken(
    tmp_path: Path,
) -> None:
    sealed(tmp_path)
    assert find(tmp_path, "ab" * 31 + "cd") is None


def test_inputs_of_a_tuple_come_in_the_recipes_order(tmp_path: Path) -> None:
    artifacts = [sealed(tmp_path / str(n)) for n in range(11)]
    inputs = Inputs({f"parts.{n}.traces": artifacts[n] for n in (10, 2, 0, 1)})
    assert inputs.many("parts") == [artifacts[n] for n in (0, 1, 2, 10)]


def test_a_file_that_an_artifact_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"has no file 'c\.txt'"):
        sealed(tmp_path).file("c.txt")


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    # A path below a file: unlike permissions it binds the superuser too.
    (tmp_path / "file").touch()
    for store in (tmp_path / "file", tmp_path / "file" / "store"):
        with pytest.raises(ArtifactError, match=f"{store}: cannot be written"):
            check_store(store)


def test_a_nearly_full_disk_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factory.building.pipeline.free_gib", lambda path: 0.25)
    with pytest.raises(ArtifactError, match=r"only 0\.2 GiB free; make room first"):
        check_store(tmp_path)


def test_the_seconds_of_all_attempts_count(tmp_path: Path) -> None:
    # A first attempt killed at 5 s, a second one that took 3 s.
    rows = [{"event": "progress", "at": at} for at in (1.0, 5.0, 0.5, 3.0)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(text, encoding="utf-8")
    assert _seconds(tmp_path) == 8.0
    # What a disk makes of a line stops no stage that is made.
    broken = b'{"at": \n\xff\xfe\n[]\n{"at": null}\n{"at": [9]}\n{}\n7\n' + b"[" * 5000 + b"\n"
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(broken)
    assert _seconds(tmp_path) == 8.0


class Listener:
    """Hears who is waited for."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def waiting(self, step: Step, holder: str) -> None:
        self.heard.append(holder)


def _hold(store: Path, step: Step, held: Any, release: Any) -> None:
    lock = _Lock(store, step)
    assert lock.acquire(Listener())  # type: ignore[arg-type]
    held.set()
    release.wait(10)


def test_a_second_build_says_who_holds_a_stage_until_it_is_free(tmp_path: Path, step: Step) -> None:
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, step, held, release))
    other.start()
    assert held.wait(10)
    listener, lock = Listener(), _Lock(tmp_path, step)
    assert not lock.acquire(listener)  # type: ignore[arg-type]
    assert listener.heard[0].startswith(f"process {other.pid} since ")
    release.set()
    other.join()
    assert lock.acquire(listener)  # type: ignore[arg-type]
    lock.release()
    assert _Lock(tmp_path, step).acquire(listener)  # type: ignore[arg-type]
    assert len(listener.heard) == 1


def test_a_killed_builds_lock_is_free(tmp_path: Path, step: Step) -> None:
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, step, held, release))
    other.start()
    assert held.wait(10)
    other.kill()
    other.join()
    listener = Listener()
    assert _Lock(tmp_path, step).acquire(listener)  # type: ignore[arg-type]
    assert listener.heard == []
