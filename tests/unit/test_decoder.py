"""The decoder of the sampler against transformers' forward pass, and which engine `auto` takes."""

import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from doubles import CLOSE
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from factory.core.machine import Machine
from factory.core.records import SamplingConfig
from factory.models.tiny import save_tiny_model, tiny_model
from factory.sampling import decoder, local, open_sampler
from factory.sampling.decoder import ROOM, Decoder, DecoderBatch, cache_bytes, covers
from factory.sampling.draw import HEAD, PART, inverse
from factory.sampling.sampler import Request
from factory.sampling.transformers import TransformersSampler

pytestmark = pytest.mark.usefixtures("float64")
SHAPE: dict[str, Any] = {
    "vocab_size": 259, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.1,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
CONFIGS = {
    "llama, tied": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama3 positions": LlamaConfig(**SHAPE, rope_parameters=LLAMA3),
    "biases": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=32),
}


def model_of(name: str) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:  # norms and biases, which start as ones and zeros
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    return model


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_scores_are_those_of_transformers_forward_pass(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three prompts shared by rows that end, in blocks of uneven width, past the cache's room."""
    monkeypatch.setattr(decoder, "BLOCK", 50)
    monkeypatch.setattr(decoder, "PREFILL_CELLS", 12)
    assert covers(CONFIGS[name])
    model = model_of(name)
    stream = torch.Generator().manual_seed(1)
    prompts = [(5, 6, 7), (9, 8, 7, 6, 5, 4), (11,)]
    rows = [[*prompts[number]] for number in (0, 1, 0, 2, 1, 1, 0)]
    batch = DecoderBatch(Decoder(model), rows, longest=2 * ROOM)
    ended = {3: [0, 1, 2, 6, 4], 20: [4, 1, 2], ROOM + 5: [2, 1]}
    logits = batch.logits
    for step in range(ROOM + 8):
        if step in (0, 3, 4, 20, 21, ROOM + 1, ROOM + 7):
            expected = torch.stack([model(torch.tensor([row])).logits[0, -1] for row in rows])
            assert torch.allclose(logits, expected, atol=CLOSE), step
        tokens = torch.randint(3, 259, (len(rows),), generator=stream)
        if step in ended:
            batch.keep(ended[step])
            rows = [rows[position] for position in ended[step]]
            tokens = tokens[torch.tensor(ended[step])]
        for row, token in zip(rows, tokens.tolist(), strict=True):
            row.append(token)
        logits = batch.next(tokens)


@torch.no_grad()
def test_what_all_prompts_begin_with_is_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "PREFILL_CELLS", 5)
    model = model_of("qwen3")
    shown = tuple(range(20, 40))
    prompts = [(*shown, 5, 6, 7), (*shown, 5), (*shown, 9, 8), (*shown, 5)]
    ran: list[int] = []
    turns = Decoder.turns
    monkeypatch.setattr(
        Decoder, "turns", lambda held, places: ran.append(len(places)) or turns(held, places)
    )
    batch = DecoderBatch(Decoder(model), prompts, longest=4)
    # The beginning; then three tokens, padding included, of each distinct prompt, one at a time.
    assert (batch.common, ran) == (20, [20, 3, 3, 3])
    for scores in (batch.logits, batch.next(torch.tensor([3, 4, 5, 6]))):
        expected = [model(torch.tensor([prompt])).logits[0, -1] for prompt in prompts]
        assert torch.allclose(scores, torch.stack(expected), atol=CLOSE)
        prompts = [(*p, token) for p, token in zip(prompts, (3, 4, 5, 6), strict=True)]


@pytest.mark.parametrize(
    ("prompts", "common"),
    [
        ([tuple(range(30))], 0),
        ([tuple(range(30)), tuple(range(15))], 0),
        ([tuple(range(30)), tuple(range(17))], 16),
        ([(*range(20), 7), (*range(20), 9, 4), (*range(20), 8)], 20),
        ([(1, *range(20)), (2, *range(20))], 0),
    ],
)
def test_the_last_token_of_a_prompt_is_never_shared(prompts: Any, common: int) -> None:
    assert decoder._common(prompts) == common


@torch.no_grad()
def test_several_rows_of_one_prompt() -> None:
    model = model_of("qwen2")
    batch = DecoderBatch(Decoder(model), [(5, 6, 7)] * 3, longest=4)
    logits = batch.next(torch.tensor([8, 9, 10]))
    expected = model(torch.tensor([[5, 6, 7, token] for token in (8, 9, 10)])).logits[:, -1]
    assert torch.allclose(logits, expected, atol=CLOSE)


