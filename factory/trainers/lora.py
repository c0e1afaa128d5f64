"""Low-rank adapters, of every trainer that may train them."""

from typing import Any, Literal

from pydantic import Field

from factory.cost.context import CostContext
from factory.cost.memory import Held
from factory.records import Record


class LoraConfig(Record):
    """Low-rank adapters (arXiv 2106.09685), merged into the full weights when saved."""

    rank: int = Field(default=16, ge=1, le=10**5)
    """Columns of an adapter's matrices."""
    alpha: float = Field(default=32.0, ge=1e-6, le=1e6)
    """The update is scaled by alpha / rank."""
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Names of the adapted layers; `all-linear` is every linear layer but the head."""


def peft_config(lora: LoraConfig | None) -> Any:
    """PEFT's own config of these adapters; None trains all weights."""
    if lora is None:
        return None
    from peft import LoraConfig as PeftConfig

    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    return PeftConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, task_type="CAUSAL_LM"
    )


def held(cost: CostContext, lora: LoraConfig | None) -> Held:
    """How the ranks hold a model with these adapters, or all of whose weights learn."""
    return cost.held(adapters=lora.rank if lora else 0)
