"""What transformers 4 reads in a model folder, written beside what transformers 5 writes.

Version 5 renamed `torch_dtype` and gathered the settings of RoPE in `rope_parameters`. Version 4
reads the earlier keys; where they are missing it takes a default without a word, and the model
writes nonsense. Version 5 reads both, `rope_scaling` before `rope_parameters`.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from factory.core.files import write_file

Fields = dict[str, Any]

VERSION = "4.56.2"
"""The release of transformers 4 that tiny models were loaded and compared in."""
COMPARED = frozenset({
    "cohere", "cohere2", "deepseek_v3", "exaone4", "falcon", "gemma", "gemma2", "gemma3_text",
    "glm", "glm4", "glm4_moe", "gpt2", "gpt_neox", "gpt_oss", "granite", "llama", "mistral",
    "mixtral", "nemotron", "olmo", "olmo2", "olmoe", "phi", "phi3", "phimoe", "qwen2", "qwen2_moe",
    "qwen3", "qwen3_moe", "seed_oss", "smollm3", "stablelm", "starcoder2",
})  # fmt: skip
"""Types of which tiny random models gave logits within 1e-5 of each other in version 5 and that
release, with a base of the rotation far from the default; `bench/transformers4.py` repeats it."""

TOKENIZER_CLASS = "PreTrainedTokenizerFast"
"""Reads tokenizer.json as it stands; both versions know it."""
_NEW_CLASSES = ("TokenizersBackend", "PythonBackend", "SentencePieceBackend")

_BASE = {"gpt_neox": "rotary_emb_base", "gpt_neox_japanese": "rotary_emb_base"}
_SHARE = {"gpt_neox": "rotary_pct", "gpt_neox_japanese": "rotary_pct"}
_BY_LAYER = {
    "gemma3_text": ("rope_theta", "rope_local_base_freq"),
    "gemma3n_text": ("rope_theta", "rope_local_base_freq"),
    "modernbert-decoder": ("global_rope_theta", "local_rope_theta"),
}
"""Keys of the base for layers with full and with sliding attention, where they may differ."""
_RENAMED = {"qwen3_moe": {"num_experts": "num_local_experts"}}
"""Further keys that version 5 writes under another name: earlier name to its own."""
_OWN_KEYS = ("rope_theta", "partial_rotary_factor")


def old_keys(config: Mapping[str, Any]) -> Fields:
    """The earlier keys of one config, as transformers 5 reads it; sub-configs are apart.

    Only what can be said in them: `unsaid` names the rest.
    """
    keys: Fields = {}
    if isinstance(config.get("dtype"), str):
        keys["torch_dtype"] = config["dtype"]
    kind, rope = config.get("model_type", ""), config.get("rope_parameters")
    keys |= {old: config[new] for old, new in _RENAMED.get(kind, {}).items() if new in config}
    if not rope:
        return keys
    base, share = _BASE.get(kind, "rope_theta"), _SHARE.get(kind, "partial_rotary_factor")
    if _is_by_layer(rope):
        full, sliding = (rope.get(f"{name}_attention") for name in ("full", "sliding"))
        if kind in _BY_LAYER and full and sliding:
            base, local = _BY_LAYER[kind]
            keys[local] = sliding.get("rope_theta")
            rope = full
        else:
            rope = next(value for value in rope.values() if value)
    keys[base] = rope.get("rope_theta")
    if rope.get("partial_rotary_factor") is not None:
        keys[share] = rope["partial_rotary_factor"]
    keys["rope_scaling"] = _scaling(kind, rope)
    if rope.get("rope_type") == "longrope" and "original_max_position_embeddings" in rope:
        keys["original_max_position_embeddings"] = rope["original_max_position_embeddings"]
    return keys


def unsaid(config: Mapping[str, Any]) -> list[str]:
    """What the earlier keys of a config and its sub-configs cannot say, one line each."""
    gaps = []
    for name, part in _configs(config):
        kind, rope = part.get("model_type", ""), part.get("rope_parameters") or {}
        if not _is_by_layer(rope):
            if kind == "phimoe" and not _is_default(rope):
                gaps.append(f"{name}rope_parameters of {kind} of type {rope['rope_type']}")
            continue
        layers = [layer for layer in rope.values() if layer]
        plain = all(map(_is_default, layers))
        sliding = rope.get("sliding_attention") or {}
        if kind in _BY_LAYER:
            is_said = plain or (kind != "modernbert-decoder" and _is_default(sliding))
        else:
            is_said = all(layer == layers[0] for layer in layers)
        if not is_said:
            gaps.append(f"{name}rope_parameters of {kind} by kind of layer")
    return gaps


def with_old_keys(stored: Mapping[str, Any], read: Mapping[str, Any]) -> Fields:
    """A config.json with both sets of keys.

    `stored` is the file's content, `read` what transformers 5 reads in it (`to_dict`). The values
    are those that are read, sub-configs included.
    """
    fields = {**stored, **old_keys(read)}
    if read.get("rope_parameters"):
        fields["rope_parameters"] = read["rope_parameters"]
    if "torch_dtype" in fields:
        fields["dtype"] = fields["torch_dtype"]
    for name, value in stored.items():
        if isinstance(value, dict) and _is_config(read.get(name)):
            fields[name] = with_old_keys(value, read[name])
    return fields


def reading(read: Mapping[str, Any]) -> dict[str, Fields]:
    """`old_keys` of a config and of each one inside it, by the path that leads there."""
    return {name: old_keys(config) for name, config in _configs(read)}


def config_faults(stored: Mapping[str, Any], read: Mapping[str, Any]) -> list[str]:
    """Where transformers 4 would read a config.json otherwise than `read`, one line each."""
    inner = dict(_configs(stored))
    return [
        f"config.json: {name}{key} is {_shown(inner[name], key)}, transformers 5 reads "
        f"{json.dumps(value)}"
        for name, keys in reading(read).items()
        for key, value in keys.items()
        if name in inner and inner[name].get(key, ...) != value
    ]


def tokenizer_fields(stored: Mapping[str, Any], *, has_file: bool) -> Fields:
    """A tokenizer_config.json in words that both versions know.

    `has_file` says that tokenizer.json stands beside it, which the class for both reads.
    """
    fields = dict(stored)
    if has_file and fields.get("tokenizer_class") in _NEW_CLASSES:
        fields["tokenizer_class"] = TOKENIZER_CLASS
        fields.pop("backend", None)
    # A list under this key is version 5's; version 4 has a mapping there and ends in a traceback.
    if isinstance(fields.get("extra_special_tokens"), list):
        further = fields.pop("extra_special_tokens")
        if further:
            fields["additional_special_tokens"] = further
    return fields


def tokenizer_faults(stored: Mapping[str, Any], special: Mapping[str, str]) -> list[str]:
    """What transformers 4 cannot read, or reads otherwise, of a tokenizer's JSON files.

    `special` is the content of special_tokens_map.json, empty without one; version 4 takes it
    before the other file.
    """
    faults = []
    if stored.get("tokenizer_class") in _NEW_CLASSES:
        faults.append(f"tokenizer_config.json: transformers 4 has no {stored['tokenizer_class']}")
    if isinstance(stored.get("extra_special_tokens"), list):
        faults.append("tokenizer_config.json: extra_special_tokens is a list")
    return faults + [
        f"special_tokens_map.json: {name} is {_text(token)!r}, tokenizer_config.json says "
        f"{_text(stored[name])!r}"
        for name, token in special.items()
        if name.endswith("_token") and name in stored and _text(stored[name]) != _text(token)
    ]


def write_tokenizer_fields(folder: Path) -> None:
    """Rewrite a folder's tokenizer files so that both versions read the same."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return
    stored = json.loads(path.read_text(encoding="utf-8"))
    fields = tokenizer_fields(stored, has_file=(folder / "tokenizer.json").is_file())
    _write(path, fields)
    path = folder / "special_tokens_map.json"
    if path.is_file():
        special = json.loads(path.read_text(encoding="utf-8"))
        named = {name: _text(fields[name]) for name in special if fields.get(name) is not None
                 and name.endswith("_token")}  # fmt: skip
        _write(path, {**special, **named})


def _scaling(kind: str, rope: Mapping[str, Any]) -> Fields | None:
    if _is_default(rope):
        return None
    if kind == "phi3":  # whose version 4 takes these three and no other
        return {"type": rope["rope_type"], **{k: rope[k] for k in ("short_factor", "long_factor")}}
    return {key: value for key, value in rope.items() if key not in _OWN_KEYS}


def _is_default(rope: Mapping[str, Any]) -> bool:
    return rope.get("rope_type", "default") == "default"


def _is_by_layer(rope: Mapping[str, Any]) -> bool:
    return any(isinstance(value, dict) for value in rope.values())


def _is_config(value: Any) -> bool:
    return isinstance(value, Mapping) and "model_type" in value


def _configs(config: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A config and those inside it, each with the path that leads there (`text_config.`)."""
    yield name, config
    for key, value in config.items():
        if _is_config(value):
            yield from _configs(value, f"{name}{key}.")


def _shown(fields: Mapping[str, Any], key: str) -> str:
    return json.dumps(fields[key]) if key in fields else "missing"


def _text(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _write(path: Path, fields: Mapping[str, Any]) -> None:
    write_file(path, json.dumps(fields, indent=2, ensure_ascii=False) + "\n")
