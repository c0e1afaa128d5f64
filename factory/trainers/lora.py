"""Low-rank adapters, of every trainer that may train them."""

from typing import Annotated, Any, Literal

from pydantic import Field

from factory.core.records import AddedLater, Record


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
    alpha: Any = lora.alpha  # annotated as an integer; the formula takes any number
    return PeftConfig(r=lora.rank, lora_alpha=alpha, target_modules=targets, task_type="CAUSAL_LM")


def keeps_adapters(lora: LoraConfig | None) -> bool:
    return lora is not None and lora.keep == "both"
