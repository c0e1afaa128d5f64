"""A number that is shown is the number that was sealed: every flip is named, by every verb."""

import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import pytest
from building import MACHINE
from published import make_store, recipe
from pydantic import ValidationError
from resealing import resealed
from typer.testing import CliRunner

from factory.cli import app
from factory.core import artifacts
from factory.core.artifacts import MANIFEST, Artifact, Manifest, open_artifact, seal, survey, verify
from factory.core.errors import ArtifactError
from factory.core.files import with_hash, without_hash
from factory.core.records import ArtifactKind, Record
from factory.models.tiny import save_tiny_model

TREE = ("base", "sevens", "traces", "kept", "student", "eval_student")
ALONE = {"pairs": "pairs.jsonl", "labels": "labels.jsonl", "reward_model": "card.json"}
"""Kinds that the recipe does not have, each with a file."""


class Store:
    """A store with an artifact of every kind, the recipe of six of them, and a report."""

    def __init__(self, folder: Path) -> None:
        save_tiny_model(folder / "student", "llama", seed=1)
        self.path, self.made = make_store(folder, folder / "student")
        for kind, file in ALONE.items():
            self.made[kind] = self._alone(kind, file)
        other = self.path / "again.partial"
        shutil.copytree(self.made["eval_student"].path, other)
        (other / MANIFEST).unlink()
        self.made["again"] = self._sealed("eval_student", "again", "c" * 64, other)
        self.recipe = folder / "recipe.json"
        recipe(folder)
        self.machine = folder / "machine.yaml"
        self.machine.write_text(MACHINE, encoding="utf-8")
        done = self.run("report", self.recipe)
        assert done.exit_code == 0, done.output

    def _alone(self, kind: str, file: str) -> Artifact:
        partial = self.path / f"{kind}.partial"
        partial.mkdir()
        (partial / file).write_text('{"value": 0.5}\n', encoding="utf-8")
        return self._sealed("sevens", kind, f"{list(ALONE).index(kind)}" * 64, partial, kind=kind)

    def _sealed(
        self, like: str, name: str, fingerprint: str, partial: Path, **changes: Any
    ) -> Artifact:
        fields = dict(self.made[like].manifest) | {"name": name, "fingerprint": fingerprint}
        del fields["files"], fields["content"]
        return seal(partial, self.path / f"{name}-{fingerprint[:12]}", {**fields, **changes})

    def run(self, verb: str | Path, *arguments: str | Path) -> Any:
        command = [str(verb), *map(str, arguments), "--store", str(self.path)]
        if verb in ("build", "chat", "eval", "publish"):
            command += ["--machine", str(self.machine)]
        return CliRunner(env={"COLUMNS": "300"}).invoke(app, command)

    def commands(self) -> dict[tuple[str | Path, ...], tuple[set[str], set[str]]]:
        """(stages of which it reads files, stages of which it reads the manifest alone)."""
        target = self.path.parent / "out"
        named = dict.fromkeys(self.made)
        return {
            **{("show", name): ({name}, set()) for name in named},
            **{("show", name, "--verify"): ({name}, set()) for name in named},
            ("build", self.recipe): (set(TREE), set()),
            ("report", self.recipe): ({"eval_student"}, set(TREE)),
            ("plan", self.recipe): (set(), set(TREE)),
            ("compare", "eval_student", "again"): ({"eval_student", "again"}, set()),
            ("rescore", "again"): ({"again", "sevens"}, set()),
            ("publish", "student", "--to", target): ({"student", "eval_student"}, set(TREE)),
            ("publish", "kept", "--to", target): ({"kept"}, {"base", "sevens", "traces"}),
            ("chat", "student"): ({"student"}, set()),
            ("serve", "student"): ({"student"}, set()),
            ("review", "kept", "--reviewer", "r", "--decisions", target): ({"kept"}, set()),
            ("eval", "student", "--suite", "offline"): ({"student"}, set()),
            ("eval", "embedded", "--suite", "offline", "--against", "again"): ({"again"}, set()),
            ("diff", self.path, self.path): (set(TREE), set()),
        }


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("sealed"))


