"""The model stage: what it brings in, and which folders it refuses."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from factory.artifacts import Inputs
from factory.context import Context
from factory.errors import ArtifactError
from factory.machine import Machine
from factory.stages.model import STAGE, ModelConfig
from factory.tiny import save_tiny_model


def config(**source: object) -> ModelConfig:
    return ModelConfig.model_validate_json(json.dumps({"kind": "model", "source": source}))


def make(folder: Path, seed: int = 1, **source: object) -> dict[str, float]:
    folder.mkdir()
    return STAGE.run(config(**source), Inputs(), folder, Context(seed, Machine(), folder))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_tiny_model_is_the_same_bytes_each_time(tmp_path: Path, architecture: str) -> None:
    for name in ("one", "two"):
        metrics = make(tmp_path / name, type="tiny", architecture=architecture, hidden=32, layers=1)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(content(tmp_path / "one"))
    assert metrics["parameters"] > 259 * 32
    make(tmp_path / "other", 2, type="tiny", architecture=architecture, hidden=32, layers=1)
    assert content(tmp_path / "one") != content(tmp_path / "other")


def test_a_local_folder_is_copied_without_what_could_run(tmp_path: Path) -> None:
    source = save_tiny_model(tmp_path / "source", "llama", hidden=32, layers=1)
    (source / "modeling_evil.py").write_text("raise SystemExit", encoding="utf-8")
    (source / "pytorch_model.bin").write_bytes(b"pickle")
    make(tmp_path / "out", type="local", path=str(source))
    names = set(content(tmp_path / "out"))
    assert "model.safetensors" in names
    assert not {"modeling_evil.py", "pytorch_model.bin"} & names


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("config.json", "no config.json"),
        ("model.safetensors", "no *.safetensors file"),
        ("tokenizer.json", "no tokenizer.json or tokenizer.model"),
    ],
)
def test_an_incomplete_folder_is_refused_before_anything_runs(
    tmp_path: Path, missing: str, expected: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in {"config.json", "model.safetensors", "tokenizer.json"} - {missing}:
        (source / name).write_text("{}", encoding="utf-8")
    with pytest.raises(ArtifactError) as caught:
        STAGE.external_files(config(type="local", path=str(source)))
    assert str(source) in str(caught.value) and expected in str(caught.value)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such model folder"):
        STAGE.external_files(config(type="local", path=str(tmp_path / "none")))


@pytest.mark.parametrize(
    "source",
    [
        {"type": "hub", "id": "owner/name", "revision": "main"},
        {"type": "hub", "id": "name", "revision": "0" * 40},
        {"type": "local", "path": "x", "trust_remote_" + "code": False},
        {"type": "tiny", "architecture": "gpt2"},
        {"type": "pickle", "path": "x"},
    ],
)
def test_a_source_that_is_not_pinned_or_not_known_is_refused(source: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        config(**source)
