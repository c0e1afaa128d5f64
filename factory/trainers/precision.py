"""The precision of training: the dtype of forward passes, and of float32 products on CPUs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from factory.machine import Machine


def device_fields(machine: Machine) -> dict[str, Any]:
    """The fields of TrainingArguments that say where a Trainer computes, and in which dtype.

    The dtype is that of the sampling engines (`Machine.torch_dtype_name`), so that one machine
    file trains every stage alike. In bfloat16 the weights stay in float32 and products are
    rounded (autocast).
    """
    on_gpu = machine.takes_gpu()
    return {
        "use_cpu": not on_gpu,
        "bf16": machine.torch_dtype_name(on_gpu=on_gpu) == "bfloat16",
        "fp16": False,
        "dataloader_pin_memory": on_gpu,
    }


@contextmanager
def exact_products() -> Iterator[None]:
    """Float32 products without rounded operands, in the trainer and in an engine in this process.

    Where `matmul: bfloat16` holds, a processor with AMX rounds the operands to bfloat16.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
