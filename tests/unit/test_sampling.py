"""The transformers sampler against plain forward passes and Hugging Face's own decoding."""

from pathlib import Path
from typing import Any

import pytest
from doubles import CLOSE

from factory.core.machine import Machine
from factory.core.records import SamplingConfig
from factory.models.tiny import save_tiny_model, tiny_model
from factory.sampling import open_sampler
from factory.sampling.sampler import Completion, Request, Sampler

MACHINE = Machine(device="cpu", threads=1, engine="transformers")
pytestmark = pytest.mark.usefixtures("float64")
PROMPTS = ("What is 2+2?", "Say it.", "A much longer question than the other two: why?")


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def folder(
    float64: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp(request.param), request.param, seed=3)


@pytest.fixture(scope="module")
def sampler(folder: Path) -> Sampler:
    return open_sampler(folder, MACHINE, max_length=512)


def ids_of(folder: Path, text: str) -> tuple[int, ...]:
    from transformers import AutoTokenizer

    return tuple(AutoTokenizer.from_pretrained(folder)(text)["input_ids"])


def loaded(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def requests_of(folder: Path, texts: tuple[str, ...] = PROMPTS) -> list[Request]:
    return [Request(ids_of(folder, text), seed) for seed, text in enumerate(texts)]


def forward_logprobs(
    model: Any, request: Request, completion: Completion, *, temperature: float
) -> list[float]:
    """Log-probs of a completion's tokens by one unpadded forward pass."""
    import torch

    ids = torch.tensor([[*request.prompt_ids, *completion.token_ids]])
    start = len(request.prompt_ids)
    with torch.no_grad():
        logits = model(ids).logits[0, start - 1 : -1] / temperature
    chosen = torch.tensor(completion.token_ids)[:, None]
    return logits.log_softmax(-1).gather(1, chosen)[:, 0].tolist()


def check_logprobs(
    model: Any,
    requests: list[Request],
    completions: list[Completion],
    temperature: float,
    *,
    bound: float = CLOSE,
) -> None:
    for request, completion in zip(requests, completions, strict=True):
        expected = forward_logprobs(model, request, completion, temperature=temperature)
        assert list(completion.logprobs) == pytest.approx(expected, abs=bound)


def test_greedy_equals_hugging_faces_greedy(folder: Path, sampler: Sampler) -> None:
    import torch

    model = loaded(folder)
    requests = requests_of(folder)
    result = sampler.sample(requests, SamplingConfig(temperature=0.0, max_new_tokens=24))
    for request, completion in zip(requests, result, strict=True):
        ids = torch.tensor([request.prompt_ids])
        out = model.generate(ids, do_sample=False, max_new_tokens=24)[0, len(request.prompt_ids) :]
        assert completion.token_ids == tuple(out.tolist())


def test_logprobs_equal_those_of_a_plain_forward_pass(folder: Path, sampler: Sampler) -> None:
    requests = requests_of(folder)
    sampling = SamplingConfig(temperature=0.7, top_p=0.9, max_new_tokens=24)
    check_logprobs(loaded(folder), requests, sampler.sample(requests, sampling), 0.7)


def test_a_seed_gives_its_completion_wherever_it_stands(folder: Path, sampler: Sampler) -> None:
    # The same prompt twice: equal prompts share a prefill and still draw from their own streams.
    requests = [*requests_of(folder), Request(ids_of(folder, PROMPTS[0]), 77)]
    sampling = SamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=16)
    forward = sampler.sample(requests, sampling)
    backward = sampler.sample(requests[::-1], sampling)[::-1]
    assert [c.token_ids for c in forward] == [c.token_ids for c in backward]
    assert forward[0].token_ids != forward[3].token_ids


def test_an_equal_call_gives_equal_completions(folder: Path, sampler: Sampler) -> None:
    sampling = SamplingConfig(temperature=1.0, max_new_tokens=16)
    assert sampler.sample(requests_of(folder), sampling) == sampler.sample(
        requests_of(folder), sampling
    )


def test_the_length_limit_is_kept_and_told(folder: Path, sampler: Sampler) -> None:
    result = sampler.sample(requests_of(folder), SamplingConfig(temperature=1.0, max_new_tokens=3))
    for completion in result:
        assert len(completion.token_ids) == len(completion.logprobs) <= 3
        assert completion.finish_reason == ("length" if 2 not in completion.token_ids else "stop")


def test_a_stop_text_ends_a_completion_and_stays_in_it(folder: Path, sampler: Sampler) -> None:
    # With every visible character a stop text, the first one ends the completion.
    stops = tuple(chr(code) for code in range(33, 127))
    sampling = SamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=64, stop=stops)
    for completion in sampler.sample(requests_of(folder), sampling):
        assert completion.finish_reason == "stop"
        visible = [c for c in completion.text if c in stops]
        assert len(visible) == 1 and completion.text[-1] in stops


def test_a_stop_text_that_open_thoughts_quote_ends_nothing(
    folder: Path, sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    text = "it wants <answer> </answer>, </think> <answer> 4 </answer> User: more"
    script = list(ids_of(folder, text))

    def draw(logits: torch.Tensor, *_: object) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((len(logits),), script.pop(0)), torch.zeros(len(logits))

    monkeypatch.setattr("factory.sampling.transformers._draw", draw)
    sampling = SamplingConfig(temperature=1.0, max_new_tokens=100, stop=("</answer>",))
    request = Request(ids_of(folder, "2 + 2? <think>\n"), 1)
    (completion,) = sampler.sample([request], sampling)
    assert completion.text == text.removesuffix(" User: more")
    assert (completion.finish_reason, len(script)) == ("stop", len(" User: more"))


def test_new_weights_give_the_new_models_completions(folder: Path, tmp_path: Path) -> None:
    architecture = "qwen2" if "qwen2" in folder.name else "llama"
    other = save_tiny_model(tmp_path / "other", architecture, seed=8)
    sampling = SamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=16)
    requests = requests_of(folder)
    sampler = open_sampler(folder, MACHINE, max_length=128)
    before = sampler.sample(requests, sampling)
    sampler.load_weights(tiny_model(architecture, seed=8).state_dict().items())
    after = sampler.sample(requests, sampling)
    assert after == open_sampler(other, MACHINE, max_length=128).sample(requests, sampling)
    assert before != after
