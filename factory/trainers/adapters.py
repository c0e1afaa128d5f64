"""Models under adapters: how their base is opened, merged and saved."""

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig

from factory.core.errors import RecipeError
from factory.core.machine import Machine
from factory.core.ranks import this_rank
from factory.trainers.lora import LoraConfig
from factory.trainers.lowmem import SHARDED_PACKED
from factory.trainers.opening import open_model
from factory.trainers.weights import is_packed, unpacked

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER = "adapter"
"""Folder of the adapters in a model's."""
BLOCK = 64
"""Weights that share a scale. bitsandbytes 0.50 unpacks blocks that lie in two rows wrongly."""


def open_policy(
    folder: Path, lora: LoraConfig | None, machine: Machine, *, ends: Sequence[int] = ()
) -> "PreTrainedModel":
    """The model of a folder, to be trained: in float32 what learns, under adapters the frozen
    weights as `lora.base` says. RecipeError where packed weights would be divided among ranks."""
    if lora is None:
        return open_model(folder, ends=ends)
    dtype = getattr(torch, machine.torch_dtype_name(on_gpu=machine.takes_gpu()))
    if lora.base == "plain":
        return open_model(folder, dtype, ends=ends)
    if machine.train.is_sharded:
        raise RecipeError(SHARDED_PACKED.format(lora.base))
    from transformers import BitsAndBytesConfig

    shape = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    widths = {shape.hidden_size, shape.intermediate_size}
    if any(width % BLOCK for width in widths):
        raise RecipeError(
            f"lora.base: {lora.base}: packs {BLOCK} weights of a row at a time, and the model has "
            f"rows of {sorted(widths)}: take lora.base: plain"
        )
    packing = BitsAndBytesConfig(
        load_in_8bit=lora.base == "int8",
        load_in_4bit=lora.base == "nf4",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    device = f"cuda:{this_rank().local}" if machine.takes_gpu() else "cpu"
    where = {"quantization_config": packing, "device_map": {"": device}}
    return open_model(folder, dtype, ends=ends, **where)


def merged(model: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A causal model's state from that of `model`, a PEFT model around it: W + s B A.

    From the gathered state, since of several ranks none holds more than its shards. As PEFT's own
    `merge_and_unload` computes it.
    """
    adapter = model.active_adapter
    inner = model.get_base_model()
    prefix = "base_model.model."
    tensors: dict[str, Tensor] = {}
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
        tensors[f"{stem}.{rest}" if is_adapted else name] = tensor
    return tensors


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


def unpacked_shape(model: Any) -> Any:
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


def untied(model: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state without the names that only repeat others: a gathered one has a copy for each."""
    tied = getattr(model, "_tied_weights_keys", None) or {}
    if not model.config.tie_word_embeddings or not isinstance(tied, Mapping):
        return dict(state)
    return {name: tensor for name, tensor in state.items() if tied.get(name) not in state}
