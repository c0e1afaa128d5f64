"""Where vLLM stops at a text that open thoughts only quote, the completion goes on behind it."""

from types import SimpleNamespace
from typing import Any

import pytest

from factory.core.records import SamplingConfig
from factory.models.tiny import byte_tokenizer
from factory.sampling.sampler import Request
from factory.sampling.streams import Listed
from factory.sampling.vllm import VllmSampler

TEXT = "it wants <answer> </answer>, so </think> <answer> 4 </answer>"
SAMPLING = SamplingConfig(temperature=1.0, max_new_tokens=100, stop=("</answer>",))
TOKENIZER = byte_tokenizer()


def ids_of(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


class Engine:
    """What of vLLM is calls: it writes TEXT on from where a prompt stands, up to a stop text."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[int], Any]] = []
        self.waiting: list[tuple[str, Any]] = []
        self.llm_engine = self

    def reset_prefix_cache(self) -> None: ...

    def abort_request(self, names: list[str]) -> None:
        assert not names, "all have ended"

    def add_request(self, name: str, prompt: Any, parameters: Any) -> None:
        self.waiting.append((name, self.answer(name, prompt, parameters)))

    def step(self) -> list[Any]:
        done, self.waiting = self.waiting, []
        return [output for _, output in done]

    def answer(self, name: str, prompt: Any, parameters: Any) -> Any:
        ids = list(prompt["prompt_token_ids"])
        self.calls.append((ids, parameters))
        written = str(TOKENIZER.decode(ids)).partition("<think>")[2]
        rest = TEXT.removeprefix(written)
        rest = rest[: rest.index("</answer>") + len("</answer>")]
        tokens = ids_of(rest)[: parameters.max_tokens]
        is_whole = len(tokens) == len(ids_of(rest))
        output = SimpleNamespace(
            text=TOKENIZER.decode(tokens), token_ids=tokens,
            logprobs=[{token: SimpleNamespace(logprob=-1.0)} for token in tokens],
            finish_reason="stop" if is_whole else "length",
            stop_reason="</answer>" if is_whole else None,
        )  # fmt: skip
        return SimpleNamespace(
            outputs=[output], num_cached_tokens=3, finished=True, request_id=name
        )


@pytest.fixture
def sampler(monkeypatch: pytest.MonkeyPatch) -> VllmSampler:
    made = object.__new__(VllmSampler)
    fields = {
        "_llm": Engine(),
        "_group": None,
        "_tokenizer": TOKENIZER,
        "_ends": [2],
        "rows": 2,
        "_logprobs": 0,
    }
    vars(made).update(fields)

    def parameters(_: VllmSampler, request: Request, sampling: SamplingConfig) -> Any:
        return SimpleNamespace(seed=request.seed, max_tokens=request.new_tokens(sampling))

    monkeypatch.setattr(VllmSampler, "_parameters", parameters)
    return made


def test_a_call_goes_on_behind_a_quotation_with_what_is_left(sampler: VllmSampler) -> None:
    request = Request(tuple(ids_of("2 + 2? <think>")), 7)
    ended: list[str] = []
    first, second = sampler.sample([request, request], SAMPLING, lambda: ended.append("one"))
    assert first == second and ended == ["one", "one"]
    assert (first.text, first.finish_reason) == (TEXT, "stop")
    assert first.token_ids == tuple(ids_of(TEXT))
    assert len(first.logprobs) == len(first.token_ids)
    calls = vars(sampler)["_llm"].calls
    assert [parameters.max_tokens for _, parameters in calls] == [100, 100, 73, 73]
    assert calls[2][1].seed == calls[3][1].seed != 7


def test_a_quotation_at_the_limit_is_cut_off_by_it(sampler: VllmSampler) -> None:
    request = Request(tuple(ids_of("2 + 2? <think>")), 7, limit=27)
    (completion,) = sampler.sample([request], SAMPLING)
    assert (completion.text, completion.finish_reason) == (TEXT[:27], "length")


def test_a_stream_goes_on_behind_a_quotation(sampler: VllmSampler) -> None:
    requests = [Request(tuple(ids_of("2 + 2? <think>")), seed) for seed in range(3)]
    done = dict(sampler.stream(Listed(requests), SAMPLING))
    assert {number: c.text for number, c in done.items()} == dict.fromkeys(range(3), TEXT)
