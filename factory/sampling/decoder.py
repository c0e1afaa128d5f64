"""A Llama or Qwen model laid out for what a CPU does when many rows decode together.

The formulas are transformers' own. What differs is where numbers lie and how often they are read:

- Weights lie as (inputs, outputs) in blocks of at most BLOCK columns; query, key and value are one
  matrix, gate and up another. A head that is tied to the embedding has a copy in that order.
- A prompt's keys and values exist once for all its samples, and all of them attend to it in one
  product; a row of its own holds only what it has drawn. What all prompts begin with is run once.
- The halves of a query's and of a key's head are interleaved, so that a rotation is one product of
  complex numbers, and the scale of the scores is in it. Scores do not change with the order.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu
from transformers import PreTrainedConfig, PreTrainedModel

from factory.cpu.attention import attention
from factory.models.parts import Layer as LayerParts
from factory.models.parts import backbone_of, embedding_of, head_of

COVERED = ("llama", "qwen2", "qwen3")
"""Model types whose layers are those below."""

FIXED_ROTATIONS = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary positions whose angles do not depend on the length of a row."""

BLOCK = 960
"""Columns of a block of weights: MKL multiplies 64 rows by up to 960 columns at 155 GFLOP/s a core,
by 1024 and more at 130, by a weight as torch has it at 100 (Xeon with AVX-512, float32)."""

HEAD_COPY_BYTES = 256 * 2**20
"""A tied head above this size stays as the embedding lies."""

FEWEST_ROWS = 32
"""Rows that decode together even where their cache may outgrow the machine's bound."""

WORTH_SHARING = 16
"""Fewest tokens that all prompts begin with for which a run of their own pays."""

PREFILL_CELLS = 4096
"""Prompt tokens that go through the layers together, at least one prompt."""

ROOM = 64
"""Tokens that the rows' cache grows by, at least; half of what it holds if that is more."""


def covers(config: PreTrainedConfig) -> bool:
    """Whether `Decoder` computes what a model with this configuration does in float32."""
    rotation = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    return (
        config.model_type in COVERED
        and config.hidden_act == "silu"
        and rotation in FIXED_ROTATIONS
        and all(kind == "full_attention" for kind in getattr(config, "layer_types", None) or ())
    )


def cache_bytes(config: PreTrainedConfig) -> int:
    """Keys and values of one token in float32."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * width


class Matrix:
    """Weights (inputs, outputs) in blocks of columns, and a bias or none."""

    def __init__(self, inputs: int, outputs: int, *, has_bias: bool = False) -> None:
        count = -(-outputs // BLOCK)
        width = -(-outputs // count)
        self.outputs = outputs
        self.bias = torch.zeros(outputs) if has_bias else None
        self._blocks = [
            (start, torch.zeros(inputs, min(width, outputs - start)))
            for start in range(0, outputs, width)
        ]

    def put(self, kind: str, tensor: Tensor, start: int = 0) -> None:
        """Take a linear layer's "weight" (outputs, inputs) or "bias" from column `start` on."""
        stop = start + len(tensor)
        if kind == "bias" and self.bias is not None:
            self.bias[start:stop] = tensor
            return
        for first, block in self._blocks:
            low, high = max(first, start), min(first + block.shape[1], stop)
            if low < high:
                block[:, low - first : high - first] = tensor[low - start : high - start].T

    def of(self, rows: Tensor) -> Tensor:
        """Rows (N, inputs) times the weights, with the bias: (N, outputs)."""
        if len(self._blocks) == 1:
            product = rows @ self._blocks[0][1]
        else:
            product = rows.new_empty(len(rows), self.outputs)
            for first, block in self._blocks:
                torch.mm(rows, block, out=product[:, first : first + block.shape[1]])
        return product if self.bias is None else product.add_(self.bias)

    def add_to(self, sums: Tensor, rows: Tensor) -> None:
        """Add rows (N, inputs) times the weights, and the bias, to `sums` (N, outputs)."""
        for first, block in self._blocks:
            sums[:, first : first + block.shape[1]].addmm_(rows, block)
        if self.bias is not None:
            sums.add_(self.bias)


