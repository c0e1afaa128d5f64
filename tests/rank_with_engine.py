"""A rank's worker with an engine of the test's: `python rank_with_engine.py JOB.json [ENGINE]`.

Without an engine's name the one on transformers does what vLLM does: it opens a process group of
one where there is none, and accelerate takes over what it finds. `vllm` is vLLM itself, and
`stale` is vLLM that is given no weights.
"""

import sys
from pathlib import Path
from typing import Any

import torch

from factory.building import worker
from factory.sampling.transformers import TransformersSampler


def main(job: Path, engine: str) -> int:
    worker.die_with_parent = lambda: None
    if engine == "own group":
        open_a_group()
    if engine == "stale":
        import factory.sampling.vllm

        factory.sampling.vllm.VllmSampler.load_weights = lambda self, weights: None
    return worker.main(job)


def open_a_group() -> None:
    original = TransformersSampler.__init__

    def opens_a_group(self: Any, *args: Any, **rest: Any) -> None:
        if not torch.distributed.is_initialized():
            store = torch.distributed.HashStore()
            torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        original(self, *args, **rest)

    TransformersSampler.__init__ = opens_a_group


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), [*sys.argv[2:], "own group"][0]))
