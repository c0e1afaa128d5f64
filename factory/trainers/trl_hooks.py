"""TRL behind one door: no other module imports it, and its private names stand here alone.

Three private methods are replaced, for which TRL has no public hook. A test knows their source and
that of their callers (tests/pipeline/test_trl_hooks.py): another TRL is noticed before it trains.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from huggingface_hub import constants
from torch import Tensor, nn
from trl.trainer.distillation_config import DistillationConfig
from trl.trainer.distillation_trainer import DistillationTrainer
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer
from trl.trainer.utils import disable_dropout_in_model

__all__ = [
    "DistillationConfig",
    "GRPOConfig",
    "GivenLogprobsTrainer",
    "GivenTextsTrainer",
    "RewardConfig",
    "RewardTrainer",
    "SFTConfig",
    "SFTTrainer",
    "disable_dropout_in_model",
    "metrics_of",
    "separate_metrics",
    "sharded_by_layers",
]

TESTED = "1.16.0"
"""The version of TRL that the hooks were checked with."""

# A run tells nobody that it runs: TRL reports each trainer that is made unless this says no, which
# the environment of a worker asks for; here it also holds where no worker was started.
constants.HF_HUB_DISABLE_TELEMETRY = True

Metrics = dict[str, list[float]]
LogProbs = tuple[Tensor, Tensor | None, Tensor | None]
"""Log-probs (rows, completion tokens), entropies where they were asked for, an auxiliary loss."""


class GivenLogprobsTrainer(GRPOTrainer):
    """GRPOTrainer whose log-probs a subclass may compute in another way."""

    args: GRPOConfig

    def _get_per_token_logps_and_entropies(
        self, model: nn.Module, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int,
        *args: Any, **kwargs: Any,
    ) -> LogProbs:  # fmt: skip
        return self.logprobs(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)

    def logprobs(self, *args: Any, **kwargs: Any) -> LogProbs:
        """What TRL's passes over a batch get: those of the loss, the old policy, the reference."""
        return self.batch_logprobs(*args, **kwargs)

    def batch_logprobs(self, *args: Any, **kwargs: Any) -> LogProbs:
        """The log-probs of a batch under a model, by TRL's own pass."""
        return super()._get_per_token_logps_and_entropies(*args, **kwargs)


class GivenTextsTrainer(DistillationTrainer):
    """DistillationTrainer that generates nothing: a subclass gives prompts and completions."""

    args: DistillationConfig

    def prompts(self, prompts: list[str]) -> list[list[int]]:
        """Token ids of each prompt, by the dataset's column `prompt`."""
        raise NotImplementedError

    def completions(self) -> list[list[int]]:
        """Token ids of one completion of each prompt that was last asked for."""
        raise NotImplementedError

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return self.prompts(prompts), None, {}

    def _generate_single_turn(
        self, prompt_ids: Sequence[Sequence[int]], *args: Any, **kwargs: Any
    ) -> list[list[int]]:
        return self.completions()


def metrics_of(trainer: GRPOTrainer | DistillationTrainer) -> Metrics:
    """The figures that TRL will average at its next log, by name; entries may be added."""
    return trainer._metrics["train"]


@contextmanager
def separate_metrics(trainer: GRPOTrainer) -> Iterator[Metrics]:
    """What TRL notes meanwhile, kept apart from its figures."""
    kept = trainer._metrics["train"]
    apart: Metrics = defaultdict(list)
    trainer._metrics["train"] = apart
    try:
        yield apart
    finally:
        trainer._metrics["train"] = kept


@contextmanager
def sharded_by_layers() -> Iterator[None]:
    """A KL reference that TRL 1.16 prepares meanwhile is divided a layer at a time, in 16 bits
    where it multiplies with these. TRL divides it as one piece, and gathers all of it at once."""
    module: Any = import_module("trl.trainer.grpo_trainer")  # the name is its own import
    original = module.prepare_fsdp

    def prepare(model: Any, accelerator: Any) -> Any:
        plugin = accelerator.state.fsdp_plugin
        if plugin.fsdp_version != 2:
            return original(model, accelerator)
        from accelerate.utils.fsdp_utils import fsdp2_prepare_model

        if accelerator.mixed_precision == "bf16":
            model = model.to(torch.bfloat16)
        return fsdp2_prepare_model(accelerator, model.requires_grad_(False)).eval()

    module.prepare_fsdp = prepare
    try:
        yield
    finally:
        module.prepare_fsdp = original
