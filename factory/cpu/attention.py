"""Attention on CPUs by two products where there are few scores.

torch's own attention for CPUs works through small tiles, each a product of its own. Where oneDNN
multiplies, those cost more than they compute: 64 rows x 4 heads x 60 queries x 78 keys of 32 take
14 ms and 41 ms backward against 3 and 5 for two products over all rows (one thread of a Zen 5,
float32; docs/log.md). Where MKL multiplies, few scores take about the same time either way. Where
the scores of one row fall out of the cache, the tiles win.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

TWO_PRODUCTS = "two_products"
"""Name under which transformers finds `attention_forward`."""

ROW_BYTES = 2 * 2**20
"""Scores of a row up to which two products win: in the shapes that were tried they took 0.1 to 0.6
of the tiles' time, forward and backward, where oneDNN multiplies, and 0.5 to 1.14 with MKL."""

PART_BYTES = 16 * 2**20
"""Scores that exist at one time. With 45 MB two products took twice as long as the tiles."""


def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, *, scale: float | None = None
) -> Tensor:
    """Attention (rows, H, L, D) of as many heads of queries as of keys and values.

    The mask is added to the scores (rows, H, L, keys). `scale` None is 1 / sqrt(D).
    """
    if not _are_few(query, key):
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    factor: float = query.shape[-1] ** -0.5 if scale is None else scale
    query = query if factor == 1 else query * factor
    size = PART_BYTES // max(1, _row_bytes(query, key))
    if size >= len(query):
        return _two_products(query, key, value, mask)
    is_of_rows = mask.dim() == 4 and len(mask) == len(query)
    masks = mask.split(size) if is_of_rows else [mask] * -(-len(query) // size)
    parts = zip(query.split(size), key.split(size), value.split(size), masks, strict=True)
    return torch.cat([_two_products(*part) for part in parts])


def _two_products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    return (query @ key.transpose(-1, -2)).add_(mask).softmax(dim=-1) @ value


def attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    **rest: Any,
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention by `attention` where scores are few; else as its "sdpa" does it.

    Query heads that share a key-value head are folded into the query length.
    Shapes: query (rows, H, L, D), key and value (rows, KV, keys, D) -> (rows, L, H, D).
    """
    rows, heads, length, width = query.shape
    if dropout or length != key.shape[2] or not _are_few(query, key):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest
        )
    sees = attention_mask
    if sees is None:
        sees = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    mask = torch.zeros(sees.shape).masked_fill_(~sees, float("-inf"))
    folds = heads // key.shape[1]
    folded = query.reshape(rows, key.shape[1], folds * length, width)
    output = attention(folded, key, value, mask.repeat(1, 1, folds, 1), scale=scaling)
    return output.view(rows, heads, length, width).transpose(1, 2), None


def _are_few(query: Tensor, key: Tensor) -> bool:
    # Under autocast a product of its own would round the scores, which torch's attention does not.
    is_plain = query.is_cpu and query.dtype == torch.float32
    is_plain = is_plain and not torch.is_autocast_enabled("cpu")
    return is_plain and _row_bytes(query, key) <= ROW_BYTES


def _row_bytes(query: Tensor, key: Tensor) -> int:
    return query.shape[1] * query.shape[2] * key.shape[2] * query.element_size()


AttentionInterface.register(TWO_PRODUCTS, attention_forward)
AttentionMaskInterface.register(TWO_PRODUCTS, sdpa_mask)
