"""Seconds and bytes of the work that stages do, as pure functions of sizes and rates.

Operations and bytes are those of `cost.roofline`; what a device reaches of its peaks is a
share. The shares for CPUs are fitted: to one build of recipes/r1-small.yaml (docs/log.md). Those
for GPUs are taken from published measurements and were not checked by us.
"""

from dataclasses import dataclass

from factory.cost.roofline import Peaks, Size, forward_flops, training_flops

ADAM_BYTES = 28
"""A parameter's traffic in an Adam step in float32: parameter, gradient and two moments read,
parameter and moments written."""
STATE_BYTES = 16
"""A parameter in training: parameter, gradient and two moments in float32."""
CHECKPOINT_BYTES = 12
"""A parameter in a checkpoint: parameter and two moments."""
DISK_BYTES_PER_SECOND = 0.4e9
"""Writing with fsync; fitted: a checkpoint of 1.6 GB took 3.3 to 4.9 s."""


@dataclass(frozen=True)
class Speed:
    """A device's peaks and which share of them the factory reaches."""

    peaks: Peaks
    decode: float
    """Of the products in decoding, where few rows share the weights."""
    read: float
    """Of the bandwidth."""
    forward: float
    """Of the products in a forward pass: prompts, log-probs, scores."""
    sft: float
    """Of the products in supervised training."""
    rl: float
    """Of the products in GRPO's packed pass, which also takes log-probs and entropies."""
    start: float
    """Seconds until an engine answers."""
    layer: float
    """Seconds to call a layer's operations, however small: what tiny models wait for."""
    token: float
    """Seconds to draw a token and see whether it ends a text."""


def processor(peaks: Peaks) -> Speed:
    """A CPU: shares fitted to one build of r1-small."""
    return Speed(
        peaks, decode=0.45, read=1.0, forward=0.8, sft=0.75, rl=0.6, start=8.0, layer=1e-4,
        token=3e-5,
    )  # fmt: skip


def accelerator(peaks: Peaks) -> Speed:
    """A GPU. Published for H100: vLLM at 30 to 55 % of the decode roofline; training with every
    layer recomputed at 16 to 24 % of the products (prime-rl, nanotron), without at 33 to 39 %."""
    return Speed(
        peaks, decode=0.45, read=0.45, forward=0.4, sft=0.22, rl=0.2, start=60.0, layer=2e-5,
        token=1e-6,
    )  # fmt: skip


@dataclass(frozen=True)
class DecodeLoad:
    """Completions that one engine draws."""

    rows: float
    prompts: float
    """Different prompts: each is run once for its samples."""
    frame: float
    """Tokens that all prompts begin with: run once a block where the engine finds them again."""
    own: float
    """Tokens of a prompt beyond these."""
    completion: float
    """Mean tokens."""
    longest: float
    """Tokens of the longest of a block, which the block waits for."""
    block: float
    """Rows of a call to the engine."""
    at_once: float
    """Rows that decode together: those of a block that the memory for keys and values holds."""

    @property
    def tokens(self) -> float:
        return self.rows * self.completion

    @property
    def blocks(self) -> float:
        return max(1.0, self.rows / self.block)

    @property
    def steps(self) -> float:
        """Decode steps: n c / rows at once, and for each block (longest - c) until it is empty."""
        full = self.rows * self.completion / min(self.rows, self.at_once)
        return full + self.blocks * (self.longest - self.completion)


def draw_seconds(size: Size, speed: Speed, load: DecodeLoad) -> float:
    """Seconds to draw: prompts, then steps.

        prompts  2 N (P own + blocks frame) / (F f)
        steps    S W / (BW r) + n c (T kv) / (BW r) + n c (2 N + 4 L h T) / (F d) + S L l + n c t

    with n rows of c tokens after p tokens, T = p + c / 2, S the steps, P the different prompts, and
    the other symbols those of `roofline.decode_step_seconds` and of `Speed`. Differs from the
    roofline: the sum of reading and multiplying stands where that takes the larger of the two.
    """
    peaks = speed.peaks
    context = load.frame + load.own + load.completion / 2
    fresh = load.prompts * load.own + load.blocks * load.frame
    prefill = forward_flops(size, fresh, load.frame + load.own)
    moved = (
        load.steps * size.parameters * size.bytes_per_number + load.tokens * context * size.kv_bytes
    )
    operations = load.tokens * (2 * size.parameters + 4 * size.layers * size.width * context)
    return (
        prefill / (peaks.flops_per_second * speed.forward)
        + moved / (peaks.bytes_per_second * speed.read)
        + operations / (peaks.flops_per_second * speed.decode)
        + load.steps * size.layers * speed.layer
        + load.tokens * speed.token
    )


def pass_seconds(size: Size, speed: Speed, tokens: float, context: float) -> float:
    """Seconds of a forward pass over rows: tokens (2 N + 2 L h T) / (F f)."""
    return forward_flops(size, tokens, context) / (speed.peaks.flops_per_second * speed.forward)


def train_seconds(
    size: Size, speed: Speed, *, tokens: float, context: float, passes: float, share: float
) -> float:
    """Seconds of forward and backward over all tokens: tokens (6 N + 6 L h T) / (F share), and
    3 L l for each of the passes that they are cut into."""
    products = training_flops(size, tokens, context) / (speed.peaks.flops_per_second * share)
    return products + 3 * passes * size.layers * speed.layer


LORA_WORK = 4 / 6
"""With adapters the weights get no gradients of their own: 4 N instead of 6 N a token."""


def adam_seconds(speed: Speed, parameters: float, steps: float) -> float:
    """Seconds of optimizer steps: 2 * 28 bytes a parameter, since writing is half as fast."""
    return 2 * steps * ADAM_BYTES * parameters / (speed.peaks.bytes_per_second * speed.read)


def checkpoint_seconds(parameters: float, checkpoints: float) -> float:
    """Seconds to write checkpoints of 12 bytes a parameter."""
    return checkpoints * CHECKPOINT_BYTES * parameters / DISK_BYTES_PER_SECOND


def cache_bytes(size: Size, rows: float, tokens: float) -> float:
    """Keys and values: rows * tokens * 2 L n_kv d_head bytes."""
    return rows * tokens * size.kv_bytes


LOGIT_ROWS = 1024
"""Positions whose logits a trainer holds at once, at most: its loss is computed in chunks."""


def activation_bytes(size: Size, vocabulary: int, *, rows: float, length: float) -> float:
    """What a backward pass on a CPU keeps of a micro-batch of b rows of s tokens.

    L s b h (68 + 10 a s / h): Korthikanti et al. (arXiv 2205.05198), eq. 1, in float32, so twice
    its 34 and 5, with 64 numbers a head for h / a. Beside it logits, log-probs and their gradient:
    12 V bytes a position of a chunk. Those of GPUs are in `cost.memory`.
    """
    tokens = rows * length
    layers = size.layers * tokens * size.width * (68 + 10 * length / 64)
    return layers + 12 * vocabulary * min(tokens, LOGIT_ROWS)