@pytest.mark.parametrize("seed", range(4))
@torch.no_grad()
def test_rows_that_join_later_score_as_alone(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With new prompts and old ones, longer and shorter, while others end and the cache grows."""
    monkeypatch.setattr(decoder, "ROOM", 6)
    model = model_of(["qwen3", "llama, tied", "qwen2", "qwen3"][seed])
    chance = random.Random(seed)
    shown = tuple(range(20, 40)) if seed % 2 else ()

    def prompt() -> list[int]:
        other = [chance.randrange(3, 259) for _ in range(chance.randrange(1, 9))]
        return [*(shown if chance.random() < 0.9 else ()), *other]

    prompts = [prompt() for _ in range(3)]
    rows = [[*prompts[number]] for number in (0, 1, 0, 2)]
    batch = DecoderBatch(Decoder(model), rows, longest=30)
    logits, ages, joined, most = batch.logits, [0] * 4, 0, 0
    for _ in range(60):
        expected = torch.stack([model(torch.tensor([row])).logits[0, -1] for row in rows])
        assert torch.allclose(logits, expected, atol=CLOSE)
        tokens = torch.tensor([chance.randrange(3, 259) for _ in rows])
        if len(rows) > 1 and chance.random() < 0.3:
            eldest = ages.index(max(ages))
            places = decoder.without_gaps([position != eldest for position in range(len(rows))])
            batch.keep(places)
            ages = [ages[position] for position in places]
            rows, tokens = [rows[position] for position in places], tokens[torch.tensor(places)]
        for row, token in zip(rows, tokens.tolist(), strict=True):
            row.append(token)
        logits = batch.next(tokens)
        ages = [age + 1 for age in ages]
        if len(rows) < 5 and chance.random() < 0.4:
            fresh = [chance.choice([prompt(), chance.choice(prompts)]) for _ in range(2)]
            logits = torch.cat([logits, batch.add(fresh, longest=30)])
            rows += [[*each] for each in fresh]
            ages += [0, 0]
            joined += 2
        most = max(most, batch._drawn)
    assert joined > 6 and most < 60  # some gap was closed


@torch.no_grad()
def test_a_large_tied_head_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "HEAD_COPY_BYTES", 1000)
    model = model_of("llama, tied")
    held = Decoder(model)
    assert held._head is None
    batch = DecoderBatch(held, [(5, 6)], longest=4)
    assert torch.allclose(batch.logits[0], model(torch.tensor([[5, 6]])).logits[0, -1], atol=CLOSE)
    copied = model_of("llama, tied")
    with pytest.raises(KeyError, match=r"model\.unknown"):
        held.load([("model.unknown", copied.lm_head.weight)])


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**SHAPE),
        LlamaConfig(**SHAPE, hidden_act="gelu"),
        Qwen2Config(**SHAPE, use_sliding_window=True, max_window_layers=0),
        LlamaConfig(**SHAPE, rope_parameters={**LLAMA3, "rope_type": "dynamic"}),
    ],
    ids=["mistral", "gelu", "window", "dynamic"],
)
def test_other_models_are_not_covered(config: Any) -> None:
    assert not covers(config)


def test_a_prompt_is_run_once_for_all_its_rows(tmp_path: Path) -> None:
    machine = Machine(device="cpu", threads=1, engine="transformers")
    sampler = open_sampler(save_tiny_model(tmp_path, "llama"), machine, max_length=32)
    prompts = [(5, 6, 7), (8, 9), (5, 6, 7), (5, 6, 7), (8, 9)]
    result = sampler.sample(
        [Request(prompt, seed) for seed, prompt in enumerate(prompts)],
        SamplingConfig(temperature=1.0, max_new_tokens=2),
    )
    assert [completion.cached_prompt_tokens for completion in result] == [0, 0, 3, 3, 2]


def test_more_rows_than_the_cache_may_hold_are_drawn_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_tiny_model(tmp_path, "llama", seed=3)
    machine = Machine(device="cpu", threads=1, engine="transformers")
    requests = [Request((5, 6 + seed % 3, 7), seed) for seed in range(40)]
    sampling = SamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=6)
    full = open_sampler(folder, machine, max_length=16).sample(requests, sampling)
    small = machine.model_copy(update={"engine_memory_gib": 1e-6})
    sizes: list[int] = []
    draw = TransformersSampler._sample

    def watch(self: Any, part: Any, *rest: Any) -> Any:
        sizes.append(len(part))
        return draw(self, part, *rest)

    monkeypatch.setattr(TransformersSampler, "_sample", watch)
    parts = open_sampler(folder, small, max_length=16).sample(requests, sampling)
    assert sizes == [32, 8]
    assert [c.token_ids for c in parts] == [c.token_ids for c in full]


def test_only_tokens_with_its_last_character_complete_a_stop_text(tmp_path: Path) -> None:
    machine = Machine(device="cpu", threads=1, engine="transformers")
    sampler: Any = open_sampler(save_tiny_model(tmp_path, "llama"), machine, max_length=16)
    closing = sampler._closing_tokens(("</a>", "!?"))
    texts = [sampler._tokenizer.decode([token]) for token in sorted(closing)]
    assert sorted(texts) == sorted(["?", ">", "<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    # The last byte of a character that is not ASCII tells nothing by itself.
    assert len(sampler._closing_tokens(("é",))) == sampler._vocabulary


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """vLLM as if it were installed; its engine only says that it was opened."""
    calls: list[str] = []

    class Engine:
        name = "vllm"

        def __init__(self, *_: Any, **__: Any) -> None:
            calls.append("vllm")

    monkeypatch.setitem(sys.modules, "factory.sampling.vllm", SimpleNamespace(VllmSampler=Engine))
    monkeypatch.setattr(local, "find_spec", lambda name: object())
    return calls


@pytest.mark.parametrize(
    ("changed", "engine"),
    [
        ({}, "transformers"),
        ({"dtype": "bfloat16"}, "vllm"),
        # 32 rows of 16 tokens of 2 layers with one head of 32: 262,144 bytes of keys and values.
        ({"engine_memory_gib": 262_144 / 2**30}, "transformers"),
        ({"engine_memory_gib": 262_143 / 2**30}, "vllm"),
        ({"engine": "vllm"}, "vllm"),
    ],
)
def test_auto_takes_the_decode_loop_where_it_is_covered_and_fits(
    changed: dict[str, Any], engine: str, opened: list[str], tmp_path: Path
) -> None:
    folder = save_tiny_model(tmp_path, "llama")
    assert cache_bytes(tiny_model("llama").config) == 2 * 4 * 2 * 1 * 32
    machine = Machine(device="cpu", threads=1).model_copy(update=changed)
    assert open_sampler(folder, machine, max_length=16).name == engine
    assert opened == (["vllm"] if engine == "vllm" else [])
    # One long prompt among many short ones does not change the engine.
    assert open_sampler(folder, machine, max_length=64, mean_length=16).name == engine


def test_without_vllm_a_model_that_is_not_covered_is_sampled_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "find_spec", lambda name: None)
    notes: list[str] = []
    machine = Machine(device="cpu", threads=1, dtype="bfloat16")
    folder = save_tiny_model(tmp_path, "llama")
    sampler = open_sampler(folder, machine, max_length=16, notify=notes.append)
    assert sampler.name == "transformers"
    assert notes == ["vLLM is not installed: sampling with transformers (slower)"]


def test_a_row_draws_the_numbers_of_its_own_stream() -> None:
    from factory.sampling.transformers import _uniforms

    stream = torch.Generator().manual_seed(7)
    one_by_one = torch.cat([torch.rand(1, generator=stream) for _ in range(50)])
    assert list(_uniforms(7, 50)) == one_by_one.tolist()


@pytest.mark.parametrize("columns", [300, 8 * PART])
def test_a_drawn_column_is_where_the_running_sum_passes_the_share(columns: int) -> None:
    """Columns without mass, whole parts of them too, are never drawn."""
    assert columns < HEAD or columns % PART == 0
    stream = torch.Generator().manual_seed(0)
    mass = torch.rand(400, columns, generator=stream)
    mass[torch.rand(mass.shape, generator=stream) < 0.7] = 0.0
    mass[:, 100:260] = 0.0
    mass[:, -3:] = 0.0
    uniforms = torch.rand(400, generator=stream)
    uniforms[:100], uniforms[100:200] = 0.0, 1.0 - 2**-24
    result = inverse(mass, uniforms)
    assert (mass.gather(1, result[:, None]) > 0).all()
    running = mass.double().cumsum(-1)
    share = uniforms.double() * running[:, -1]
    at = result[:, None]
    below, above = (running - mass).gather(1, at)[:, 0], running.gather(1, at)[:, 0]
    tolerance = CLOSE * running[:, -1]
    assert (below <= share + tolerance).all() and (share <= above + tolerance).all()
    first = (mass > 0).int().argmax(-1)
    assert torch.equal(result[:100], first[:100])
