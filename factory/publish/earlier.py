"""What a published folder says to transformers 4: faults of its files, and what they cannot say."""

import json
from pathlib import Path
from typing import Any

from factory.models.transformers4 import (
    COMPARED,
    VERSION,
    config_faults,
    reading,
    tokenizer_faults,
    unsaid,
)
from factory.publish.template import PROBES
from factory.text.templates import open_tokenizer


def read_config(folder: Path) -> dict[str, Any]:
    """What transformers 5 reads in a folder's config.json; no code from there is run."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return config.to_dict()


def old_faults(folder: Path, own: Path) -> list[str]:
    """Where transformers 4 reads the folder's JSON files otherwise than version 5 the checkpoint's.

    The files are read as plain JSON: version 4 is not needed.
    """
    trained = read_config(own)
    faults = config_faults(_content(folder / "config.json"), trained)
    if not faults and reading(read_config(folder)) != reading(trained):
        faults.append("config.json: transformers 5 reads other settings than the checkpoint's")
    named = _content(folder / "tokenizer_config.json")
    return faults + tokenizer_faults(named, _content(folder / "special_tokens_map.json"))


def limits(folder: Path) -> list[str]:
    """Why the folder is for transformers 5 alone, one line each; empty where both read the same."""
    config = read_config(folder)
    kind = config["model_type"]
    reasons = [f"transformers 4 has no key for {what}" for what in unsaid(config)]
    if kind not in COMPARED:
        reasons.append(f"models of type {kind} were not compared in transformers {VERSION}")
    return reasons + _token_limits(folder)


def _token_limits(folder: Path) -> list[str]:
    """Texts of which version 5 makes other tokens than tokenizer.json, which version 4 goes by."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        return ["there is no tokenizer.json"]
    raw, read = Tokenizer.from_file(str(path)), open_tokenizer(folder)
    differ = [
        text
        for text in PROBES
        if raw.encode(text, add_special_tokens=False).ids
        != list(read(text, add_special_tokens=False)["input_ids"])
    ]
    return [f"transformers 4 makes other tokens of {differ[0]!r}"] if differ else []


def _content(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
