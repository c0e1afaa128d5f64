"""How many engines draw where a stage only draws: one for each GPU, unless the file says."""

from importlib.util import find_spec

from factory.core.engines import Cluster, visible_gpus
from factory.core.errors import EngineError
from factory.core.machine import Machine

BLOCKS_AN_ENGINE = 8
"""Handed out before a stage looks at what has come: few engines then wait at the end of a call."""


def with_engines(machine: Machine) -> Machine:
    """The machine whose `cluster` says how many engines there are and where they start.

    None is added where one engine is all there is, or Ray is not installed, which the stages tell.
    EngineError where the file leaves the number open and there is no GPU to count.
    """
    cluster = machine.cluster
    if machine.replicas is not None or (cluster is not None and cluster.engines is not None):
        return machine
    count = 0
    if machine.may_take_gpu():
        gpus = machine.processes if machine.launcher != "local" else visible_gpus()
        count = gpus // machine.tensor_parallel
    if cluster is not None:
        if count == 0:
            raise EngineError(
                "machine file: cluster.engines: left out, which means one for each GPU, but there "
                "is none for an engine here; write how many engines there are to be"
            )
        return machine.model_copy(update={"cluster": cluster.model_copy(update=_sized(count))})
    if count < 2 or not find_spec("ray"):
        return machine
    address = "slurm" if machine.slurm is not None and machine.slurm.nodes > 1 else "local"
    return machine.model_copy(update={"cluster": Cluster(address=address, **_sized(count))})


def _sized(count: int) -> dict[str, int]:
    return {"engines": count, "blocks": BLOCKS_AN_ENGINE * count}