@contextmanager
def flipped(path: Path, *, at: int, bit: int) -> Iterator[None]:
    """One bit of a file is another meanwhile; its size and the times of its content stay."""
    data, stat = path.read_bytes(), path.stat()
    changed = bytearray(data)
    changed[at] ^= 1 << bit
    try:
        for content in (bytes(changed), data):
            path.write_bytes(content)
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            if content != data:
                yield
    finally:
        path.write_bytes(data)


def files_of(artifact: Artifact) -> list[str]:
    return [name for name in (*artifact.manifest.files, MANIFEST)]


def test_the_store_holds_every_kind_of_artifact(store: Store) -> None:
    assert {value.manifest.kind for value in store.made.values()} == set(get_args(ArtifactKind))
    assert len(survey(store.path)[0]) == len(store.made)


def test_one_flipped_bit_in_any_file_is_named_by_every_verb_that_reads_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factory.publish.serve.find_spec", lambda name: True)
    chance, silent, count = random.Random(11), [], 0
    for name, artifact in store.made.items():
        for file in files_of(artifact):
            path = artifact.path / file
            at = chance.randrange(path.stat().st_size)
            with flipped(path, at=at, bit=chance.randrange(8)):
                for command, (full, manifests) in store.commands().items():
                    if name in full or (file == MANIFEST and name in manifests):
                        done = store.run(*command)
                        count += 1
                        if done.exit_code != 2 or str(path) not in done.stderr:
                            silent.append((command, file, at, done.output[-300:]))
    assert silent == []
    assert count > 180


def test_an_intact_store_is_read_by_every_verb_but_those_that_start_something(
    store: Store,
) -> None:
    for command in store.commands():
        if command[0] not in ("chat", "serve", "eval", "publish"):
            done = store.run(*command)
            assert done.exit_code == 0, (command, done.output)


def test_any_flipped_bit_of_a_manifest_is_noticed(store: Store) -> None:
    artifact = store.made["eval_student"]
    path = artifact.path / MANIFEST
    chance, size = random.Random(5), path.stat().st_size
    for at in (*range(0, size - 120, 9), *range(size - 120, size)):
        with (
            flipped(path, at=at, bit=chance.randrange(8)),
            pytest.raises(ArtifactError, match=r"manifest\.json: (changed|broken).*build again"),
        ):
            open_artifact(artifact.path)
    assert open_artifact(artifact.path) == artifact and artifact.has_hash


def test_a_manifest_of_an_earlier_version_opens_and_show_says_so(
    store: Store, tmp_path: Path
) -> None:
    shutil.copytree(store.path, tmp_path / "store")
    folder = tmp_path / "store" / store.made["eval_student"].path.name
    text, has_hash = without_hash((folder / MANIFEST).read_bytes())
    assert has_hash
    (folder / MANIFEST).write_bytes(text)
    opened = open_artifact(folder)
    assert not opened.has_hash and opened.manifest == store.made["eval_student"].manifest
    verify(opened)
    runner = CliRunner(env={"COLUMNS": "300"})
    done = runner.invoke(app, ["show", "eval_student", "--store", str(tmp_path / "store")])
    assert done.exit_code == 0 and "has no hash of its own" in done.output
    # Its files are guarded all the same, and so is what the manifest says twice.
    for old, new in (
        (opened.manifest.content, "0" * 64),
        (opened.manifest.files["scores.jsonl"].sha256, "0" * 64),
        (opened.fingerprint, "0" * 64),
    ):
        (folder / MANIFEST).write_bytes(text.replace(old.encode(), new.encode()))
        with pytest.raises(ArtifactError, match=r"manifest\.json: changed"):
            open_artifact(folder)


