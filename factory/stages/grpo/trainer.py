"""TRL's GRPO trainer with our rollouts, R1's settings and the packed pass.

TRL keeps the mathematics: advantages, ratios, clipping, KL and loss are its code. Ours are the
log-prob pass (packed where it may be and pays), and how a batch is cut into micro-batches that keep
a prompt's rows together.

A checkpoint at step s resumes exactly only if a rollout starts at s, since TRL does not save the
rows that a rollout still holds: `arguments.py` sees to it.
"""

import math
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers.training_args import ParallelMode

from factory.cpu.packed import not_covered
from factory.cpu.packed_logprobs import (
    packed_logprobs,
    padded_batch,
    rows_by_prompt,
    split_groups,
)
from factory.models.parts import trained_model
from factory.stages.grpo.pass_choice import FasterPass, untouched
from factory.stages.grpo.reference import KeptReference, ScoredBatch, require_reference
from factory.trainers.phases import PhaseClock
from factory.trainers.trl_hooks import (
    GivenLogprobsTrainer,
    LogProbs,
    Metrics,
    metrics_of,
    separate_metrics,
    sharded_by_layers,
)
from factory.trainers.trl_hooks import GRPOConfig as TrlConfig

ROW_MEAN_LOSSES = ("grpo", "dr_grpo", "sapo", "luspo")
"""Means over rows: a part of the batch counts by its share of the rows."""
FIXED_SCALE_LOSSES = ("dapo", "cispo", "vespo")
"""Sums divided by a number known beforehand: parts add up as they are."""


