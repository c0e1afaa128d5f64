"""Rows that decode in place against transformers' own cache and attention."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from doubles import CLOSE
from transformers import AutoModelForCausalLM, Qwen2Config
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from factory.core.machine import Machine
from factory.core.records import SamplingConfig
from factory.models.tiny import byte_tokenizer, save_tiny_model
from factory.sampling import open_sampler
from factory.sampling.cache import ROOM, RowLayer, row_cache, shared_keys_attention
from factory.sampling.sampler import Request

pytestmark = pytest.mark.usefixtures("float64")
MACHINE = Machine(device="cpu", threads=1, engine="transformers")


def states(stream: torch.Generator, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    keys, values = torch.randn(2, rows, 2, length, 4, generator=stream)
    return keys, values


def test_a_layer_holds_what_transformers_own_holds() -> None:
    """Prompts, copies for the samples of a group, tokens past the room, rows that end."""
    stream = torch.Generator().manual_seed(0)
    ours, theirs = RowLayer(), DynamicLayer()
    for layer in (ours, theirs):
        layer.update(*states(stream.manual_seed(1), 3, 5))
        layer.batch_select_indices(torch.tensor([0, 0, 1, 1, 2, 2]))
    rows = 6
    ended = {40: [0, 1, 5, 3], ROOM + 30: [0, 3, 2], 2 * ROOM + 20: [2, 1]}
    for token in range(3 * ROOM):
        fresh = states(stream.manual_seed(100 + token), rows, 1)
        kept = [layer.update(*fresh) for layer in (ours, theirs)]
        for own, expected in zip(*kept, strict=True):
            assert torch.equal(own, expected)
        if token in ended:
            rows = len(ended[token])
            for layer in (ours, theirs):
                layer.batch_select_indices(torch.tensor(ended[token]))
    assert ours.get_seq_length() == theirs.get_seq_length() == 5 + 3 * ROOM


def test_a_token_is_written_in_place() -> None:
    layer = RowLayer()
    layer.update(*states(torch.Generator(), 2, 5))
    first, _ = layer.update(*states(torch.Generator(), 2, 1))
    second, _ = layer.update(*states(torch.Generator(), 2, 1))
    assert first.data_ptr() == second.data_ptr()


@pytest.mark.parametrize("has_mask", [False, True])
@pytest.mark.parametrize("length", [1, 6])
def test_attention_is_transformers_own(length: int, has_mask: bool) -> None:
    stream = torch.Generator().manual_seed(2)
    query = torch.randn(3, 6, length, 4, generator=stream)
    key, value = states(stream, 3, 6)
    mask = torch.rand(3, 1, length, 6, generator=stream) > 0.4 if has_mask else None
    if mask is not None:
        mask[..., 0] = True
    module = SimpleNamespace(num_key_value_groups=3, is_causal=True)
    result, _ = shared_keys_attention(module, query, key, value, mask, scaling=0.3)
    expected, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.3)
    assert torch.allclose(result, expected, atol=CLOSE)


def test_rows_that_end_leave_the_others_as_they_were(tmp_path: Path) -> None:
    """Every row drawn alone and all together, with ends all over the place."""
    sampler = open_sampler(save_tiny_model(tmp_path, "llama", seed=3), MACHINE, max_length=64)
    requests = [Request((5, 6 + seed % 3, 7), seed) for seed in range(12)]
    stops = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    sampling = SamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=24, stop=stops)
    together = sampler.sample(requests, sampling)
    assert len({len(completion.token_ids) for completion in together}) > 4
    for request, completion in zip(requests, together, strict=True):
        (alone,) = sampler.sample([request], sampling)
        assert alone.token_ids == completion.token_ids


def test_layers_with_a_sliding_window_keep_transformers_cache(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=259, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2, bos_token_id=1,
        eos_token_id=2, pad_token_id=2, use_sliding_window=True, sliding_window=4,
        max_window_layers=1,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    assert [type(layer) is RowLayer for layer in row_cache(config).layers] == [True, False]
    prompt = (7, 8, 9, 10, 11, 12)
    greedy = SamplingConfig(temperature=0.0, max_new_tokens=12)
    (result,) = open_sampler(tmp_path, MACHINE, max_length=32).sample([Request(prompt, 0)], greedy)
    expected = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=12)[0, 6:]
    assert result.token_ids == tuple(expected.tolist())
