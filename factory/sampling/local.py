"""An engine in this process: vLLM, or transformers with a decode loop of ours."""

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from factory.core.errors import EngineError
from factory.core.machine import Machine
from factory.core.ranks import join, whole_weights
from factory.install import REINSTALL
from factory.sampling.sampler import Sampler


def open_local(
    model: Path,
    machine: Machine,
    *,
    max_length: int,
    mean_length: int,
    training: bool = False,
    notify: Callable[[str], None] | None = None,
    ends: Sequence[int] = (),
) -> Sampler:
    """An engine in this process; of one that trains among others, after it has joined them."""
    if training:
        join(machine)
    wanted = machine.engine
    if wanted == "auto":
        wanted = "transformers" if _decodes_itself(model, machine, mean_length) else "vllm"
        if wanted == "vllm" and not find_spec("vllm"):
            wanted = "transformers"
            if notify:
                notify("vLLM is not installed: sampling with transformers (slower)")
    if wanted == "vllm":
        if not find_spec("vllm"):
            raise EngineError(
                f"machine file: engine: vllm is not installed; {REINSTALL} or set engine: auto"
            )
        # Read when vllm is first imported, hence set before the import.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        from factory.sampling.vllm import VllmSampler

        return VllmSampler(model, machine, max_length=max_length, training=training, ends=ends)
    from factory.sampling.transformers import TransformersSampler

    with whole_weights():
        return TransformersSampler(model, machine, max_length=max_length, ends=ends)


def _decodes_itself(model: Path, machine: Machine, length: int) -> bool:
    """Whether `auto` takes the decode loop of ours even where vLLM is installed.

    On a CPU in float32 it is the faster one (docs/log.md has the numbers) for the models that its
    decoder covers, while enough rows of `length` tokens fit into the machine's
    `engine_memory_gib`. The mean decides where it is known, not one long prompt among hundreds.
    """
    if machine.takes_gpu() or machine.torch_dtype_name(on_gpu=False) != "float32":
        return False
    from transformers import AutoConfig

    from factory.sampling.decoder import FEWEST_ROWS, cache_bytes, covers

    config = AutoConfig.from_pretrained(model, local_files_only=True)
    if not covers(config):
        return False
    needed = FEWEST_ROWS * length * cache_bytes(config)
    return needed <= machine.engine_memory_gib * 2**30
