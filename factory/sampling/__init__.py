"""Engines behind one protocol: `open_sampler` picks the one that suits model and machine."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from factory.core.context import Metrics
from factory.core.engines import visible_gpus
from factory.core.errors import EngineError
from factory.core.machine import Machine
from factory.sampling.local import open_local
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
    on_cluster: bool = False,
    notify: Callable[[str], None] | None = None,
    scratch: Path | None = None,
    figures: Metrics | None = None,
    ends: Sequence[int] = (),
) -> Sampler:
    """An engine holding the model of a folder, those of a cluster, or the folder's server.

    `max_length` is the most tokens of one prompt and its completion together, `mean_length` their
    mean over all that will be asked where that is known; `training` says that a trainer shares the
    device. `on_cluster` says that there is work for many engines: those of the machine file's
    cluster take it where there is one, otherwise one in this process. `notify` hears of what the
    user should know: vLLM is wanted but missing, a server fails, a node died. `scratch` keeps
    completions of a call under way where they come in parts; a cluster needs it. `figures` takes
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
    if on_cluster and machine.cluster is not None:
        if scratch is None:
            raise ValueError("open_sampler: on_cluster without scratch")
        from factory.sampling.cluster import ClusterSampler

        return ClusterSampler(
            model, machine, machine.cluster, max_length=max_length, mean_length=mean_length,
            scratch=scratch, notify=notify, figures=figures,
        )  # fmt: skip
    if on_cluster and machine.replicas is not None:
        if scratch is None:
            raise ValueError("open_sampler: on_cluster without scratch")
        from factory.sampling.replicas import ReplicaSampler

        return ReplicaSampler(
            model, machine, machine.replicas, max_length=max_length, scratch=scratch, notify=notify
        )
    if on_cluster and notify and machine.may_take_gpu():
        idle = visible_gpus() - machine.tensor_parallel
        if idle > 0 and not find_spec("ray"):
            notify(f"{idle} GPUs idle: engines on all of them need Ray, the extra `cluster`")
    return open_local(
        model, machine, max_length=max_length, mean_length=mean_length,
        training=training, notify=notify, ends=ends,
    )  # fmt: skip