def test_verify_computes_the_content_from_the_files(store: Store) -> None:
    artifact = store.made["kept"]
    other = Artifact(artifact.path, artifact.manifest.model_copy(update={"content": "0" * 64}))
    with pytest.raises(ArtifactError, match=r"manifest\.json: changed: content"):
        verify(other)


def test_a_changed_report_is_not_compared(store: Store, tmp_path: Path) -> None:
    folder = shutil.copytree(store.path / "reports" / "sevens", tmp_path / "sent")
    path = folder / "report.json"
    assert store.run("diff", folder, store.path).exit_code == 0
    data = path.read_bytes()
    for at in (data.index(b'"value"') + 9, len(data) - 20, len(data) - 2):
        with flipped(path, at=at, bit=0):
            done = store.run("diff", folder, store.path)
            assert done.exit_code == 2 and str(path) in done.stderr
            assert "write it again with `factory report`" in done.stderr
    # As earlier versions wrote it.
    path.write_bytes(without_hash(data)[0])
    assert store.run("diff", folder, store.path).exit_code == 0


def test_a_large_file_is_read_once_and_its_stamp_is_kept_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "traces-abababababab"
    artifact = sealed_file(folder, b"x" * 64)
    monkeypatch.setattr(artifacts, "SMALL_BYTES", 16)
    read: list[Path] = []
    hashed = artifacts.sha256_file

    def counted(path: Path) -> str:
        read.append(path)
        return hashed(path)

    monkeypatch.setattr(artifacts, "sha256_file", counted)

    def check() -> int:
        """Hashes of another process."""
        monkeypatch.setattr(artifacts, "_checked", set())
        read.clear()
        artifact.file("traces.jsonl")
        return len(read)

    assert [check(), check()] == [1, 0]
    # Spoilt as a full disk would leave it: hashed again, and kept again.
    (artifact.run_path / "verified.json").write_bytes(b"")
    assert [check(), check()] == [1, 0]
    with (
        flipped(folder / "traces.jsonl", at=3, bit=1),
        pytest.raises(ArtifactError, match="sha256"),
    ):
        check()
    monkeypatch.setattr(artifacts, "SMALL_BYTES", 1024)
    assert [check(), check()] == [1, 1]


def test_stamps_that_find_no_room_stop_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = sealed_file(tmp_path / "traces-abababababab", b"x" * 64)
    monkeypatch.setattr(artifacts, "SMALL_BYTES", 16)
    artifact.run_path.touch()  # a file where the folder should be
    assert artifact.file("traces.jsonl").read_bytes() == b"x" * 64


def sealed_file(folder: Path, content: bytes) -> Artifact:
    partial = folder.with_name("new.partial")
    partial.mkdir()
    (partial / "traces.jsonl").write_bytes(content)
    fields = {
        "kind": "traces", "name": "traces", "stage": "generate", "stage_version": 1,
        "fingerprint": "ab" * 32, "config": {}, "inputs": {}, "seed": 0, "metrics": {},
        "versions": {}, "machine": {}, "commit": "", "dirty": False, "seconds": 0.0,
        "peak_memory_gib": 0.0, "created": "",
    }  # fmt: skip
    return seal(partial, folder, fields)


class Small(Record):
    a: float
    b: list[int]


def test_a_hash_of_its_own_survives_no_change() -> None:
    text = json.dumps({"a": 1.5, "b": [1]}, indent=2) + "\n"
    data = with_hash(text).encode()
    assert without_hash(data) == (text.encode(), True)
    assert json.loads(data)["a"] == 1.5
    assert without_hash(text.encode()) == (text.encode(), False)
    for at in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            try:
                result, has_hash = without_hash(bytes(changed))
            except ValueError:
                continue
            # Its entry is no entry of that name then, and records take no other.
            assert not has_hash and result == bytes(changed)
            with pytest.raises(ValidationError):
                Small.model_validate_json(result)


