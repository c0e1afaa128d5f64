"""A model's folder opened for training, and the tokens that it has room for."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from factory.errors import ArtifactError, RecipeError
from factory.machine import Machine
from factory.ranks import this_rank, whole_weights
from factory.sampling.ends import name_ends
from factory.trainers.lora import SHARDED_PACKED, LoraConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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


def open_model(
    folder: Path, dtype: torch.dtype | None = None, *, ends: Sequence[int] = (), **where: Any
) -> "PreTrainedModel":
    """The causal language model of a folder, in float32 unless another dtype is given;
    ArtifactError if it cannot be opened.

    What learns is opened in float32 whatever it is stored in: updates are smaller than bfloat16 can
    add. Its configs name `ends`, where TRL looks for them, if any are given.
    """
    try:
        with whole_weights():
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype or torch.float32, use_safetensors=True, local_files_only=True,
                **where,
            )  # fmt: skip
    except OSError as error:
        raise ArtifactError(f"{folder}: not a model that can be opened: {error}") from error
    if ends:
        name_ends(model, ends)
    return model


def context_length(folder: Path) -> int | None:
    """Positions of the model in a folder, or None if its configuration does not say."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    return getattr(config, "max_position_embeddings", None)


def row_limit(model: Path, context: int) -> int:
    """Tokens a row may have: the recipe's context, or the model's own if that is less."""
    return min(context, context_length(model) or context)


def require_room(folder: Path, *, prompt: int, completion: int, model: str = "model") -> int:
    """Tokens of the longest prompt with its completion; RecipeError if the model ends before.

    `model` says whose folder it is, in words.
    """
    needed = prompt + completion
    context = context_length(folder) or needed
    if needed > context:
        raise RecipeError(
            f"max_new_tokens: {completion} and the longest prompt of {prompt} tokens are more than "
            f"the {model}'s {context}: at most {context - prompt} are possible"
        )
    return needed
