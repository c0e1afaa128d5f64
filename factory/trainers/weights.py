"""A trainer's weights as an engine takes them."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from factory.models.parts import causal_model


def gathered(tensor: Tensor) -> Tensor:
    """A tensor gathered from its shards, if it is divided; then every rank must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def fill(parameter: Tensor, tensor: Tensor) -> None:
    """Copy a whole tensor, which every rank has, into a parameter or into its shards."""
    if isinstance(parameter, DTensor):
        tensor = distribute_tensor(
            tensor.to(parameter.device, parameter.dtype), parameter.device_mesh,
            parameter.placements, src_data_rank=None,
        )  # fmt: skip
    parameter.copy_(tensor)


def unpacked(layer: Any) -> Tensor:
    """A linear layer's weight as a matrix, where it is held in 8 or 4 bits too."""
    weight: Tensor = layer.weight
    if not is_packed(weight):
        return weight.detach()
    from peft.utils.integrations import dequantize_module_weight

    return dequantize_module_weight(layer).detach()


def is_packed(weight: Tensor) -> bool:
    """Whether bitsandbytes holds it."""
    return type(weight).__name__ in ("Params4bit", "Int8Params")


def policy_weights(model: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weights to sample with, named as in the causal model's state dict.

    LoRA updates are added on the fly: merging in place and back would leave rounding in the base
    weights, which a resumed run would not have. Tied weights come once.
    """
    inner = causal_model(model)
    for name, parameter in inner.named_parameters():
        if ".lora_" in name:
            continue
        tensor = parameter.detach()
        if ".base_layer." in name:
            layer: Any = inner.get_submodule(name.partition(".base_layer.")[0])
            if name.endswith(".weight"):
                tensor = unpacked(layer.base_layer)
                tensor = tensor + layer.get_delta_weight("default").detach()
            name = name.replace(".base_layer.", ".")
        yield name, gathered(tensor)