@pytest.mark.parametrize("damage", ["torn", "missing", "empty", "a list"])
def test_a_broken_manifest_hides_no_other_artifact(
    store: Store, tmp_path: Path, damage: str
) -> None:
    shutil.copytree(store.path, tmp_path / "store")
    folder = tmp_path / "store" / store.made["base"].path.name
    manifest = folder / MANIFEST
    text = manifest.read_text(encoding="utf-8")
    manifest.unlink()
    if damage != "missing":
        spoilt = {"torn": text[:200], "empty": "", "a list": "[]"}[damage]
        manifest.write_text(spoilt, encoding="utf-8")
    where = ["--store", str(tmp_path / "store")]
    runner = CliRunner(env={"COLUMNS": "300"})
    done = runner.invoke(app, ["ls", *where])
    assert done.exit_code == 0, done.output
    assert all(value.path.name in done.output for value in store.made.values())
    assert f"broken: {folder.name}: {folder}" in done.output and "build again" in done.output
    # Others are found by their names; the broken one is named beside them, and is not found.
    for command in (["show", "kept"], ["compare", "eval_student", "again"]):
        done = runner.invoke(app, [*command, *where])
        assert done.exit_code == 0, done.output
        assert "note: left out: " in done.stderr and str(folder) in done.stderr
    for name in ("base", folder.name[:8]):
        done = runner.invoke(app, ["show", name, *where])
        assert done.exit_code == 2 and str(folder) in done.stderr and "build again" in done.stderr
    if damage != "missing":
        done = runner.invoke(app, ["plan", str(store.recipe), *where])
        assert done.exit_code == 2 and "broken" in done.stdout and "student" in done.stdout
        assert str(manifest) in done.stderr


def test_an_older_run_is_not_taken_for_a_broken_newer_one(store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.path, tmp_path / "store")
    newer = tmp_path / "store" / "eval_student-999999999999"
    newer.mkdir()
    older = store.made["eval_student"].path.name
    runner = CliRunner(env={"COLUMNS": "300"})
    for command in (["compare", "again", "eval_student"], ["rescore", "eval_student"]):
        done = runner.invoke(app, [*command, "--store", str(tmp_path / "store")])
        assert done.exit_code == 2 and str(newer) in done.stderr
    done = runner.invoke(app, ["compare", "again", older, "--store", str(tmp_path / "store")])
    assert done.exit_code == 0, done.output
    done = runner.invoke(
        app, ["eval", "embedded", "--suite", "offline", "--against", "eval_student",
              "--store", str(tmp_path / "store")],
    )  # fmt: skip
    assert done.exit_code == 2 and str(newer) in done.stderr


def test_a_sealed_folder_as_a_source_must_be_what_was_sealed(store: Store, tmp_path: Path) -> None:
    from factory.stages.foreign_folder import copy_folder

    folder = shutil.copytree(store.made["student"].path, tmp_path / "student")
    (tmp_path / "out").mkdir()
    copy_folder(folder, tmp_path / "out")
    with (
        flipped(folder / "model.safetensors", at=5000, bit=2),
        pytest.raises(ArtifactError, match=r"model\.safetensors: content differs"),
    ):
        copy_folder(folder, tmp_path / "out")
    # A manifest of somebody else says nothing.
    (folder / MANIFEST).write_text('{"short_name": "app"}', encoding="utf-8")
    copy_folder(folder, tmp_path / "out")


def test_an_artifact_that_is_sealed_again_reads_as_it_is(store: Store, tmp_path: Path) -> None:
    folder = shutil.copytree(store.made["kept"].path, tmp_path / "kept-copied")
    (folder / "traces.jsonl").write_bytes(b"")
    manifest: Manifest = store.made["kept"].manifest
    assert open_artifact(resealed(Artifact(folder, manifest)).path).file("traces.jsonl")
