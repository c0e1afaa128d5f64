"""Engines behind one protocol: `open_sampler` picks vLLM where it imports, else transformers."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from factory.errors import EngineError
from factory.machine import Machine
from factory.sampling.sampler import Completion, Request, Sampler

__all__ = ["Completion", "Request", "Sampler", "open_sampler"]


def open_sampler(
    model: Path,
    machine: Machine,
    *,
    max_length: int,
    training: bool = False,
    notify: Callable[[str], None] | None = None,
) -> Sampler:
    """An engine holding the model of a folder.

    `max_length` is the most tokens of one prompt and its completion together; `training` says
    that a trainer shares the device. `notify` hears once when vLLM is wanted but missing.
    """
    wanted = machine.engine
    if wanted == "auto":
        wanted = "vllm" if find_spec("vllm") else "transformers"
        if wanted == "transformers" and notify:
            notify("vLLM is not installed: sampling with transformers (slower, same within noise)")
    if wanted == "vllm":
        if not find_spec("vllm"):
            raise EngineError(
                "machine file: engine: vllm is not installed; run `make install` "
                "or set engine: auto"
            )
        # Read when vllm is first imported, hence set before the import.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        from factory.sampling.vllm import VllmSampler

        return VllmSampler(model, machine, max_length=max_length, training=training)
    from factory.sampling.transformers import TransformersSampler

    return TransformersSampler(model, machine, max_length=max_length)