class FactoryGrpoTrainer(GivenLogprobsTrainer):
    """GRPOTrainer whose passes are packed where `packed_rows` is given.

    `packed_rows` bounds the completions of one micro-batch; backward runs micro-batch by
    micro-batch, so memory is that of one. Rows whose advantage is zero are left out where that
    changes nothing. None takes TRL's own pass over TRL's own batches.

    With `faster_pass` the first rollout decides which pass the micro-batches take.
    """

    def __init__(
        self,
        *args: Any,
        packed_rows: int | None = None,
        faster_pass: FasterPass | None = None,
        clock: PhaseClock | None = None,
        **kwargs: Any,
    ) -> None:
        self.clock = clock or PhaseClock()
        self.packed_rows = packed_rows
        self.faster_pass = faster_pass
        self.is_packed = True
        """Whether micro-batches take the packed pass, or TRL's."""
        self._policy_logprobs: Tensor | None = None
        self._scored: ScoredBatch | None = None
        """By the reference, in the first rollout."""
        kwargs["callbacks"] = [KeptReference(self), *kwargs.get("callbacks", ())]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="You are using 'rollout_func'")
            with sharded_by_layers():
                super().__init__(*args, **kwargs)

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> Any:
        """A constant rate after updates 1 to n of the warm-up at 1/(n+1) to n/(n+1) of it.

        transformers' own warm-up trains its first update at rate 0, a whole rollout for nothing.
        """
        if self.lr_scheduler is None and self.args.lr_scheduler_type == "constant_with_warmup":
            rising = self.args.warmup_steps + 1
            self.lr_scheduler = LambdaLR(
                cast(Optimizer, optimizer or self.optimizer),
                lambda step: min(1.0, (step + 1) / rising),
            )
        return super().create_scheduler(num_training_steps, optimizer)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        with self.clock.measure("train"):
            return super().training_step(*args, **kwargs)

    def check_reference(self) -> None:
        """EngineError unless policy and reference agree about the first rollout; once a run."""
        if self._scored is not None:
            with self.clock.measure("reference"):
                require_reference(self, self._scored)
            self._scored = None

    def choose_pass(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> None:
        """Take the faster pass from now on, where that is not settled.

        `rows` are the prompts and completions of the first rollout. Tried is the micro-batch with
        most tokens, where packing saves least, padded as TRL pads the whole rollout.
        """
        if self.faster_pass is None:
            return
        device = self.accelerator.device
        ids, mask, length = padded_batch(rows, device)
        groups = rows_by_prompt(ids[:, :-length], mask[:, :-length])
        parts = [
            torch.tensor([row for group in part for row in group], device=device)
            for part in split_groups(groups, self.packed_rows)
        ]
        tried = max(parts, key=lambda part: mask[part].sum().item())
        trial = partial(self._try_pass, ids[tried], mask[tried], length)
        with self.clock.measure("trial"), untouched(trained_model(self), device):
            self.is_packed = self.faster_pass.is_packed(
                partial(trial, is_packed=True), partial(trial, is_packed=False)
            )

    def _try_pass(self, ids: Tensor, mask: Tensor, length: int, *, is_packed: bool) -> None:
        """One pass with its backward, as the loss asks for it."""
        self.is_packed, model = is_packed, trained_model(self)
        logprobs = self.batch_logprobs(model, ids, mask, length, compute_entropy=True)[0]
        logprobs.sum().backward()
        if ids.is_cuda:
            torch.cuda.synchronize(ids.device)

    def logprobs(
        self, model: torch.nn.Module, input_ids: Tensor, attention_mask: Tensor,
        logits_to_keep: int, *args: Any, **kwargs: Any,
    ) -> LogProbs:  # fmt: skip
        """Of TRL's passes: with gradient the policy's, without the old policy's and, last, the
        reference's."""
        batch = (input_ids, attention_mask, logits_to_keep)
        if torch.is_grad_enabled():
            result = self.batch_logprobs(model, *batch, *args, **kwargs)
            self._policy_logprobs = result[0].detach()
            return result
        with self.clock.measure("reference"):
            result = self.batch_logprobs(model, *batch, *args, **kwargs)
        if self.beta != 0.0 and self.state.global_step == 0:
            self._scored = ScoredBatch(*batch, result[0])
        return result

    def batch_logprobs(
        self, model: torch.nn.Module, input_ids: Tensor, attention_mask: Tensor,
        logits_to_keep: int, *args: Any, **kwargs: Any,
    ) -> LogProbs:  # fmt: skip
        """The log-probs of a batch by the packed pass, or by TRL's."""
        if self.packed_rows is None or not self.is_packed:
            if self.packed_rows is not None:
                kwargs["batch_size"] = self.packed_rows
            return super().batch_logprobs(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
        with self.accelerator.autocast():
            logprobs, entropies = packed_logprobs(
                self.accelerator.unwrap_model(model),
                input_ids,
                attention_mask,
                completion_length=logits_to_keep,
                temperature=self.temperature,
                # With gradient the batch is one micro-batch already.
                rows_per_pack=None if torch.is_grad_enabled() else self.packed_rows,
            )
        return logprobs, entropies, None

    @torch.no_grad()
    def completion_logprobs(
        self, input_ids: Tensor, attention_mask: Tensor, completion_length: int
    ) -> Tensor:
        """Log-probs (rows, completion_length) under the policy as it trains; padding is 0."""
        model = trained_model(self)
        return self.batch_logprobs(model, input_ids, attention_mask, completion_length)[0]

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """TRL's loss, as a sum over micro-batches whose backward has run but for the last.

        Each micro-batch's loss is TRL's own, weighted so that the sum is the batch's loss.
        """
        rest = (return_outputs, num_items_in_batch)
        merged = metrics_of(self)
        if self.packed_rows is None or not trained_model(self).training:
            loss = super().compute_loss(model, inputs, *rest)
            self._note_ratio(merged, inputs)
            return loss
        parts = self._micro_batches(inputs)
        if not parts:
            return self._loss_without_signal()
        collected: list[tuple[float, Metrics]] = []
        done: Tensor | float = 0.0
        for rows in parts:
            part = _rows_of(inputs, rows)
            with separate_metrics(self) as metrics:
                loss: Tensor = super().compute_loss(model, part, *rest)
                loss = loss * self._weight(part, inputs)
            self._note_ratio(metrics, part)
            collected.append((part["completion_mask"].sum().item(), metrics))
            if rows is not parts[-1]:
                self.accelerator.backward(loss)
                done += loss.detach()
        for name, value in _merge_metrics(collected).items():
            merged[name].append(value)
        return torch.add(loss, done)

    def _micro_batches(self, inputs: dict[str, Any]) -> list[Tensor]:
        """Row indices of each micro-batch; a prompt's rows stay together.

        Left out are rows that add nothing to loss and gradient: those without a token, and, when
        the KL weight is 0, those with a zero advantage.
        """
        useful = inputs["completion_mask"].any(dim=1)
        if self.beta == 0.0:
            useful &= inputs["advantages"] != 0
        kept = useful.nonzero()[:, 0]
        groups = rows_by_prompt(inputs["prompt_ids"][kept], inputs["prompt_mask"][kept])
        return [
            kept[torch.tensor([row for group in part for row in group], device=kept.device)]
            for part in split_groups(groups, self.packed_rows)
        ]

    def _weight(self, part: dict[str, Any], batch: dict[str, Any]) -> float:
        if self.loss_type in ROW_MEAN_LOSSES:
            return len(part["advantages"]) / len(batch["advantages"])
        if self.loss_type in FIXED_SCALE_LOSSES:
            return 1.0
        return (part["completion_mask"].sum() / batch["completion_mask"].sum()).item()  # bnpo

    def _loss_without_signal(self) -> Tensor:
        """A zero loss with zero gradients: the optimizer still takes its step, as in TRL."""
        for parameter in trained_model(self).parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return torch.zeros((), device=self.accelerator.device, requires_grad=True)

    def _note_ratio(self, metrics: Metrics, inputs: dict[str, Any]) -> None:
        """Log the largest probability ratio of a token: R1's epsilon of 10 hardly clips it."""
        old = inputs.get("old_per_token_logps")
        if old is None or self._policy_logprobs is None:
            metrics["ratio_max"].append(1.0)
            return
        log_ratio = (self._policy_logprobs - old)[inputs["completion_mask"].bool()]
        metrics["ratio_max"].append(log_ratio.max().exp().item())


def _rows_of(inputs: dict[str, Any], rows: Tensor) -> dict[str, Any]:
    """The inputs of some rows; numbers that belong to the whole batch stay as they are."""
    return {
        name: value[rows] if isinstance(value, Tensor) and value.dim() > 0 else value
        for name, value in inputs.items()
    }


def _merge_metrics(parts: list[tuple[float, Metrics]]) -> dict[str, float]:
    """One value a metric from those of micro-batches of so many tokens."""
    merged = {}
    for name in sorted({name for _, metrics in parts for name in metrics}):
        values = [(tokens, value) for tokens, metrics in parts for value in metrics.get(name, ())]
        if name.endswith("_min"):
            merged[name] = min(value for _, value in values)
        elif name.endswith("_max"):
            merged[name] = max(value for _, value in values)
        else:
            total = sum(tokens for tokens, _ in values)
            merged[name] = math.fsum(tokens * value for tokens, value in values) / total
    return merged


def plain_pass_reason(model: torch.nn.Module, arguments: TrlConfig) -> str | None:
    """Why TRL's own pass has to be taken, or None if the packed one gives the same numbers.

    Several ranks: DDP and FSDP2 count one backward pass a step and wait for one another in it, but
    each rank has a number of micro-batches of its own.
    """
    if arguments.parallel_mode is ParallelMode.DISTRIBUTED:
        return f"it runs in the ranks of a launcher ({arguments.world_size})"
    if arguments.fp16:
        return "the pass runs in float16"
    if arguments.bf16 and arguments.cast_lm_head_to_fp32:
        return "cast_lm_head_to_fp32 keeps the head out of mixed precision"
    if arguments.entropy_coef or arguments.use_adaptive_entropy:
        return "an entropy bonus needs gradients of the entropy"
    if arguments.top_entropy_quantile < 1.0:
        return "top_entropy_quantile looks at the whole batch"
    if getattr(model.config, "output_router_logits", None) is not None:
        return "a mixture of experts has an auxiliary loss"
    return not_covered(model)
