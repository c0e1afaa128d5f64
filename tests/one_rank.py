"""`one_rank.py JOB.json [fault]`: the worker of one rank, whose variables the caller has set.

With `fault` an engine opens a process group before the rank has joined its own, as vLLM would.
"""

import os
import sys
from pathlib import Path

import torch

from factory import worker
from factory.machine import Machine
from factory.ranks import strip

RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def open_engine_first(machine: Machine) -> None:
    """Instead of joining the others, what an engine does that finds no process group."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)


def main(job: Path, *faults: str) -> int:
    worker.die_with_parent = lambda: None
    own = {name: os.environ[name] for name in RANK}
    strip(os.environ)
    os.environ.update(own)
    if faults:
        worker.join = open_engine_first
    return worker.main(job)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
