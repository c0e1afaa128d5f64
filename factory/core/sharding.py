"""How ranks hold what they train: the block `train` of a machine file."""

from typing import Literal

from pydantic import Field, model_validator

from factory.core.records import Record


class Train(Record):
    """How the ranks of a training stage hold its model. Nothing here changes what is made."""

    shard: Literal["none", "fsdp2"] = "none"
    """`none`: every rank holds the whole model. `fsdp2`: weights, gradients and moments are divided
    among all ranks, a layer at a time (torch's FSDP2, by a launcher); with a KL term the reference
    too."""
    reduce: Literal["float32", "bfloat16"] = "float32"
    """In which ranks with `fsdp2` sum their gradients."""
    offload: Literal["none", "all"] = "none"
    """`all`: each rank's shards, gradients and moments lie in its host's memory, with `fsdp2`
    alone; the optimizer steps there, which is slow."""
    activations: Literal["auto", "recompute", "keep"] = "auto"
    """Of a forward pass, until its backward pass; `auto` recomputes them on CUDA."""
    micro_rows: int = Field(default=0, ge=0, le=10**6)
    """GRPO completions a pass; 0 takes `micro_groups` whole groups."""
    checkpoint: Literal["whole", "sharded"] = "whole"
    """With `fsdp2`: gathered by the first rank, which other numbers of ranks can go on from, or a
    file of each rank."""

    @model_validator(mode="after")
    def _has_shards(self) -> "Train":
        if self.shard == "fsdp2":
            return self
        for name, rest in (("offload", "none"), ("checkpoint", "whole"), ("reduce", "float32")):
            if getattr(self, name) != rest:
                raise ValueError(
                    f"{name}: {getattr(self, name)} is for shards; write shard: fsdp2 beside it, "
                    f"or leave {name} out"
                )
        return self

    @property
    def is_sharded(self) -> bool:
        return self.shard == "fsdp2"
