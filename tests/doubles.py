"""Float64 wherever a library or the factory says float32.

Two ways to compute one thing differ in the order of their sums. In float32 that is up to 1e-6 of
the result, and how much of it depends on the processor; in float64 it is 1e-15, and a bound of 1e-9
holds on each of them. Models and losses of transformers and TRL turn to float32 inside whatever
they are given, so the name itself is changed. A model's folder has to be written under this name
too: safetensors asks torch what float32 is.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

CLOSE = 1e-9
"""For two ways to compute one thing, in float64."""


@contextmanager
def in_float64() -> Iterator[None]:
    """`torch.float32`, `torch.float` and `Tensor.float()` mean float64, which is the default."""
    # torch makes its table of stored dtypes when it first loads something.
    file = io.BytesIO()
    torch.save(torch.zeros(1), file)
    file.seek(0)
    torch.load(file)
    before = torch.get_default_dtype()
    with pytest.MonkeyPatch.context() as patch:
        double = torch.float64
        patch.setattr(torch, "float32", double)
        patch.setattr(torch, "float", double)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        torch.set_default_dtype(double)
        try:
            yield
        finally:
            torch.set_default_dtype(before)
