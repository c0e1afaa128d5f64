"""`python rank_with_engine.py JOB.json`: a rank's worker, whose engine does what vLLM does.

It opens a process group of one where there is none; accelerate takes over the group that it finds.
"""

import sys
from pathlib import Path
from typing import Any

import torch

from factory import worker
from factory.sampling.transformers import TransformersSampler


def main(job: Path) -> int:
    original = TransformersSampler.__init__

    def opens_a_group(self: Any, *args: Any, **rest: Any) -> None:
        if not torch.distributed.is_initialized():
            store = torch.distributed.HashStore()
            torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        original(self, *args, **rest)

    TransformersSampler.__init__ = opens_a_group
    worker.die_with_parent = lambda: None
    return worker.main(job)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
