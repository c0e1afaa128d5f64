"""Model folders that others made: what is taken of them, and what is refused before it is read.

A folder may hold links out of itself, weights whose header says more than the file holds, and the
names of code that is to be run. None of it is followed, allocated or run.
"""

import json
import shutil
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from factory.core.artifacts import MANIFEST, open_artifact, verify
from factory.core.errors import ArtifactError
from factory.core.files import check_regular

COPIED = {".json", ".safetensors", ".jinja", ".txt", ".model"}
"""Suffixes of what belongs to a model folder; nothing else is taken over."""
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
)  # fmt: skip
PROMPT_FILES = (*TOKENIZER_FILES, "chat_template.jinja", "config.json")
"""What of a model's folder writing a prompt needs: the config says of which kind its tokenizer is.
"""
LONGEST_HEADER = 100 << 20
"""Bytes, that of the safetensors library."""
LONGEST_CONFIG = 10 << 20
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER = "adapter_config.json"
LFS_START = b"version "
"""The first bytes of what Git leaves where Git LFS has not fetched a file; no header is so long."""


def check_folder(folder: Path) -> None:
    """ArtifactError where a folder is no model that may be taken over, with what is wrong."""
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such model folder")
    if not (folder / "config.json").exists():
        raise ArtifactError(f"{folder}: not a Hugging Face model folder: no config.json")
    files = own_files(folder)
    weights = [path for path in files if path.suffix == ".safetensors"]
    if not weights:
        raise ArtifactError(
            f"{folder}: no *.safetensors file; other formats can run code when they are loaded "
            "and are refused: convert the model first"
        )
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        raise ArtifactError(f"{folder}: no tokenizer.json or tokenizer.model")
    if (folder / ADAPTER).exists():
        raise ArtifactError(
            f"{folder}: {ADAPTER} of an adapter, which transformers would put upon the weights: "
            "merge it into them, or take its files away"
        )
    there = {path.name for path in files}
    named = weight_names(folder, there)
    for path in weights:
        if path.name in named:
            _check_header(path)
    _check_code(folder / "config.json")


def weight_names(folder: Path, there: set[str]) -> set[str]:
    """Names of the weight files that transformers reads: the single one, else those of the index.

    ArtifactError where the folder has neither, or lacks a file that the index names.
    """
    if SINGLE in there:
        return {SINGLE}
    index = folder / INDEX
    if INDEX not in there:
        others = ", ".join(sorted(name for name in there if name.endswith(".safetensors")))
        raise ArtifactError(f"{folder}: has neither {SINGLE} nor {INDEX}; there are {others}")
    places = _json(index, index.read_bytes()).get("weight_map")
    names = sorted({str(name) for name in places.values()}) if isinstance(places, dict) else []
    if not names:
        raise ArtifactError(f"{index}: names no file: it needs a weight_map")
    missing = [name for name in names if name not in there]
    if missing:
        raise ArtifactError(
            f"{folder}: {len(missing)} of the {len(names)} weight files that {INDEX} names are "
            f"not there, e.g. {missing[0]}: the model is not whole; download it again"
        )
    return set(names)


def own_files(folder: Path) -> tuple[Path, ...]:
    """Regular files of a folder, sorted; ArtifactError for a link that leads out of it.

    A snapshot in the hub's cache links to the `blobs` beside it, which are its own.
    """
    return tuple(path for path in sorted(_entries(folder)) if path.is_file())


def _entries(folder: Path) -> Iterator[Path]:
    inside = [folder.resolve()]
    if inside[0].parent.name == "snapshots":
        inside.append(inside[0].parents[1] / "blobs")
    for path in folder.iterdir():
        if path.is_symlink() and path.name != MANIFEST:
            try:
                target = path.resolve()
            except (OSError, RuntimeError) as error:
                raise ArtifactError(f"{path}: its links lead in a circle") from error
            if not any(target.is_relative_to(part) for part in inside):
                raise ArtifactError(
                    f"{path}: a link out of the folder; what it leads to is not taken over: put "
                    "the file itself there (cp -rL FOLDER COPY), or remove the link"
                )
        if path.suffix in COPIED and path.exists() and not path.is_dir():
            try:
                check_regular(path)
            except OSError as error:
                raise ArtifactError(f"{path}: {error.strerror}") from error
        yield path


