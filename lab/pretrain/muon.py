"""Muon for a model's matrices, AdamW for its embeddings and norms, as one optimizer.

Muon (Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural networks") steps along a
gradient's momentum with its singular values made about equal. With it the lab's base learns from
six million tokens what AdamW taught it from ten, or did not (docs/log.md). torch has it for
matrices alone, and a Trainer, its scheduler and its checkpoints know one optimizer.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import AdamW, Muon, Optimizer
from transformers import PreTrainedModel

from factory.models.parts import embedding_of, head_of


class MuonWithAdamW(Optimizer):
    """Two optimizers that step together; their groups of parameters follow one another.

    `matrix_learning_rate` and `weight_decay` are of matrices, `learning_rate` and `betas` of the
    rest, which does not decay. An output layer that is the embedding counts as embedding.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        matrix_learning_rate: float,
        weight_decay: float,
        learning_rate: float,
        betas: tuple[float, float],
    ) -> None:
        # No call of the base's: groups and state are those of the two, as in accelerate's wrapper.
        outer = {embedding_of(model).weight, head_of(model).weight}
        parameters = list(model.parameters())
        matrices = [p for p in parameters if p.dim() == 2 and p not in outer]
        rest = [p for p in parameters if p.dim() != 2 or p in outer]
        self.parts: tuple[Optimizer, ...] = (
            Muon(matrices, lr=matrix_learning_rate, weight_decay=weight_decay),
            AdamW(rest, lr=learning_rate, betas=betas, weight_decay=0.0),
        )

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    @property
    def state(self) -> dict[torch.Tensor, Any]:
        return {key: value for part in self.parts for key, value in part.state.items()}

    @property
    def defaults(self) -> dict[str, Any]:
        return {}

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None if closure is None else closure()
        for part in self.parts:
            part.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
