"""A trainer's run, from its last checkpoint, among exactly the ranks that were launched."""

from typing import cast

import torch
from transformers import Trainer

from factory.core.context import Context
from factory.core.errors import EngineError
from factory.core.machine import Machine
from factory.core.ranks import this_rank
from factory.models.parts import trained_model
from factory.trainers.checkpoints import output_folder, require_space, resume_point
from factory.trainers.sharding import require_same_sharding, require_shards, set_reduction

NEAR = 0.98
"""Drivers report a little less than a data sheet says."""


def run_trainer(trainer: Trainer, context: Context) -> None:
    """Train to the end, from the newest complete checkpoint where there is one.

    EngineError before the first step and after the last one unless the ranks that train together
    are those that were launched: what is saved later would be the work of one of them.
    """
    launched = context.machine.processes
    require_ranks(trainer, launched)
    require_memory(context.machine)
    model = trained_model(trainer)
    resumed = resume_point(output_folder(trainer.args), context.note)
    require_same_sharding(trainer, resumed)
    require_space(context.scratch, model)
    set_reduction(trainer, context.machine)
    _widen(model)
    trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
    require_ranks(trainer, launched)
    require_shards(trainer, context.machine)


def gathered_over_ranks(trainer: Trainer, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor (n, ...) of every rank, one below the other, on the trainer's device."""
    accelerator = trainer.accelerator
    return cast(torch.Tensor, accelerator.gather(tensor.to(accelerator.device)))


def _widen(model: torch.nn.Module) -> None:
    """What learns is summed in float32; TRL rounds adapters on packed weights to 16 bits."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()


def require_memory(machine: Machine) -> None:
    """EngineError where the GPU has clearly less memory than the plan counted with."""
    if machine.peaks is None or machine.ignore_fit or not machine.takes_gpu():
        return
    reported = torch.cuda.get_device_properties(this_rank().local).total_memory / 2**30
    if reported < NEAR * machine.peaks.memory_gib:
        raise EngineError(
            f"machine file: peaks.memory_gib: {machine.peaks.memory_gib}, but the GPU has "
            f"{reported:.1f} GiB: what was planned may not fit; write what the driver reports, or "
            "take another machine file (recipes/machines/gpu24.yaml)"
        )


def require_ranks(trainer: Trainer, launched: int) -> None:
    """EngineError unless `trainer` trains in `launched` ranks, each another and all in one group.

    A rank that believes itself alone computes the right numbers for its share of a batch and shares
    no gradient: nothing else tells.
    """
    rank, seen = this_rank(), trainer.accelerator.num_processes
    if trainer.args.n_gpu > 1:
        raise EngineError(
            f"this process sees {trainer.args.n_gpu} GPUs and would divide each batch among them; "
            "set CUDA_VISIBLE_DEVICES to one of them, or launcher: accelerate and processes: "
            f"{trainer.args.n_gpu} in the machine file"
        )
    if not launched == rank.count == seen:
        raise EngineError(
            f"machine file: processes: {launched}, but rank {rank.index} was started as one of "
            f"{rank.count} and its trainer sees {seen}: ranks would train without each other; "
            "nothing is made. Let the builder start the ranks, and nothing open a process group "
            "before factory.core.ranks.join"
        )
    if launched == 1:
        return
    own = torch.tensor([trainer.accelerator.process_index], device=trainer.accelerator.device)
    indices = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(indices, own)
    total = torch.ones_like(own)
    torch.distributed.all_reduce(total)
    ranks = sorted(int(index) for index in indices)
    if ranks != list(range(launched)) or int(total) != launched or int(own) != rank.index:
        raise EngineError(
            f"machine file: processes: {launched}, but rank {rank.index}, the trainer's "
            f"{int(own)}, is in a group of the ranks {ranks} that sums {int(total)} ones; nothing "
            "is made. Start again, and say how it was started if it happens twice"
        )
