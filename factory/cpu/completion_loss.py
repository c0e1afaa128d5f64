"""The language-model head and its loss at the scored positions only, a chunk at a time."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

CHUNK = 256
"""Positions a chunk: 256 x 49152 float32 logits are 50 MB, which stays near the caches."""


class CompletionLoss(NamedTuple):
    """Sums over the scored positions; divide by their number for the mean."""

    negative_log_likelihood: Tensor
    """Shape (), differentiable."""
    correct: Tensor
    """Shape (), how many targets are the most likely token."""


def completion_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> CompletionLoss:
    """Summed negative log-likelihood of `targets` under softmax(hidden @ weight.T).

        L = sum_t [log sum_v exp(h_t . w_v) - h_t . w_{y_t}]

    The gradient of the logits, softmax - onehot, is known as soon as a chunk's logits are, so it
    is turned into those of `hidden` and `weight` at once: three products with the head instead of
    four, and never more than one chunk of logits in memory.
    Shapes: hidden (positions, width), weight (vocabulary, width), targets (positions).
    """
    return CompletionLoss(*_HeadLoss.apply(hidden, weight, targets))


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        hidden_grad = torch.empty_like(hidden) if needs_hidden else None
        weight_grad = torch.zeros_like(weight) if needs_weight else None
        total, correct = hidden.new_zeros(()), targets.new_zeros(())
        for start in range(0, len(targets), CHUNK):
            chunk = slice(start, start + CHUNK)
            target = targets[chunk, None]
            logits = hidden[chunk] @ weight.T
            peak, best = logits.max(dim=-1, keepdim=True)
            correct += (best == target).sum()
            chosen = logits.gather(-1, target)
            probability = logits.sub_(peak).exp_()
            normaliser = probability.sum(dim=-1, keepdim=True)
            total += (normaliser.log() + peak - chosen).sum()
            if hidden_grad is None and weight_grad is None:
                continue
            logit_grad = probability.div_(normaliser)
            logit_grad.scatter_add_(-1, target, torch.full_like(chosen, -1.0))
            if hidden_grad is not None:
                torch.mm(logit_grad, weight, out=hidden_grad[chunk])
            if weight_grad is not None:
                weight_grad.addmm_(logit_grad.T, hidden[chunk])
        ctx.save_for_backward(hidden_grad, weight_grad)
        ctx.mark_non_differentiable(correct)
        return total, correct

    @staticmethod
    def backward(ctx: Any, loss_grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad, weight_grad = ctx.saved_tensors
        return (
            None if hidden_grad is None else hidden_grad * loss_grad,
            None if weight_grad is None else weight_grad.mul_(loss_grad),
            None,
        )