def copy_folder(folder: Path, out: Path) -> None:
    """Copy a model's files, of weights those that are read alone; ArtifactError as `check_folder`,
    or for a broken sealed artifact."""
    check_folder(folder)
    _check_sealed(folder)
    files = own_files(folder)
    named = weight_names(folder, {path.name for path in files})
    # A sealed artifact can be a source: its manifest speaks of itself, not of the copy.
    left = {MANIFEST, INDEX} if SINGLE in named else {MANIFEST}
    for path in files:
        is_read = path.name in named if path.suffix == ".safetensors" else path.name not in left
        if path.suffix in COPIED and is_read:
            shutil.copyfile(path, out / path.name)


def quantised(folder: Path) -> str:
    """How a folder's weights are quantised, by its config.json; empty where they are not."""
    path = folder / "config.json"
    fields = _json(path, path.read_bytes())
    settings = fields.get("quantization_config")
    if not settings:
        return ""
    return str(settings.get("quant_method") or "yes") if isinstance(settings, dict) else "yes"


def check_ids(folder: Path, ids: Iterable[int]) -> None:
    """ArtifactError where a tokenizer gives ids for which the model has no embedding."""
    path = folder / "config.json"
    fields = _json(path, path.read_bytes())
    text = fields.get("text_config")
    sizes = (fields.get("vocab_size"), text.get("vocab_size") if isinstance(text, dict) else None)
    size = next((size for size in sizes if type(size) is int), None)
    largest = max(ids, default=-1)
    if size is not None and largest >= size:
        raise ArtifactError(
            f"{folder}: its tokenizer gives ids up to {largest}, its embedding has {size} rows: "
            "the tokenizer is another model's, or tokens were added to it alone"
        )


def tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """The files that prompts need; ArtifactError where there is no tokenizer."""
    files = () if not folder.is_dir() else own_files(folder)
    by_name = {path.name: path for path in files}
    if not {"tokenizer.json", "tokenizer.model"} & set(by_name):
        raise ArtifactError(f"{folder}: no tokenizer.json or tokenizer.model")
    return tuple(by_name[name] for name in PROMPT_FILES if name in by_name)


def _check_header(path: Path) -> None:
    """ArtifactError unless a safetensors file holds every tensor that its header names."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if start == LFS_START:
            raise ArtifactError(f"{path}: a Git LFS pointer, not the file: git lfs pull")
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size + 1
        if length > min(size - 8, LONGEST_HEADER):
            raise ArtifactError(f"{path}: its header is longer than the file, or than is allowed")
        header = _json(path, file.read(length))
    ends = [
        end for name, tensor in header.items() if name != "__metadata__" for end in _ends(tensor)
    ]
    if any(end is None or not 0 <= end <= size - 8 - length for end in ends):
        raise ArtifactError(f"{path}: its header names tensors that the file does not hold")


def _ends(tensor: Any) -> list[int | None]:
    offsets = tensor.get("data_offsets") if isinstance(tensor, dict) else None
    if not isinstance(offsets, list) or len(offsets) != 2:
        return [None]
    return [offset if type(offset) is int else None for offset in offsets]


def _check_code(config: Path) -> None:
    """ArtifactError for a model that only code of its own could open."""
    if config.stat().st_size > LONGEST_CONFIG:
        raise ArtifactError(f"{config}: larger than {LONGEST_CONFIG} bytes")
    fields = _json(config, config.read_bytes())
    if not fields.get("auto_map"):
        return
    from transformers import CONFIG_MAPPING

    if fields.get("model_type") not in CONFIG_MAPPING:
        raise ArtifactError(
            f"{config}: auto_map names code of the model's own, which is never run; take a model "
            "whose architecture the installed transformers has, or a newer transformers"
        )


def _json(path: Path, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: not readable as JSON") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path}: must be a JSON object")
    return value


def _check_sealed(folder: Path) -> None:
    """ArtifactError where the folder is a sealed artifact that is not what was sealed.

    Other models may bring a manifest.json of their own, which says nothing here.
    """
    manifest = folder / MANIFEST
    if manifest.exists() and b'"stage_version"' in manifest.read_bytes():
        verify(open_artifact(folder))
