"""The shape of a causal language model from its config alone: no weights are loaded."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from factory.core.errors import Unpriced
from factory.cost.roofline import Size


@dataclass(frozen=True)
class Shape:
    """A decoder of Llama's kind: grouped-query attention, gated feed-forward, RMS norms."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    is_tied: bool
    """Whether the head is the input embedding."""
    head_width: int = 0
    """0: width / heads."""
    has_bias: bool = False
    """Of the query, key and value projections, as Qwen2 has it."""
    has_head_norms: bool = False
    """Of queries and keys, as Qwen3 has them."""
    characters_per_token: float = 3.6
    """Of English questions; 3.6 was measured on SmolLM2's tokenizer with its chat frame."""

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.head_width or self.width // self.heads

    @property
    def query(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head

    @property
    def key(self) -> int:
        """Width of all key heads."""
        return self.kv_heads * self.head

    @property
    def linear(self) -> int:
        """Parameters of a layer's seven matrices: 2 h q + 2 h kv + 3 h f."""
        attention = 2 * self.width * self.query + 2 * self.width * self.key
        return attention + 3 * self.width * self.feed_forward

    @property
    def layer(self) -> int:
        """Parameters of a layer: its matrices, norms and biases."""
        norms = 2 * self.width + 2 * self.head * self.has_head_norms
        return self.linear + norms + (self.query + 2 * self.key) * self.has_bias

    @property
    def rest(self) -> int:
        """Parameters outside the layers: embedding, head where it is not tied, last norm."""
        return self.vocabulary * self.width * (1 if self.is_tied else 2) + self.width

    @property
    def products(self) -> int:
        """Parameters in matrix products: V h + L times a layer's matrices. An input embedding
        counts only where it is the head."""
        return self.vocabulary * self.width + self.layers * self.linear

    @property
    def parameters(self) -> int:
        return self.layers * self.layer + self.rest

    def adapters(self, rank: int) -> int:
        """Parameters of low-rank adapters of all seven matrices: L r (2 (h + q) + 2 (h + kv) +
        3 (h + f))."""
        width, feed_forward = self.width, self.feed_forward
        ends = 2 * (width + self.query) + 2 * (width + self.key) + 3 * (width + feed_forward)
        return self.layers * rank * ends

    def size(self, bytes_per_number: int) -> Size:
        """What the formulas of `cost.roofline` need."""
        return Size(
            parameters=self.products,
            layers=self.layers,
            width=self.query,
            kv_width=self.key,
            bytes_per_number=bytes_per_number,
        )


SHORT_WORDS = 2.2
"""Characters of a token that is a word with its space, where most are digits and signs."""
SMOLLM2 = Shape(49152, 576, 30, 9, 3, 1536, is_tied=True)
QWEN2_5_1_5B = Shape(151936, 1536, 28, 12, 2, 8960, is_tied=True, has_bias=True)
QWEN2_5_7B = Shape(152064, 3584, 28, 28, 4, 18944, is_tied=False, has_bias=True)
QWEN2_5_32B = Shape(152064, 5120, 64, 40, 8, 27648, is_tied=False, has_bias=True)
HUB: Mapping[str, Shape] = {
    "HuggingFaceTB/SmolLM2-135M": SMOLLM2,
    "Qwen/Qwen2.5-0.5B": Shape(151936, 896, 24, 14, 2, 4864, is_tied=True, has_bias=True),
    "Qwen/Qwen2.5-1.5B": QWEN2_5_1_5B,
    "Qwen/Qwen2.5-7B": QWEN2_5_7B,
    "Qwen/Qwen2.5-14B": Shape(152064, 5120, 48, 40, 8, 13824, is_tied=False, has_bias=True),
    "Qwen/Qwen2.5-32B": QWEN2_5_32B,
    "Qwen/Qwen2.5-Math-1.5B": QWEN2_5_1_5B,
    "Qwen/Qwen2.5-Math-7B": QWEN2_5_7B,
    "Qwen/Qwen3-0.6B": Shape(
        151936, 1024, 28, 16, 8, 3072, is_tied=True, head_width=128, has_head_norms=True
    ),
    "meta-llama/Llama-3.1-8B": Shape(128256, 4096, 32, 32, 8, 14336, is_tied=False),
    "meta-llama/Llama-3.3-70B": Shape(128256, 8192, 80, 64, 8, 28672, is_tied=False),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B": QWEN2_5_32B,
}
"""Of the hub models that recipes name, by their published config.json, so that a recipe can be
priced before anything is fetched. Names without `-Instruct` or `-Base`, which share a shape."""


def hub_shape(repository: str, revision: str | None) -> Shape:
    """The shape of a hub model, by the table or its cached config; Unpriced says what to fetch."""
    name = repository.removesuffix("-Instruct").removesuffix("-Base")
    if name in HUB:
        return HUB[name]
    cached = _cached_config(repository, revision)
    if cached is None:
        raise Unpriced(
            f"config.json of huggingface.co/{repository} is not on this machine: fetch it "
            f"(hf download {repository} config.json), or add its shape to factory/cost/shapes.py"
        )
    return _shape_of_file(cached, repository)


def _cached_config(repository: str, revision: str | None) -> Path | None:
    """The config in the hub's cache, without asking the network."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repository, "config.json", revision=revision)
    return Path(path) if isinstance(path, str) else None


def shape_of_folder(folder: Path) -> Shape:
    """The shape by a model folder's config.json."""
    path = folder / "config.json"
    shape = _shape_of_file(path, str(path))
    return replace(shape, characters_per_token=SHORT_WORDS) if _is_of_words(folder) else shape


def _is_of_words(folder: Path) -> bool:
    """Whether the model's tokenizer has a token a word."""
    try:
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        return tokenizer["model"]["type"] == "WordLevel"
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _shape_of_file(path: Path, where: str) -> Shape:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Unpriced(f"{path}: cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise Unpriced(f"{where}: not a JSON object")
    return shape_of_config(config, where)


def shape_of_config(config: Mapping[str, Any], where: str) -> Shape:
    """The shape by transformers' names; Unpriced for what the formulas do not cover."""
    wanted = (
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
        "intermediate_size",
    )  # fmt: skip
    lacking = [name for name in wanted if not isinstance(config.get(name), int)]
    if lacking:
        raise Unpriced(f"{where}: states no {', '.join(lacking)}")
    if any("expert" in name and value for name, value in config.items()):
        raise Unpriced(f"{where}: a mixture of experts, which the formulas do not cover")
    kind = config.get("model_type")
    return Shape(
        vocabulary=config["vocab_size"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        kv_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
        feed_forward=config["intermediate_size"],
        is_tied=bool(config.get("tie_word_embeddings")),
        head_width=config.get("head_dim") or 0,
        has_bias=kind == "qwen2" or bool(config.get("attention_bias")),
        has_head_norms=kind == "qwen3",
        characters_per_token=_characters_per_token(config["vocab_size"]),
    )


def _characters_per_token(vocabulary: int) -> float:
    """Vocabularies below a thousand are bytes."""
    return 1.0 if vocabulary < 1000 else 3.6
