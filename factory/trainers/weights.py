"""A trainer's weights as an engine takes them."""

from collections.abc import Iterator

import torch
from torch import Tensor

from factory.cpu.packed import causal_model


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
            layer = inner.get_submodule(name.partition(".base_layer.")[0])
            if name.endswith(".weight"):
                tensor = tensor + layer.get_delta_weight("default").detach()
            name = name.replace(".base_layer.", ".")
        yield name, tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
