"""A trainer's finished model as a Hugging Face folder: its input with other weights."""

import shutil
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, Trainer

from factory.sampling.ends import name_ends
from factory.trainers.tokens import write_tokens
from factory.trainers.weights import is_packed, unpacked

ADAPTER = "adapter"
"""Folder of the adapters in a model's."""
TOKENIZER_FILES = (
    "tokenizer*",
    "chat_template*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
)


def merged(model: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A causal model's state from that of `model`, a PEFT model around it: W + s B A.

    From the gathered state, since of several ranks none holds more than its shards. As PEFT's own
    `merge_and_unload` computes it.
    """
    adapter = model.active_adapter
    inner = model.get_base_model()
    prefix = "base_model.model."
    whole: dict[str, Tensor] = {}
    for name, tensor in state.items():
        name = name.removeprefix(prefix)
        if ".lora_" in name:
            continue
        stem, is_adapted, rest = name.partition(".base_layer.")
        if is_adapted and rest not in ("weight", "bias"):
            continue  # scales of packed weights
        if is_adapted and rest == "weight":
            layer = inner.get_submodule(stem)
            if is_packed(layer.base_layer.weight):
                tensor = unpacked(layer.base_layer)
            low, high = (state[f"{prefix}{stem}.lora_{end}.{adapter}.weight"] for end in "AB")
            tensor = tensor + (high @ low).to(tensor.device) * layer.scaling[adapter]
        whole[f"{stem}.{rest}" if is_adapted else name] = tensor
    return whole


def save_adapters(model: Any, state: Mapping[str, Tensor], source: Path, folder: Path) -> None:
    """PEFT's two files; their base is named as its artifact's folder."""
    folder.mkdir()
    adapter = model.active_adapter
    tensors = {
        name.replace(f".{adapter}.", "."): tensor.float().contiguous()
        for name, tensor in state.items() if ".lora_" in name
    }  # fmt: skip
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = copy(model.peft_config[adapter])
    settings.base_model_name_or_path, settings.inference_mode = source.name, True
    settings.save_pretrained(str(folder))


def _plain(model: Any) -> Any:
    """A model of the same shape and without weights, where those of `model` are packed: only its
    configs are written."""
    if not getattr(model, "is_quantized", False):
        return model
    config = copy(model.config)
    del config.quantization_config
    with torch.device("meta"):
        plain = type(model)(config)
    plain.generation_config = model.generation_config
    return plain


def untied(model: torch.nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state without the names that only repeat others: a gathered one has a copy for each."""
    tied = getattr(model, "_tied_weights_keys", None) or {}
    if not model.config.tie_word_embeddings or not isinstance(tied, Mapping):
        return dict(state)
    return {name: tensor for name, tensor in state.items() if tied.get(name) not in state}


def save_model(
    trainer: Trainer,
    source: Path,
    out: Path,
    *,
    new_tokens: Sequence[str] = (),
    ends: Sequence[int] = (),
    keeps_adapters: bool = False,
) -> None:
    """Write the trained model to `out` in the dtype of the model in `source`, adapters merged.

    Weights are safetensors. The tokenizer's files are copied, since loading and saving a tokenizer
    leaves traces of how it was loaded; `new_tokens` are added to them. `ends` are where the model's
    answers end: trainers put the tokenizer's own in their place, or twice into their list. Of
    several ranks all must call this; the first one writes. `keeps_adapters` leaves them in the
    folder `adapter` too.
    """
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if not trainer.is_world_process_zero():
        return
    source_config = AutoConfig.from_pretrained(source, local_files_only=True)
    dtype = source_config.dtype or torch.float32
    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "get_base_model"):
        if keeps_adapters:
            save_adapters(model, state, source, out / ADAPTER)
        state = merged(model, state)
        model = _plain(model.get_base_model())
    state = untied(model, state)
    # Trainers turn the cache off, which would make whoever generates with the saved model slow.
    model.config.use_cache = getattr(source_config, "use_cache", True)
    state = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in state.items()
    }
    if ends:
        name_ends(model, ends)
    model.save_pretrained(out, state_dict=state)
    model.config.dtype = dtype  # the call above notes the dtype that was trained in
    model.config.save_pretrained(out)
    for pattern in TOKENIZER_FILES:
        for path in sorted(source.glob(pattern)):
            shutil.copyfile(path, out / path.name)
    if new_tokens:
        write_tokens(out, new_tokens)
