"""What a model folder of others may bring: links, headers and code that are not followed."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from factory.core.errors import ArtifactError
from factory.stages.foreign_folder import (
    check_folder,
    check_ids,
    copy_folder,
    own_files,
    quantised,
    tokenizer_files,
)
from factory.stages.model import parameters

SECRET = "nobody's business"


def weights(head: dict, data: bytes = b"\0\0\0\0") -> bytes:
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + data


GOOD = {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    (made / "model.safetensors").write_bytes(weights(GOOD))
    (made / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    (made / "tokenizer.json").write_text('{"version": "1.0"}', encoding="utf-8")
    (tmp_path / "secret.txt").write_text(SECRET, encoding="utf-8")
    (tmp_path / "elsewhere").mkdir()
    return made


def chained(folder: Path) -> None:
    (folder / "a").symlink_to("../secret.txt")
    (folder / "vocab.txt").symlink_to("a")


def replaced(name: str, target: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return change


LINKS: dict[str, Callable[[Path], None]] = {
    "out": replaced("vocab.txt", "../secret.txt"),
    "to a file of the system": replaced("merges.txt", "/etc/passwd"),
    "to a folder": replaced("extra", "../elsewhere"),
    "through another": chained,
    "to itself": replaced("vocab.json", "vocab.json"),
    "to a device": replaced("special_tokens_map.json", "/dev/zero"),
    "in place of the config": replaced("config.json", "../secret.txt"),
    "in place of the tokenizer": replaced("tokenizer.json", "../secret.txt"),
    "like a hub's, elsewhere": replaced("vocab.txt", "../blobs/x"),
}


@pytest.mark.parametrize("name", LINKS)
def test_a_link_out_of_the_folder_is_refused_by_name(name: str, folder: Path) -> None:
    LINKS[name](folder)
    out = folder.parent / "out"
    out.mkdir()
    for take in (copy_folder, lambda source, out: own_files(source)):
        with pytest.raises(ArtifactError, match="link"):
            take(folder, out)
    assert list(out.iterdir()) == []


def test_links_within_the_folder_and_of_the_hubs_cache_are_taken(folder: Path) -> None:
    (folder / "vocab.txt").symlink_to("tokenizer.json")
    cache = folder.parent / "models--o--n"
    snapshot = cache / "snapshots" / "0a1b"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for path in own_files(folder):
        (cache / "blobs" / f"b-{path.name}").write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(f"../../blobs/b-{path.name}")
    for source in (folder, snapshot):
        out = folder.parent / f"out-{source.name}"
        out.mkdir()
        copy_folder(source, out)
        names = ["config.json", "model.safetensors", "tokenizer.json", "vocab.txt"]
        assert sorted(path.name for path in out.iterdir()) == names
        assert not any(path.is_symlink() for path in out.iterdir())
        assert next(path.name for path in tokenizer_files(source)) == "tokenizer.json"


HEADERS = {
    "longer than the file": struct.pack("<Q", 10**6) + b"{}",
    "of 2**63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "no header": b"\1\2",
    "empty": b"",
    "no JSON": struct.pack("<Q", 3) + b"{{{",
    "deep": struct.pack("<Q", 4000) + b"[" * 4000,
    "a list": struct.pack("<Q", 2) + b"[]",
    "tensors beyond the file": weights({"w": {**GOOD["w"], "data_offsets": [0, 2**40]}}),
    "tensors before the file": weights({"w": {**GOOD["w"], "data_offsets": [-4, 0]}}),
    "no offsets": weights({"w": {"dtype": "F32"}}),
}


@pytest.mark.parametrize("name", HEADERS)
def test_weights_whose_header_cannot_be_true_are_refused(name: str, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(HEADERS[name])
    with pytest.raises(ArtifactError, match=r"header|JSON"):
        check_folder(folder)


def test_a_model_with_code_of_its_own_is_refused_without_advice_to_run_it(folder: Path) -> None:
    fields = {"model_type": "mine", "auto_map": {"AutoConfig": "configuration_mine.Mine"}}
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(ArtifactError) as message:
        check_folder(folder)
    assert "never run" in str(message.value) and "trust_remote_code" not in str(message.value)
    fields["model_type"] = "llama"  # known: its own class is taken, and the code not looked at
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    check_folder(folder)


@pytest.mark.parametrize("text", ["[]", "{", "[" * 100_000, "7"])
def test_a_config_that_is_none_is_refused(text: str, folder: Path) -> None:
    (folder / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ArtifactError, match="JSON"):
        check_folder(folder)


def test_a_pipe_is_no_file_of_a_model(folder: Path) -> None:
    os.mkfifo(folder / "vocab.json")
    with pytest.raises(ArtifactError, match=r"vocab\.json: not a regular file"):
        check_folder(folder)


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ({"weight_map": {"w": "model-1.safetensors"}}, None),
        ({"weight_map": {"w": "model-1.safetensors", "v": "model-2.safetensors"}}, "1 of the 2"),
        ({"weight_map": {"w": "model-1.safetensors", "v": "../secret.txt"}}, "secret.txt: the mod"),
        ({"weight_map": {}}, "names no file"),
        ({"weight_map": ["model-1.safetensors"]}, "names no file"),
        ({}, "names no file"),
    ],
)
def test_every_weight_file_of_the_index_is_there(
    folder: Path, index: dict, reason: str | None
) -> None:
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    if reason is None:
        check_folder(folder)
        return
    with pytest.raises(ArtifactError, match=reason):
        check_folder(folder)


def test_a_file_that_git_lfs_has_not_fetched_is_named(folder: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 123\n"
    (folder / "model.safetensors").write_bytes(pointer)
    with pytest.raises(ArtifactError, match=r"a Git LFS pointer, not the file: git lfs pull"):
        check_folder(folder)


INDEXED = {"weight_map": {"w": "model-1.safetensors", "v": "model-2.safetensors"}}


def sharded(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    for name, tensor in (("model-1", "w"), ("model-2", "v")):
        (folder / f"{name}.safetensors").write_bytes(weights({tensor: GOOD["w"]}))
    (folder / "model.safetensors.index.json").write_text(json.dumps(INDEXED), encoding="utf-8")


BESIDE = ["consolidated.safetensors", "model-3.safetensors", "a copy.safetensors"]


@pytest.mark.parametrize("is_sharded", [False, True])
@pytest.mark.parametrize("beside", BESIDE)
def test_weights_that_nothing_reads_are_neither_copied_nor_counted(
    folder: Path, beside: str, is_sharded: bool
) -> None:
    if is_sharded:
        sharded(folder)
    head = {name: GOOD["w"] for name in ("w", "v", "u")}
    (folder / beside).write_bytes(weights(head))
    out = folder.parent / "out"
    out.mkdir()
    copy_folder(folder, out)
    assert beside not in {path.name for path in out.iterdir()}
    assert parameters(folder) == parameters(out) == 1 + is_sharded


def test_an_index_beside_whole_weights_is_left(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps(INDEXED), encoding="utf-8")
    out = folder.parent / "out"
    out.mkdir()
    copy_folder(folder, out)
    assert "model.safetensors.index.json" not in {path.name for path in out.iterdir()}


def test_weights_of_another_name_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    with pytest.raises(ArtifactError, match=r"neither model\.safetensors nor .* consolidated"):
        check_folder(folder)


def test_an_adapter_that_was_left_is_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"adapter_config\.json.*merge it"):
        check_folder(folder)


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"bits": 4}, "yes"),
        ({}, ""),
        (None, ""),
    ],
)
def test_how_weights_are_quantised_is_told(
    folder: Path, settings: dict | None, method: str
) -> None:
    (folder / "config.json").write_text(json.dumps({"quantization_config": settings}))
    assert quantised(folder) == method


@pytest.mark.parametrize("config", [{"vocab_size": 5}, {"text_config": {"vocab_size": 5}}])
def test_a_tokenizer_larger_than_the_embedding_is_refused(folder: Path, config: dict) -> None:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    check_ids(folder, [0, 4])
    with pytest.raises(ArtifactError, match="ids up to 5, its embedding has 5 rows"):
        check_ids(folder, [0, 5])


@pytest.mark.parametrize("name", ["with space and ü", "link", "readonly"])
def test_a_folder_may_have_any_name_be_a_link_itself_and_be_read_only(
    folder: Path, name: str
) -> None:
    if name == "link":
        (folder.parent / name).symlink_to("model")
    else:
        folder.rename(folder.parent / name)
    source, out = folder.parent / name, folder.parent / "out"
    out.mkdir()
    if name == "readonly":
        source.chmod(0o555)
    copy_folder(source, out)
    source.chmod(0o755)
    assert len(list(out.iterdir())) == 3
    (out / "new").touch()
