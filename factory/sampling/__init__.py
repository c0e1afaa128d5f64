"""Engines behind one protocol: `open_sampler` picks the one that suits model and machine."""

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from factory.context import Metrics
from factory.errors import EngineError
from factory.machine import Machine
from factory.ranks import join, whole_weights
from factory.sampling.sampler import Completion, Request, Sampler
from factory.sampling.served import read_served

__all__ = ["Completion", "Request", "Sampler", "open_sampler"]


def open_sampler(
    model: Path,
    machine: Machine,
    *,
    max_length: int,
    mean_length: int | None = None,
    training: bool = False,
    notify: Callable[[str], None] | None = None,
    scratch: Path | None = None,
    figures: Metrics | None = None,
    ends: Sequence[int] = (),
) -> Sampler:
    """An engine holding the model of a folder, those of a cluster, or the folder's server.

    `max_length` is the most tokens of one prompt and its completion together, `mean_length` their
    mean over all that will be asked where that is known; `training` says that a trainer shares the
    device. `notify` hears of what the user should know: vLLM is wanted but missing, a server fails,
    a node died. `scratch` is for stages that draw much: it keeps completions of a call under way
    where they come in parts, and only with it the machine file's cluster is asked. `figures` takes
    what an engine counts. An answer ends at every id that `ends.end_ids` gives for the folder; a
    trainer names further `ends`.
    """
    served = read_served(model)
    if served is not None:
        if training:
            raise EngineError(f"{served.name} is on a server: it cannot be trained")
        from factory.sampling.endpoint import EndpointSampler

        return EndpointSampler(
            model, served, machine, max_length=max_length, notify=notify, scratch=scratch
        )
    mean_length = mean_length or max_length
    if machine.cluster is not None and scratch is not None:
        from factory.sampling.cluster import ClusterSampler

        return ClusterSampler(
            model, machine, machine.cluster, max_length=max_length, mean_length=mean_length,
            scratch=scratch, notify=notify, figures=figures,
        )  # fmt: skip
    return _open_here(
        model, machine, max_length=max_length, mean_length=mean_length,
        training=training, notify=notify, ends=ends,
    )  # fmt: skip


def _open_here(
    model: Path,
    machine: Machine,
    *,
    max_length: int,
    mean_length: int,
    training: bool,
    notify: Callable[[str], None] | None,
    ends: Sequence[int],
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
                "machine file: engine: vllm is not installed; run `make install` "
                "or set engine: auto"
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