class Layer:
    """The weights of one decoder layer; H query heads on KV key-value heads of width D."""

    def __init__(self, module: LayerParts, epsilon: float) -> None:
        attention, mlp = module.self_attn, module.mlp
        self.epsilon = epsilon
        self.width = attention.head_dim
        self.key_heads = attention.k_proj.out_features // self.width
        self.query_heads = attention.q_proj.out_features // self.width
        self.joint = _joint(attention.q_proj, attention.k_proj, attention.v_proj)
        self.output = _joint(attention.o_proj)
        self.gate_up = _joint(mlp.gate_proj, mlp.up_proj)
        self.down = _joint(mlp.down_proj)
        inputs, inner = attention.q_proj.in_features, mlp.gate_proj.out_features
        self.norms = {name: torch.ones(inputs) for name in (BEFORE_ATTENTION, BEFORE_MLP)}
        if hasattr(attention, "q_norm"):
            self.norms |= {name: torch.ones(self.width) for name in (OF_QUERIES, OF_KEYS)}
        queries, keys = (count * self.width for count in (self.query_heads, self.key_heads))
        self._places = {
            "self_attn.q_proj": (self.joint, 0),
            "self_attn.k_proj": (self.joint, queries),
            "self_attn.v_proj": (self.joint, queries + keys),
            "self_attn.o_proj": (self.output, 0),
            "mlp.gate_proj": (self.gate_up, 0),
            "mlp.up_proj": (self.gate_up, inner),
            "mlp.down_proj": (self.down, 0),
        }

    def put(self, name: str, tensor: Tensor) -> None:
        """Take a parameter, named as in the layer's state dict."""
        module, _, kind = name.rpartition(".")
        if module.endswith((".q_proj", ".k_proj", ".q_norm", ".k_norm")):
            halves = tensor.unflatten(0, (-1, 2, self.width // 2))
            tensor = halves.transpose(1, 2).flatten(0, 2)
        if module in self.norms:
            self.norms[module].copy_(tensor)
        else:
            matrix, start = self._places[module]
            matrix.put(kind, tensor, start)

    def heads(self, hidden: Tensor, turns: Tensor) -> Tensor:
        """Rotated queries and keys, and values, of rows: (N, H + 2 KV, D).

        `turns` are those of `Decoder.turns`.
        """
        normed = self._normed(BEFORE_ATTENTION, hidden)
        heads = self.joint.of(normed).unflatten(1, (-1, self.width))
        queries, rotated = self.query_heads, self.query_heads + self.key_heads
        if OF_QUERIES in self.norms:
            heads[:, :queries] = self._normed(OF_QUERIES, heads[:, :queries])
            heads[:, queries:rotated] = self._normed(OF_KEYS, heads[:, queries:rotated])
        torch.view_as_complex(heads[:, :rotated].unflatten(-1, (-1, 2))).mul_(turns)
        return heads

    def finish(self, hidden: Tensor, attended: Tensor) -> None:
        """Add to rows (N, width), in place, what attention found and what the MLP makes of it."""
        self.output.add_to(hidden, attended)
        gate, up = self.gate_up.of(self._normed(BEFORE_MLP, hidden)).chunk(2, dim=-1)
        self.down.add_to(hidden, silu(gate).mul_(up))

    def _normed(self, name: str, rows: Tensor) -> Tensor:
        weight = self.norms[name]
        return rms_norm(rows, weight.shape, weight, self.epsilon)


BEFORE_ATTENTION, BEFORE_MLP = "input_layernorm", "post_attention_layernorm"
OF_QUERIES, OF_KEYS = "self_attn.q_norm", "self_attn.k_norm"


def _joint(*modules: nn.Linear) -> Matrix:
    """A matrix for the outputs of linear layers side by side; zeros until they are put there."""
    return Matrix(
        modules[0].in_features,
        sum(module.out_features for module in modules),
        has_bias=modules[0].bias is not None,
    )


class Decoder:
    """The weights of a model that `covers` holds for."""

    def __init__(self, model: PreTrainedModel) -> None:
        config, inner = model.config, backbone_of(model)
        embedding, head = embedding_of(model).weight, head_of(model).weight
        self._is_tied = head.data_ptr() == embedding.data_ptr()
        self.cache_bytes = cache_bytes(config)
        self.embedding = torch.empty_like(embedding)
        self.last_norm = torch.ones(embedding.shape[1])
        self.epsilon: float = config.rms_norm_eps
        self.layers = [Layer(layer, config.rms_norm_eps) for layer in inner.layers]
        has_copy = not self._is_tied or embedding.nbytes <= HEAD_COPY_BYTES
        self._head = Matrix(embedding.shape[1], len(embedding)) if has_copy else None
        self._frequencies = inner.rotary_emb.inv_freq.float().clone()
        first = self.layers[0]
        scales = torch.full((first.query_heads + first.key_heads, 1), float(1))
        scales[: first.query_heads] = first.width**-0.5
        self._scales = scales * inner.rotary_emb.attention_scaling
        self.load(model.state_dict().items())

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take weights by their names in the model's state dict."""
        for name, tensor in weights:
            part, _, rest = name.removeprefix("model.").partition(".")
            if part == "layers":
                number, _, parameter = rest.partition(".")
                self.layers[int(number)].put(parameter, tensor)
            elif part == "embed_tokens":
                self.embedding.copy_(tensor)
                if self._is_tied and self._head is not None:
                    self._head.put(rest, tensor)
            elif part == "norm":
                self.last_norm.copy_(tensor)
            elif part == "lm_head":
                # A tied head may come under both names.
                if not self._is_tied and self._head is not None:
                    self._head.put(rest, tensor)
            else:
                raise KeyError(name)

    def turns(self, positions: Tensor) -> Tensor:
        """Factors of queries and keys at these positions: complex (N, H + KV, D / 2)."""
        angles = positions[:, None].float() * self._frequencies
        return torch.polar(torch.ones_like(angles), angles)[:, None, :] * self._scales

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token (N, vocabulary)."""
        normed = rms_norm(hidden, self.last_norm.shape, self.last_norm, self.epsilon)
        return normed @ self.embedding.T if self._head is None else self._head.of(normed)


class DecoderBatch:
    """Rows that decode together: every call of `next` draws all of them one token further.

    Of U distinct prompts, the longest of P tokens, B rows are left; `room` is the number of tokens
    that a row can still take before its cache grows. Rows that come later begin in the column that
    the others have reached: what lies before it, their `gap`, they do not see.
    """

    def __init__(self, decoder: Decoder, prompts: Sequence[Sequence[int]], *, longest: int) -> None:
        """The first rows, as `add` takes them."""
        self._decoder = decoder
        self._longest = self._drawn = 0
        self._room = min(longest, ROOM)
        self._prompts: list[tuple[int, ...]] = []
        self._owners: list[int] = []
        self._gaps: list[int] = []
        first = decoder.layers[0]
        empty = torch.empty(2, 0, first.key_heads, 0, first.width)
        # Per layer: keys and values of prompts (2, U, KV, P, D), of rows (2, B, KV, room, D).
        # Both may have space for more of U and of B than there are.
        self._shared = [empty] * len(decoder.layers)
        self._own = [empty] * len(decoder.layers)
        self._padding = torch.empty(0, 0)
        self._positions = torch.empty(0, dtype=torch.long)
        self._ends = torch.empty(0, decoder.embedding.shape[1])
        self.common = 0
        """Tokens that all prompts begin with and that were run once."""
        self.logits = self.add(prompts, longest=longest)
        """Scores of every first row's next token (B, vocabulary)."""

    def add(self, prompts: Sequence[Sequence[int]], *, longest: int) -> Tensor:
        """Scores of the next tokens (rows, vocabulary) of rows that join the others.

        Runs each prompt that no row has yet once, and what all of them begin with only once.
        `longest` is the most tokens that a row of these will draw.
        """
        rows = [tuple(prompt) for prompt in prompts]
        unique = [prompt for prompt in dict.fromkeys(rows) if prompt not in self._prompts]
        before, present = len(self._prompts), len(self._owners)
        self._prompts += unique
        number_of = {prompt: number for number, prompt in enumerate(self._prompts)}
        own = [number_of[row] for row in rows]
        self._owners += own
        self._gaps += [self._drawn] * len(rows)
        self._longest = max(self._longest, self._drawn + longest)
        self._make_space(before, present)
        lengths = torch.tensor([len(prompt) for prompt in self._prompts])
        padding = torch.arange(self._shared[0].shape[3]) >= lengths[:, None]
        self._padding = torch.zeros(padding.shape).masked_fill_(padding, float("-inf"))
        self._positions = torch.cat([self._positions, lengths[torch.tensor(own)]])
        if unique:
            self._ends = torch.cat([self._ends, self._run(unique, before)])
        # Of the prompts of a first call all at once, as many rows round as they always did.
        needed = sorted(set(own))
        scores = self._decoder.logits(self._ends[torch.tensor(needed)])
        self._arrange()
        return scores[torch.tensor([needed.index(owner) for owner in own])]

    def _run(self, prompts: Sequence[tuple[int, ...]], start: int) -> Tensor:
        """Keep the keys and values of prompts from `start` on; hidden states at their ends."""
        size = max(map(len, prompts))
        if start == 0:
            self.common = _common(prompts)
            if self.common:
                self._prefill([prompts[0][: self.common]], 0, end=self.common)
        common = self.common
        if any(prompt[:common] != self._prompts[0][:common] for prompt in prompts):
            common = 0
        if any(len(prompt) <= common for prompt in prompts):
            common = 0
        for shared in self._shared:
            shared[:, start : len(self._prompts), :, :common] = shared[:, :1, :, :common]
        step = max(1, PREFILL_CELLS // (size - common))
        return torch.cat(
            [
                self._prefill(prompts[at : at + step], start + at, cached=common, end=size)
                for at in range(0, len(prompts), step)
            ]
        )

    def _make_space(self, prompts: int, rows: int) -> None:
        """Let the caches hold all prompts and rows; so many of each are there already."""
        size = max(map(len, self._prompts))
        for number, (shared, own) in enumerate(zip(self._shared, self._own, strict=True)):
            # Columns stay where the longest prompt has ended, unless they are twice too many.
            columns = size if shared.shape[3] > 2 * size else max(size, shared.shape[3])
            self._shared[number] = _resized(shared, len(self._prompts), columns, kept=prompts)
            self._own[number] = _resized(own, len(self._owners), self._room, kept=rows)

    def _prefill(
        self, prompts: Sequence[tuple[int, ...]], start: int, *, cached: int = 0, end: int
    ) -> Tensor:
        """Keep keys and values of prompts from `start` on; returns hidden states at their ends.

        Those of their first `cached` tokens are there already; `end` are kept, padding included.
        """
        rows, size = len(prompts), end - cached
        ids = torch.zeros(rows, size, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt) - cached] = torch.tensor(prompt[cached:])
        hidden = self._decoder.embedding[ids.flatten()]
        turns = self._decoder.turns(torch.arange(cached, end).repeat(rows))
        # Right-padded: no token sees the padding after it.
        mask = torch.full((size, end), float("-inf")).triu_(cached + 1)
        for layer, shared in zip(self._decoder.layers, self._shared, strict=True):
            heads = layer.heads(hidden, turns).unflatten(0, (rows, size)).transpose(1, 2)
            counts = (layer.query_heads, layer.key_heads, layer.key_heads)
            query, key, value = heads.split(counts, dim=1)
            places = shared[:, start : start + rows, :, :end]
            places[0, :, :, cached:], places[1, :, :, cached:] = key, value
            keys, values = places.repeat_interleave(layer.query_heads // layer.key_heads, dim=2)
            attended = attention(query, keys, values, mask, scale=1.0)
            layer.finish(hidden, attended.transpose(1, 2).reshape(rows * size, -1))
        lasts = [row * size + len(prompt) - cached - 1 for row, prompt in enumerate(prompts)]
        return hidden[torch.tensor(lasts)]

    def next(self, tokens: Tensor) -> Tensor:
        """Append a token (B,) to every row; scores of the tokens after it (B, vocabulary)."""
        if self._drawn == self._room:
            self._grow()
        hidden = self._decoder.embedding[tokens]
        turns = self._decoder.turns(self._positions)
        self._unseen = _before(self._gaps, self._drawn + 1) if any(self._gaps) else None
        for number, layer in enumerate(self._decoder.layers):
            heads = layer.heads(hidden, turns)
            layer.finish(hidden, self._attended(number, heads, layer.query_heads))
        self._positions = self._positions + 1
        self._drawn += 1
        return self._decoder.logits(hidden)

    def _attended(self, number: int, heads: Tensor, queries: int) -> Tensor:
        """Attention of every row's new token to its prompt and to what the row has drawn."""
        rows, _, width = heads.shape
        query, fresh = heads[:, :queries], heads[:, queries:]
        count = fresh.shape[1] // 2
        own = self._own[number]
        own[:, :rows, :, self._drawn] = fresh.unflatten(1, (2, count)).transpose(0, 1)
        own_key, own_value = own[:, :rows, :, : self._drawn + 1]
        shared_key, shared_value = self._shared[number][:, : len(self._prompts)]
        query = query.unflatten(1, (count, -1))
        scores = self._by_prompt(query) @ shared_key.transpose(-1, -2)
        scores = self._by_row(scores + self._padding[:, None, None, :])
        of_own = query @ own_key.transpose(-1, -2)
        if self._unseen is not None:
            of_own += self._unseen[:, None, None, :]
        scores = torch.cat([scores, of_own], dim=-1)
        weights = scores.softmax(dim=-1)
        of_prompt, of_own = weights.split([shared_key.shape[2], self._drawn + 1], dim=-1)
        mixed = self._by_row(self._by_prompt(of_prompt) @ shared_value)
        return (mixed + of_own @ own_value).reshape(rows, queries * width)

    def _by_prompt(self, rows: Tensor) -> Tensor:
        """(B, KV, folds, X), rows of a prompt side by side: (U, KV, most rows x folds, X)."""
        slots = rows if self._row_of_slot is None else rows[self._row_of_slot]
        return slots.unflatten(0, (len(self._prompts), -1)).transpose(1, 2).flatten(2, 3)

    def _by_row(self, slots: Tensor) -> Tensor:
        """The way back from `_by_prompt`."""
        rows = slots.unflatten(2, (self._most, -1)).transpose(1, 2).flatten(0, 1)
        return rows if self._slot_of_row is None else rows[self._slot_of_row]

    def _arrange(self) -> None:
        """Give every prompt as many slots as the prompt with the most rows has rows."""
        members: list[list[int]] = [[] for _ in self._prompts]
        for row, owner in enumerate(self._owners):
            members[owner].append(row)
        self._most = max(map(len, members))
        row_of_slot = [row for rows in members for row in rows + [0] * (self._most - len(rows))]
        if row_of_slot == list(range(len(self._owners))):
            self._row_of_slot = self._slot_of_row = None
            return
        slots = [0] * len(self._owners)
        for owner, rows in enumerate(members):
            for number, row in enumerate(rows):
                slots[row] = owner * self._most + number
        self._row_of_slot, self._slot_of_row = torch.tensor(row_of_slot), torch.tensor(slots)

    def keep(self, places: Sequence[int]) -> None:
        """Row i becomes what row places[i] was; rows that are not among `places` have ended."""
        for own in self._own:
            _move(own[:, :, :, : self._drawn], places)
        self._positions = self._positions[torch.tensor(places)]
        self._owners = [self._owners[index] for index in places]
        self._gaps = [self._gaps[index] for index in places]
        if min(self._gaps) >= ROOM:
            self._close_gap(min(self._gaps))
        living = set(self._owners)
        prompts = without_gaps([number in living for number in range(len(self._prompts))])
        if len(prompts) < len(self._prompts):
            for shared in self._shared:
                _move(shared, prompts)
            self._prompts = [self._prompts[number] for number in prompts]
            self._padding = self._padding[torch.tensor(prompts)]
            self._ends = self._ends[torch.tensor(prompts)]
            places_of = {old: new for new, old in enumerate(prompts)}
            self._owners = [places_of[owner] for owner in self._owners]
        self._arrange()

    def _close_gap(self, columns: int) -> None:
        """Forget the first columns, which no row sees any more."""
        rows = len(self._owners)
        for own in self._own:
            left = own[:, :rows, :, columns : self._drawn].clone()
            own[:, :rows, :, : self._drawn - columns] = left
        self._drawn -= columns
        self._longest -= columns
        self._gaps = [gap - columns for gap in self._gaps]

    def _grow(self) -> None:
        self._room = min(self._longest, self._room + max(ROOM, self._room // 2))
        rows = len(self._owners)
        for number, own in enumerate(self._own):
            self._own[number] = _resized(own[:, :rows], rows, self._room, kept=rows)


def _resized(cache: Tensor, rows: int, columns: int, *, kept: int) -> Tensor:
    """A cache (2, at least `rows`, KV, columns, D) with the `kept` first rows of another; that one
    itself where it fits.

    Zeros, for no weight is on columns that a row does not see, but no weight makes a NaN nothing.
    """
    if rows <= cache.shape[1] and columns == cache.shape[3]:
        return cache
    resized = cache.new_zeros(2, max(rows, cache.shape[1]), cache.shape[2], columns, cache.shape[4])
    both = min(columns, cache.shape[3])
    resized[:, :kept, :, :both] = cache[:, :kept, :, :both]
    return resized


def _before(gaps: Sequence[int], columns: int) -> Tensor:
    """Added to scores: -inf before each row's first column, else 0 (rows, columns)."""
    unseen = torch.arange(columns) < torch.tensor(gaps)[:, None]
    return torch.zeros(unseen.shape).masked_fill_(unseen, float("-inf"))


def without_gaps(going: Sequence[bool]) -> list[int]:
    """Places of the rows that go on, the last ones moved to where rows have ended."""
    count = sum(going)
    last = [index for index in range(count, len(going)) if going[index]]
    return [index if going[index] else last.pop() for index in range(count)]


def _move(cache: Tensor, places: Sequence[int]) -> None:
    """Put row places[i] of a cache (2, rows, ...) at place i; only rows that move are copied."""
    moved = [(new, old) for new, old in enumerate(places) if new != old]
    if moved:
        to, of = map(list, zip(*moved, strict=True))
        cache[:, to] = cache[:, of]


def _common(prompts: Sequence[tuple[int, ...]]) -> int:
    """How many tokens all of these begin with, but the last of none; 0 where it is not worth it."""
    low, high = min(prompts), max(prompts)
    most = min(map(len, prompts)) - 1
    same = next((n for n in range(most) if low[n] != high[n]), most)
    return same if len(prompts) > 1 and same >= WORTH_SHARING else 0
