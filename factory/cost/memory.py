"""Bytes of one GPU while a model is trained or drawn from, by term: pure functions of its shape.

Symbols: P parameters, B those of a layer, U = P - L B (embedding, head, last norm), h width, L
layers, f feed-forward, V vocabulary, D ranks that share the shards, m rows of s tokens a pass (s
the longest row), A parameters of adapters. No term was measured on a GPU by us; those marked UPPER
are upper bounds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from factory.cost.shapes import Shape

GIB = 2**30
FIXED = 1.5 * GIB
"""CUDA's context, buffers of cuBLAS and NCCL."""
ENGINE = 2.0 * GIB
"""Of an engine beside weights and rows: its profile run, CUDA graphs, the sampler."""
HEAD_TILE = 4096 * 32_768 * 2
"""TRL 1.16's logits tile: tokens by a part of the vocabulary, 16 bits."""
ROOM = 0.95
"""Share of a device's reported memory that may be planned."""
PACKED = {"int8": 1.0, "nf4": 0.5 + (1 + 4 / 256) / 64}
"""Bytes of a stored weight. NF4: 4 bits, an 8-bit scale for 64 weights, its scale for 256 more."""
MOMENTS = {"adamw": 8.0, "adamw_8bit": 2 * (1 + 4 / 256)}
"""Bytes of both moments of a parameter."""

Base = Literal["float32", "plain", "int8", "nf4"]
Terms = Mapping[str, float]


@dataclass(frozen=True)
class Held:
    """How the ranks of a stage hold a model that is trained."""

    shards: int = 0
    """Ranks that share its shards; 0: each has the whole model."""
    replicas: int = 1
    """Whole models that are trained together (DDP)."""
    adapters: int = 0
    """Rank of the adapters; 0: all weights learn."""
    base: Base = "plain"
    """Of the frozen weights under adapters: 16 bits, or packed."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    is_offloaded: bool = False
    """Shards, gradients and moments lie in the host's memory."""
    recomputes: bool = True
    is_rounded: bool = True
    """Products are of 16 bits, the weights that learn of 32."""

    @property
    def share(self) -> int:
        return max(1, self.shards)


def learned(shape: Shape, held: Held) -> int:
    """Parameters that get gradients and moments."""
    return shape.adapters(held.adapters) if held.adapters else shape.parameters


def base_bytes(shape: Shape, held: Held) -> float:
    """Of the model's own weights: 4 P where they learn, 2 P frozen, or packed matrices and 16 bits
    for the rest."""
    if not held.adapters or held.base == "float32":
        return 4.0 * shape.parameters
    if held.base == "plain":
        return (2.0 if held.is_rounded else 4.0) * shape.parameters
    matrices = shape.layers * shape.linear
    return PACKED[held.base] * matrices + 2 * (shape.parameters - matrices)


def states(shape: Shape, held: Held) -> dict[str, float]:
    """Weights, gradients and moments: (4 + 4 + 8) P / D; in float32 what learns."""
    count = learned(shape, held)
    weights = base_bytes(shape, held) + (4 * count if held.adapters else 0)
    terms = {
        "weights": weights / held.share,
        "gradients": 4 * count / held.share,
        "moments": MOMENTS[held.optimizer] * count / held.share,
    }
    if held.replicas > 1:
        terms["buckets"] = 4.0 * count
    if held.is_offloaded:
        return dict.fromkeys(terms, 0.0)
    return terms


def host_bytes(shape: Shape, held: Held) -> float:
    """Of all ranks together in the memory of their hosts."""
    if not held.is_offloaded:
        return 0.0
    return held.share * total(states(shape, replace(held, is_offloaded=False)))


