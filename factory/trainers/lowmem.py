"""Training in little memory: packed bases, 8-bit optimizers, and what they need."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Literal

from factory.cost.context import CostContext
from factory.cost.memory import PACKED, Held
from factory.cost.shapes import Unpriced
from factory.trainers.lora import LoraConfig

Optimizer = Literal["adamw", "adamw_8bit"]


def held(cost: CostContext, lora: LoraConfig | None, optimizer: Optimizer = "adamw") -> Held:
    """How the ranks hold a model with these adapters, or all of whose weights learn."""
    eight_bit = optimizer == "adamw_8bit"
    if lora is None:
        return cost.held(eight_bit_adam=eight_bit)
    if lora.base in PACKED and cost.machine.train.is_sharded:
        raise Unpriced(SHARDED_PACKED.format(lora.base))
    return cost.held(adapters=lora.rank, base=lora.base, eight_bit_adam=eight_bit)


SHARDED_PACKED = (
    "lora.base: {}: packed weights are not divided among ranks; leave train.shard out of the "
    "machine file (--set machine.train.shard=none), or take lora.base: plain"
)


def optimizer_fields(optimizer: Optimizer, *, plain: str = "") -> dict[str, Any]:
    """The field of TrainingArguments; without `plain`, AdamW is the trainer's own choice of it."""
    name = plain if optimizer == "adamw" else "adamw_8bit"
    return {"optim": name} if name else {}


def gaps(config: Any) -> list[str]:
    """What a stage needs that is not installed here, a line each: it plans, and is not built."""
    if find_spec("bitsandbytes") is not None:
        return []
    passed: Mapping[str, Any] = getattr(config, "trl", {})
    wanted = {
        "lora.base": config.lora.base if config.lora and config.lora.base in PACKED else "",
        "optimizer": config.optimizer if config.optimizer != "adamw" else "",
        "trl.optim": passed.get("optim") if "bit" in str(passed.get("optim")) else "",
    }
    return [
        f"{name}: {value}: needs bitsandbytes, which is not installed here: pip install -c "
        "constraints.txt -e '.[lowmem]'"
        for name, value in wanted.items() if value
    ]  # fmt: skip
