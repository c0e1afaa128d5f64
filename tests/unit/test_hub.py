"""Uploads to a stand-in of the hub: whole, cut off and run again, refused; the token never told."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from factory.core.artifacts import FileEntry, content_hash
from factory.core.errors import ArtifactError, EngineError, RecipeError
from factory.publish.hub import check_repository, upload
from factory.publish.lineage import LINEAGE, Lineage, Origin
from tests.hub import TOKEN, Hub, hub

__all__ = ["hub"]

FILES = {
    "README.md": b"---\nlicense: apache-2.0\n---\n# seven\n",
    "config.json": b"{}\n",
    "model.safetensors": bytes(range(256)) * 4096,
}


def published_folder(folder: Path) -> Path:
    """A folder of a few files whose lineage is whole."""
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    origin = Origin(
        name="base", stage="model", kind="model", fingerprint="a" * 64, content=content_hash({}),
        seed=0, config={}, inputs={}, metrics={}, versions={}, commit="", dirty=False, files={},
    )  # fmt: skip
    lineage = Lineage(
        format=1,
        name=folder.name,
        artifact=origin.fingerprint,
        licence="apache-2.0",
        origins=(origin,),
        files={
            name: FileEntry(size=len(content), sha256=hashlib.sha256(content).hexdigest())
            for name, content in FILES.items()
        },
    )
    (folder / LINEAGE).write_text(lineage.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return published_folder(tmp_path / "seven")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("kind", "folder_name"), [("model", "models"), ("dataset", "datasets")])
def test_a_folder_becomes_one_commit_with_every_file(hub: Hub, folder: Path, kind, folder_name):
    done = upload(folder, "org/seven", kind)
    assert not done.was_there
    assert hub.files("org/seven", kind=folder_name) == content(folder)
    assert len(hub.repositories[f"{folder_name}/org/seven"].commits) == 2
    again = upload(folder, "org/seven", kind)
    assert again.was_there
    assert again.url.endswith(hub.repositories[f"{folder_name}/org/seven"].commits[-1])
    assert len(hub.repositories[f"{folder_name}/org/seven"].commits) == 2


def test_an_upload_killed_in_the_middle_shows_nothing_and_is_finished_by_the_next(
    hub: Hub, folder: Path
):
    hub.stalls = True
    code = f"from factory.publish.hub import upload\nfrom pathlib import Path\n\
upload(Path({str(folder)!r}), 'org/seven', 'model')"
    settings = {
        "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }  # fmt: skip
    child = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **settings})
    try:
        assert hub.is_half.wait(60)
        os.kill(child.pid, signal.SIGKILL)
    finally:
        child.kill()
        assert child.wait() == -signal.SIGKILL
    assert hub.files("org/seven") == {} and hub.objects == {}
    hub.stalls = False
    assert not upload(folder, "org/seven", "model").was_there
    assert hub.files("org/seven") == content(folder)


def test_a_large_file_that_arrived_is_not_sent_again(hub: Hub, folder: Path):
    hub.refuses = "/commit/"
    with pytest.raises(EngineError, match="run the same command again"):
        upload(folder, "org/seven", "model")
    assert hub.files("org/seven") == {} and len(hub.sent) == 1
    hub.refuses = ""
    upload(folder, "org/seven", "model")
    assert hub.files("org/seven") == content(folder) and len(hub.sent) == 1


def test_a_commit_whose_answer_was_lost_is_found_and_not_made_twice(hub: Hub, folder: Path):
    hub.loses_answer = True
    with pytest.raises(EngineError, match="nothing of this upload can be seen there yet, or all"):
        upload(folder, "org/seven", "model")
    hub.loses_answer = False
    assert upload(folder, "org/seven", "model").was_there
    assert len(hub.repositories["models/org/seven"].commits) == 2


def test_a_hub_that_stored_other_bytes_is_found_out(hub: Hub, folder: Path):
    hub.spoils = True
    with pytest.raises(EngineError, match=r"not there as they are here: README\.md, config\.json"):
        upload(folder, "org/seven", "model")


def test_a_repository_with_other_files_stays_as_it_is(hub: Hub, folder: Path):
    upload(folder, "org/seven", "model")
    other = published_folder(folder.with_name("other"))
    (other / LINEAGE).write_text((other / LINEAGE).read_text() + "\n")
    before = hub.files("org/seven")
    with pytest.raises(ArtifactError, match=r"holds other files already: lineage\.json"):
        upload(other, "org/seven", "model")
    hub.repositories["models/org/seven"].files["notes.txt"] = b"mine"
    with pytest.raises(ArtifactError, match=r"holds other files already: notes\.txt"):
        upload(folder, "org/seven", "model")
    assert hub.files("org/seven") == {**before, "notes.txt": b"mine"}


def test_a_folder_that_was_changed_is_not_uploaded(hub: Hub, folder: Path):
    (folder / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"not as its lineage says: config\.json"):
        upload(folder, "org/seven", "model")
    assert hub.repositories == {}


def test_the_token_is_not_told_even_where_the_hub_repeats_it(
    hub: Hub, folder: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
):
    caplog.set_level("DEBUG")
    for position in ("/repos/create", "/preupload/", "/lfs/objects/batch", "/commit/"):
        hub.refuses = position
        with pytest.raises(EngineError) as message:
            upload(folder, "org/seven", "model")
        assert "403" in str(message.value) and TOKEN not in str(message.value)
    said = capfd.readouterr()
    assert TOKEN not in caplog.text + said.out + said.err


def test_without_a_token_nothing_is_asked(hub: Hub, folder: Path, monkeypatch, tmp_path: Path):
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(EngineError, match="set HF_TOKEN"):
        upload(folder, "org/seven", "model")
    assert hub.repositories == {}


@pytest.mark.parametrize("name", ["seven", "a/b/c", "org/../x", "org/-x", "org/a b"])
def test_a_name_that_no_hub_takes_is_refused(name: str):
    with pytest.raises(RecipeError, match="--to hub:"):
        check_repository(name)
