"""Keys and values of rows that decode together, written in place, and attention that reads them.

transformers' own cache is copied whole for every new token, and its attention copies keys and
values once for every query head that shares them. On a CPU that takes longer than the model's
matrix products.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "shared_keys"
"""Name under which transformers finds the attention below."""

ROOM = 64
"""Tokens that a full layer grows by, at least; half of what it holds if that is more."""


class RowLayer(DynamicLayer):
    """One layer's keys and values, (rows, key-value heads, tokens, width) each, with room to grow.

    `keys` and `values` are views of the part in use.
    """

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self._stored: list[Tensor] = [key_states[:, :, :0], value_states[:, :, :0]]
        self._use(len(key_states), 0)

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the keys and values of every row's next tokens; returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, length = len(key_states), self.get_seq_length()
        total = length + key_states.shape[2]
        if total > self._stored[0].shape[2]:
            self._store(range(rows), length, width=total + max(ROOM, length // 2))
        self._stored[0][:rows, :, length:total] = key_states
        self._stored[1][:rows, :, length:total] = value_states
        return self._use(rows, total)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Row i becomes what row indices[i] was; only rows that change their place are copied."""
        rows, length = len(indices), self.get_seq_length()
        if rows > len(self._stored[0]):
            self._store(indices, length, width=self._stored[0].shape[2])
        else:
            moved = (indices != torch.arange(rows, device=indices.device)).nonzero()[:, 0]
            for stored in self._stored:
                stored[moved, :, :length] = stored[indices[moved], :, :length]
        self._use(rows, length)

    def _store(self, rows: Sequence[int] | Tensor, length: int, *, width: int) -> None:
        """Keep the first `length` tokens of some rows anew, with room for `width` tokens."""
        places = torch.as_tensor(rows, device=self._stored[0].device)
        for number, old in enumerate(self._stored):
            stored = old.new_empty(len(places), old.shape[1], width, old.shape[3])
            stored[:, :, :length] = old[places, :, :length]
            self._stored[number] = stored

    def _use(self, rows: int, length: int) -> tuple[Tensor, Tensor]:
        keys, values = (stored[:rows, :, :length] for stored in self._stored)
        self.keys, self.values = keys, values
        return keys, values


def row_cache(config: PreTrainedConfig) -> DynamicCache:
    """An empty cache; layers with a sliding window are transformers' own."""
    cache = DynamicCache(config=config)
    cache.layers = [RowLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def shared_keys_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    **rest: Any,
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention; for one new token a row without copies of keys and values.

    Query heads that share a key-value head stand in place of the query length.
    Shapes: query (rows, H, length, D), key and value (rows, KV, tokens, D) -> (rows, length, H, D).
    """
    rows, heads, length, width = query.shape
    if length > 1:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **rest
        )
    folded = query.reshape(rows, key.shape[1], heads // key.shape[1], width)
    output = scaled_dot_product_attention(
        folded, key, value, attn_mask=attention_mask, scale=scaling
    )
    return output.reshape(rows, 1, heads, width), None


AttentionInterface.register(ATTENTION, shared_keys_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
