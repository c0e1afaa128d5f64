"""Low-rank adapters and 8-bit optimizers, of every trainer that may use them."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import Field

from factory.cost.context import CostContext
from factory.cost.memory import PACKED, Held
from factory.cost.shapes import Unpriced
from factory.records import AddedLater, Record

Optimizer = Literal["adamw", "adamw_8bit"]


class LoraConfig(Record):
    """Low-rank adapters (arXiv 2106.09685), merged into the full weights when saved."""

    rank: int = Field(default=16, ge=1, le=10**5)
    """Columns of an adapter's matrices."""
    alpha: float = Field(default=32.0, ge=1e-6, le=1e6)
    """The update is scaled by alpha / rank."""
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Names of the adapted layers; `all-linear` is every linear layer but the head."""
    base: Annotated[Literal["plain", "int8", "nf4"], AddedLater()] = "plain"
    """How the frozen weights are held: `plain` in the dtype that the machine multiplies with, or
    packed in 8 or 4 bits (QLoRA, arXiv 2305.14314), which rounds them: what is saved is the rounded
    base with what was learned upon it. Packed needs the extra `lowmem`."""
    keep: Annotated[Literal["merged", "both"], AddedLater()] = "merged"
    """`both` also keeps the adapters, as PEFT's two files in the folder `adapter`."""


def peft_config(lora: LoraConfig | None) -> Any:
    """PEFT's own config of these adapters; None trains all weights."""
    if lora is None:
        return None
    from peft import LoraConfig as PeftConfig

    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    return PeftConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, task_type="CAUSAL_LM"
    )


def keeps_adapters(lora: LoraConfig | None) -> bool:
    return lora is not None and lora.keep == "both"


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
    "machine file, or take lora.base: plain"
)


def optimizer_fields(optimizer: Optimizer) -> dict[str, str]:
    """The field of TrainingArguments where it is not the trainer's own choice."""
    return {} if optimizer == "adamw" else {"optim": "adamw_8bit"}


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
