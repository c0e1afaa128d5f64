"""Models divided among ranks by FSDP2: what accelerate and TRL leave to whoever calls them."""

from pathlib import Path

import torch
from accelerate.utils.constants import FSDP_MODEL_NAME
from torch.distributed.tensor import DTensor
from transformers import Trainer

from factory.core.errors import EngineError
from factory.core.machine import Machine
from factory.core.ranks import this_rank


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


def require_same_sharding(trainer: Trainer, checkpoint: Path | None) -> None:
    """EngineError where a checkpoint's files are those of another sharding than this run's.

    Whole ones and gathered ones do for any number of ranks, but Adam's moments lie in other files,
    and transformers trains on without those that it does not find.
    """
    if checkpoint is None or trainer.is_deepspeed_enabled:
        return
    ours = "none"
    if trainer.is_fsdp_enabled and (plugin := trainer.accelerator.state.fsdp_plugin) is not None:
        is_whole = plugin.state_dict_type.name == "FULL_STATE_DICT"
        ours = "whole" if is_whole else "sharded"
    theirs = "none"
    if (checkpoint / f"{FSDP_MODEL_NAME}.bin").exists():
        theirs = "whole"
    elif any(checkpoint.glob(f"{FSDP_MODEL_NAME}_*")):
        theirs = "sharded"
    if ours != theirs:
        raise EngineError(
            f"{checkpoint}: was written with {_SHARDINGS[theirs]}, and the machine file has "
            f"{_SHARDINGS[ours]}: go on with the former, or delete {checkpoint.parent}, which "
            "begins the stage anew"
        )


_SHARDINGS = {
    "none": "train: {shard: none}",
    "whole": "train: {shard: fsdp2, checkpoint: whole}",
    "sharded": "train: {shard: fsdp2, checkpoint: sharded}",
}


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
