"""Who draws for a stage that does nothing else: settings of the machine file, GPUs to see."""

import os
from pathlib import Path

from pydantic import Field

from factory.core.records import Record


class Cluster(Record):
    """Engines on the nodes of a Ray cluster, for the stages that draw and do not train."""

    address: str = Field(default="local", pattern=r"^(local|slurm|[^\s:/]+:\d+)$")
    """HOST:PORT of the head of a running cluster, of which this machine is a node; or one for as
    long as a stage draws: `local`, of this machine alone, on 127.0.0.1, or `slurm`, of all nodes of
    the job that the build runs in."""
    engines: int | None = Field(default=None, ge=1, le=10**5)
    """Each in a process of its own, which draws one block at a time. On GPUs an engine takes
    `tensor_parallel` of them, all of one node; None: as many as there is room for."""
    cores: int = Field(default=1, ge=1, le=4096)
    """CPU cores that an engine takes; its threads, instead of `threads`."""
    blocks: int = Field(default=16, ge=1, le=10**5)
    """Blocks handed out before the stage looks at what has come. The last of them keeps the other
    engines waiting, so take several for each engine."""
    restarts: int = Field(default=8, ge=0, le=10**5)
    """Engines started anew in one start of a stage, after their process or their node has died,
    or after a fault; then whatever fails is done without, until no engine is left."""
    retries: int = Field(default=3, ge=0, le=1000)
    """Times that an engine may raise or pass the deadline before it is done without, and that a
    block or request is given to another engine before the stage ends."""
    block_seconds: float | None = Field(default=None, ge=0.001, le=1e6)
    """Deadline of an engine for one block, or with `drawing: full` for its next step; None: 600,
    and four times what the slowest block so far took where that is more."""
    start_seconds: float = Field(default=1800.0, ge=0.001, le=1e6)
    """Until a node with room is there, and then until the first engine has loaded the model."""


class Replicas(Record):
    """Servers of vLLM that stages which only draw start for themselves and ask over HTTP."""

    count: int | None = Field(default=None, ge=1, le=1024)
    """Servers, each with the whole model on `tensor_parallel` GPUs of its own; None: as many as
    there are GPUs for, one on CPUs."""
    concurrency: int = Field(default=256, ge=1, le=10**5)
    """Requests on their way to one of them at once."""
    start_seconds: float = Field(default=1800.0, ge=0.001, le=1e6)
    """Until all of them answer."""


def visible_gpus() -> int:
    """GPUs that a process may see, by its environment and NVIDIA's device files alone."""
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    if stated is not None:
        return len([name for name in stated.split(",") if name.strip()])
    return len([path for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit()])
