"""A checkpoint as a plain Hugging Face folder: weights, configs, tokenizer, serving template."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.core.artifacts import Artifact
from factory.core.errors import ArtifactError
from factory.core.files import write_file
from factory.core.records import SamplingConfig
from factory.models.transformers4 import with_old_keys, write_tokenizer_fields
from factory.publish.earlier import read_config
from factory.publish.template import serving_template
from factory.sampling.ends import end_ids, written
from factory.sampling.served import read_served
from factory.stages.foreign_folder import TOKENIZER_FILES
from factory.stages.model import LOADING_TRACES
from factory.text.chat import PromptConfig
from factory.text.templates import open_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHARD_BYTES = 5 * 10**9
"""Largest file of weights; the hub's own default for a shard is 5 GB."""
MAX_NEW_TOKENS = 32768
"""R1's limit of an answer (arXiv 2501.12948 v2, D.1); the model's own context counts if less."""


def refuse_served(artifact: Artifact) -> None:
    """ArtifactError where a model is on a server: there are no weights to do anything with."""
    served = read_served(artifact.path) if artifact.manifest.kind == "model" else None
    if served is not None:
        raise ArtifactError(f"{artifact.path}: its weights are not here: {served.url} serves them")


def write_settings(artifact: Artifact, prompt: PromptConfig, folder: Path) -> None:
    """Everything that a server needs besides weights.

    `generation_config.json` holds R1's sampling and every token that ends an answer;
    `chat_template.jinja` the template that asks as training did. transformers 4 and 5 read the same
    in all of them, as far as the keys of version 4 can say it.
    """
    source = artifact.path
    tokenizer = open_tokenizer(source)
    for name in TOKENIZER_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)
    _rewrite(folder / "tokenizer_config.json", drop=("chat_template", *LOADING_TRACES))
    write_tokenizer_fields(folder)
    template = serving_template(tokenizer, prompt)
    write_file(folder / "chat_template.jinja", template)
    config = _rewrite(folder / "config.json", source / "config.json", drop=LOADING_TRACES)
    write_json(folder / "config.json", with_old_keys(config, read_config(source)))
    fields = generation_config(tokenizer, config, end_ids(source, tokenizer))
    write_json(folder / "generation_config.json", fields)


def generation_config(
    tokenizer: "PreTrainedTokenizerBase", config: dict[str, Any], ends: Sequence[int]
) -> dict[str, Any]:
    """R1's sampling (arXiv 2501.12948 v2, D.1), and every id at which the model's answers end."""
    sampling = SamplingConfig()
    context = config.get("max_position_embeddings") or MAX_NEW_TOKENS
    fields = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": written(ends) if ends else None,
        "pad_token_id": tokenizer.pad_token_id,
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_new_tokens": min(MAX_NEW_TOKENS, context),
    }
    return {key: value for key, value in fields.items() if value is not None}


def write_weights(artifact: Artifact, folder: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
    """The safetensors files as they are; one that is larger than a shard is cut into shards."""
    names = [name for name in artifact.manifest.files if is_weights(name)]
    if all(artifact.manifest.files[name].size <= shard_bytes for name in names):
        for name in names:
            shutil.copyfile(artifact.path / name, folder / name)
        return
    from huggingface_hub import save_torch_state_dict
    from safetensors.torch import load_file

    state = {}
    for name in names:
        if name.endswith(".safetensors"):
            state.update(load_file(artifact.path / name))
    save_torch_state_dict(state, folder, max_shard_size=shard_bytes, metadata={"format": "pt"})


def write_adapters(artifact: Artifact, ancestors: Sequence[Artifact], folder: Path) -> None:
    """PEFT's files of a model that kept its adapters, their base named as the hub does, where it
    comes from there; nothing for other models."""
    names = [name for name in artifact.manifest.files if name.startswith("adapter/")]
    if not names:
        return
    (folder / "adapter").mkdir()
    for name in names:
        shutil.copyfile(artifact.path / name, folder / name)
    path = folder / "adapter" / "adapter_config.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    base = artifact.manifest.inputs.get("model")
    for ancestor in ancestors:
        source = ancestor.manifest.config.get("source")
        if base is None or ancestor.fingerprint != base.fingerprint:
            continue
        if isinstance(source, dict) and source.get("id"):
            fields["base_model_name_or_path"] = source["id"]
            fields["revision"] = source.get("revision")
    write_json(path, fields)


def is_weights(name: str) -> bool:
    """Whether a file of this name holds weights, or says where they lie."""
    return "/" not in name and name.endswith((".safetensors", ".safetensors.index.json"))


def _rewrite(target: Path, source: Path | None = None, *, drop: tuple[str, ...]) -> dict[str, Any]:
    """A JSON file without the keys that say where it was loaded from."""
    path = source or target
    fields = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept = {key: value for key, value in fields.items() if key not in drop}
    write_json(target, kept)
    return kept


def write_json(path: Path, value: Any) -> None:
    """Write a value as readable JSON."""
    write_file(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
