"""The precision of float32 matrix products on CPUs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
