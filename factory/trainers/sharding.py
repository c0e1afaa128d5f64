"""Models divided among ranks by FSDP2: what accelerate and TRL leave to whoever calls them."""

import torch
from torch.distributed.tensor import DTensor
from transformers import Trainer

from factory.errors import EngineError
from factory.machine import Machine
from factory.ranks import this_rank


def set_reduction(trainer: Trainer, machine: Machine) -> None:
    """Sum gradients of shards in the dtype that the machine says; accelerate would in 16 bits."""
    if not machine.train.is_sharded or trainer.accelerator.mixed_precision == "no":
        return
    from torch.distributed.fsdp import MixedPrecisionPolicy

    plugin = trainer.accelerator.state.fsdp_plugin
    assert plugin is not None  # the launcher's settings ask for it
    plugin.mixed_precision_policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16,
        reduce_dtype=getattr(torch, machine.train.reduce),
        output_dtype=torch.bfloat16,
    )


def require_shards(trainer: Trainer, machine: Machine) -> None:
    """EngineError unless what was trained lay in shards of all ranks, where the machine says so.

    accelerate trains whole replicas, without a word, where it finds its settings wanting.
    """
    if not machine.train.is_sharded:
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    learned = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    undivided = [
        name for name, p in learned
        if not (isinstance(p, DTensor) and any(each.is_shard() for each in p.placements))
    ]  # fmt: skip
    if undivided or not learned:
        raise EngineError(
            f"machine file: train.shard: fsdp2, but on rank {this_rank().index} "
            f"{len(undivided)} of {len(learned)} trained tensors lie whole, such as "
            f"{undivided[:1]}; nothing is made. Leave train.shard out to train whole replicas"
        )
