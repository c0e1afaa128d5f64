"""`one_rank.py JOB.json [FAULT]`: the worker of one rank, whose variables the caller has set.

With `early` an engine opens a process group before the rank has joined its own, as vLLM would.
With `killed RANK STEPS` that rank is killed, by SIGKILL, once so many steps are made.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from factory.building import worker
from factory.core.machine import Machine
from factory.core.ranks import strip

RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def open_engine_first(machine: Machine) -> None:
    """Instead of joining the others, what an engine does that finds no process group."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)


def kill_after(steps: int) -> None:
    """At the begin of the next step, when the other rank has begun it or soon will."""
    from transformers.trainer_callback import CallbackHandler

    begin = CallbackHandler.on_step_begin

    def begin_or_die(self: Any, args: Any, state: Any, control: Any) -> Any:
        if state.global_step == steps:
            os.kill(os.getpid(), signal.SIGKILL)
        return begin(self, args, state, control)

    CallbackHandler.on_step_begin = begin_or_die


def main(job: Path, *faults: str) -> int:
    worker.die_with_parent = lambda: None
    own = {name: os.environ[name] for name in RANK}
    strip(os.environ)
    os.environ.update(own)
    if faults == ("early",):
        worker.join = open_engine_first
    elif faults and faults[1] == own["RANK"]:
        kill_after(int(faults[2]))
    return worker.main(job)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
