"""Formulas of costs against numbers worked out by hand."""

from dataclasses import replace

import pytest

from factory.cost import formulas
from factory.cost.formulas import DecodeLoad, Speed, draw_seconds, train_seconds
from factory.cost.roofline import Peaks, Size
from factory.cost.shapes import HUB, SMOLLM2, Shape

SIZE = Size(parameters=1000, layers=2, width=10, kv_width=5, bytes_per_number=4)
SPEED = Speed(
    Peaks(1e6, 1e5), decode=0.5, read=1.0, forward=0.5, sft=0.5, rl=0.25, start=0.0, layer=0.01,
    token=0.001,
)  # fmt: skip
DRAW = DecodeLoad(
    rows=8, prompts=2, frame=10, own=20, completion=10, longest=16, block=4, at_once=2
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # As the hub counts the safetensors of each.
        ("Qwen/Qwen2.5-0.5B", 494_032_768),
        ("Qwen/Qwen2.5-1.5B", 1_543_714_304),
        ("Qwen/Qwen2.5-7B", 7_615_616_512),
        ("Qwen/Qwen2.5-14B", 14_770_033_664),
        ("Qwen/Qwen2.5-32B", 32_763_876_352),
        ("Qwen/Qwen3-0.6B", 596_049_920),
        ("meta-llama/Llama-3.1-8B", 8_030_261_248),
        ("meta-llama/Llama-3.3-70B", 70_553_706_496),
        ("HuggingFaceTB/SmolLM2-135M", 134_515_008),
    ],
)
def test_parameters_are_those_of_the_published_weights(name: str, parameters: int) -> None:
    assert HUB[name].parameters == parameters


def test_a_small_shape_by_hand() -> None:
    # Two query heads share one key head of width 4: q = 8, kv = 4, h = 8, f = 16, V = 10, L = 2.
    # Products: V h = 80; a layer 2*8*8 + 2*8*4 + 3*8*16 = 128 + 64 + 384 = 576; 80 + 1152 = 1232.
    # Norms: 2 * (2*8) + 8 = 40.
    shape = Shape(10, 8, 2, 2, 1, 16, is_tied=True)
    assert (shape.products, shape.parameters) == (1232, 1272)
    # Untied: one more V h. Biases: L * (8 + 2*4) = 32.
    assert replace(shape, is_tied=False).parameters == 1272 + 80
    assert replace(shape, has_bias=True).parameters == 1272 + 32
    # Keys and values of a token in float32: 2 * L * kv * 4 bytes = 2*2*4*4.
    assert shape.size(4).kv_bytes == 64


def test_keys_and_values_of_smollm2() -> None:
    # 2 * 30 layers * 3 heads * 64 * 4 bytes = 46,080 a token; 128 rows of 100: 589,824,000.
    assert SMOLLM2.size(4).kv_bytes == 46_080
    assert formulas.cache_bytes(SMOLLM2.size(4), 128, 100) == 589_824_000


def test_seconds_of_training_by_hand() -> None:
    # 100 tokens * (6*1000 + 6*2*10*20) = 100 * 8400 = 840,000 operations at 1e6 * 0.5: 1.68 s;
    # 4 passes: 3 * 4 * 2 layers * 0.01 = 0.24 s.
    seconds = train_seconds(SIZE, SPEED, tokens=100, context=20, passes=4, share=0.5)
    assert seconds == pytest.approx(1.92)
    # Forward alone takes a third of the operations, at its own share: 280,000 / 5e5.
    assert formulas.pass_seconds(SIZE, SPEED, 100, 20) == pytest.approx(0.56)


def test_decode_steps_by_hand() -> None:
    # 8 rows * 10 tokens, two at once: 40 steps; two blocks drain for 16 - 10 steps each: 52.
    assert DRAW.steps == 52
    # All of a block at once: every block takes as long as its longest.
    assert replace(DRAW, at_once=4).steps == 2 * 16


def test_seconds_of_drawing_by_hand() -> None:
    # Prompts: 2*20 + 2*10 = 60 tokens * (2*1000 + 2*2*10*30) = 192,000 at 5e5:         0.384
    # Moved: 52 steps * 4,000 bytes + 80 tokens * 35 * 80 bytes = 432,000 at 1e5:       4.320
    # Operations: 80 * (2*1000 + 4*2*10*35) = 384,000 at 5e5:                           0.768
    # Calls: 52 * 2 * 0.01 and tokens: 80 * 0.001:                                      1.120
    assert draw_seconds(SIZE, SPEED, DRAW) == pytest.approx(6.592)
    # Half the bandwidth doubles the second line alone.
    slow = replace(SPEED, peaks=Peaks(1e6, 5e4))
    assert draw_seconds(SIZE, slow, DRAW) == pytest.approx(6.592 + 4.32)


def test_seconds_of_adam_and_of_checkpoints_by_hand() -> None:
    # 3 steps * 2 * 28 bytes * 1000 at 1e5 bytes a second.
    assert formulas.adam_seconds(SPEED, 1000, 3) == pytest.approx(1.68)
    # Two of 12 bytes for a billion parameters at 0.4 GB/s.
    assert formulas.checkpoint_seconds(1e9, 2) == pytest.approx(60)


def test_bytes_of_activations_by_hand() -> None:
    # 2 layers * 128 tokens * 10 wide * (68 + 10 * 64 / 64) = 199,680; logits 12 * 100 * 128.
    kept = formulas.activation_bytes(SIZE, 100, rows=2, length=64)
    assert kept == 199_680 + 153_600
