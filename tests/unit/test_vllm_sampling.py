"""The vLLM sampler against plain forward passes."""

from pathlib import Path

import pytest
from test_sampling import MACHINE, check_logprobs, loaded, requests_of

from factory.core.records import SamplingConfig
from factory.models.tiny import save_tiny_model, tiny_model
from factory.sampling import open_sampler

ROUNDED = 1e-4
"""Nats. vLLM's kernels for CPUs know no float64."""


@pytest.mark.vllm
def test_vllm_agrees_with_a_forward_pass_before_and_after_new_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    # More prompt tokens than one engine step takes: the second half must wait, not be cut in two.
    monkeypatch.setattr("factory.sampling.vllm.PREFILL_TOKENS", 512)
    folder = save_tiny_model(tmp_path / "first", "llama", seed=3)
    machine = MACHINE.model_copy(update={"engine": "vllm", "engine_memory_gib": 0.25, "block": 32})
    sampler = open_sampler(folder, machine, max_length=256, training=True)
    try:
        # A shared beginning of more than 64 tokens: whole cached blocks of 32 are found again.
        shared = "Answer the question after thinking about it for a while, step by step: " * 2
        texts = tuple(f"{shared}{number}+{number}=" for number in range(12))
        requests = requests_of(folder, (*texts, *texts))
        assert len(requests[0].prompt_ids) > 64
        sampling = SamplingConfig(temperature=0.8, top_p=1.0, max_new_tokens=8)
        for seed, model in ((3, loaded(folder)), (8, tiny_model("llama", seed=8).eval())):
            if seed == 8:
                sampler.load_weights(model.state_dict().items())
            result = sampler.sample(requests, sampling)
            check_logprobs(model, requests, result, 0.8, bound=ROUNDED)
            assert result == sampler.sample(requests, sampling)
    finally:
        sampler.close()