def copies(shape: Shape, held: Held) -> float:
    """What products are computed with, beside the weights.

    Whole: autocast's 16-bit copies, 2 P (UPPER: all at once). Shards: two layers and the rest
    gathered, 2 (2 B + U), and where they learn the gradients of a layer and of the rest, and the
    larger of these once more in float32 while it is summed: 2 (B + U) + 4 max(B, U). Packed: one
    matrix of 16 bits.
    """
    layer, rest = shape.layer, shape.rest
    number = 2 if held.is_rounded else 4
    packed = PACKED.get(held.base) if held.adapters else None
    matrix = 0 if packed is None else 2 * shape.width * shape.feed_forward
    if not held.shards:
        return (2.0 * shape.parameters if not held.adapters and held.is_rounded else 0) + matrix
    gathered = 2 * (packed or number) * layer + number * rest + matrix
    if not held.adapters:
        gathered += number * (layer + rest) + 4 * max(layer, rest)
    return gathered


def activations(shape: Shape, held: Held, *, rows: float, tokens: float) -> float:
    """Recomputed: m s (r L h + 34 h + 8 f) + 4 h m s + a tile + 4 V h, each layer's input kept and
    one layer live.

    r = 4 bytes where float32 weights run under autocast, whose residual stream is float32, else 2.
    34 h: Korthikanti et al. (arXiv 2205.05198), table 2; 8 f: the gated feed-forward's four
    tensors, which their formula has not. Kept: L layers live. The rest is TRL 1.16's head:
    float32 gradients of its input and weight, and the tile.
    """
    cells = rows * tokens
    number = 1 if held.is_rounded else 2
    is_wide = not held.is_rounded or (not held.adapters and not held.shards)
    layer = number * (34 * shape.width + 8 * shape.feed_forward)
    live = layer + (4 if is_wide else 2) * shape.layers * shape.width
    if not held.recomputes:
        live = shape.layers * layer
    head = 4 * shape.width * cells + HEAD_TILE * number
    if not held.adapters:
        head += 4 * shape.vocabulary * shape.width
    return cells * live + head


def training(
    shape: Shape, held: Held, *, rows: float = 1, tokens: float, has_reference: bool = False
) -> dict[str, float]:
    """Terms while it trains. The reference of a KL term has 2 P / D; under adapters it is the
    base, which is there already."""
    terms = states(shape, held)
    terms["copies"] = copies(shape, held)
    terms["activations"] = activations(shape, held, rows=rows, tokens=tokens)
    if has_reference:
        terms["reference"] = reference_bytes(shape, held)
    terms["fixed"] = FIXED
    return terms


def reference_bytes(shape: Shape, held: Held) -> float:
    if held.adapters or held.is_offloaded:
        return 0.0
    return (2.0 if held.is_rounded else 4.0) * shape.parameters / held.share


def engine(shape: Shape, *, rows: float, tokens: float, parallel: int = 1) -> dict[str, float]:
    """Terms of an engine in 16 bits on one of `parallel` devices: 2 P / t, and for each row
    2 L max(1, kv / t) d s numbers of keys and values."""
    heads = max(1, shape.kv_heads // parallel)
    row = 2 * shape.layers * heads * shape.head * 2 * tokens
    return {
        "engine weights": 2.0 * shape.parameters / parallel,
        "engine rows": rows * row,
        "engine": ENGINE,
    }


def drawing(
    shape: Shape, held: Held, *, rows: float, tokens: float, parallel: int = 1,
    has_reference: bool = False,
) -> dict[str, float]:  # fmt: skip
    """Terms while its engine draws and the trainer idles: no gradients, no activations."""
    terms = states(shape, held) | {"gradients": 0.0}
    if has_reference:
        terms["reference"] = reference_bytes(shape, held)
    return terms | engine(shape, rows=rows, tokens=tokens, parallel=parallel) | {"fixed": FIXED}


def total(terms: Terms) -> float:
    return float(sum(terms.values()))


def may_be_planned(device_bytes: float) -> float:
    """Bytes of a device that a plan may fill: 0.95 of what its driver reports."""
    return ROOM * device_bytes
