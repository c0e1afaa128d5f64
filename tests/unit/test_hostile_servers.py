"""A reply of a server is checked as a record: types, bounds, text that files can hold."""

import json
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from factory.building.recipe import load_machine, load_recipe
from factory.core.errors import RecipeError
from factory.core.machine import EndpointAccess, Machine
from factory.core.records import SamplingConfig
from factory.sampling.connection import Interrupted, retry_after
from factory.sampling.endpoint import _completion, _is_sensible, _Question, _usage
from factory.sampling.spending import Usage

QUESTION = _Question("/chat/completions", {}, "", "", Usage(100, 50))
JSON = (
    None, True, 0, -1, 10**400, 1.5, float("nan"), "", "x", "\ud800",
    [], {}, [[]], [None], {"x": 1},
)  # fmt: skip


def reply(**choice: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "4", "reasoning_content": "two and two"}
    logprobs = {"content": [{"logprob": -0.5}]}
    single = {"message": message, "finish_reason": "stop", "logprobs": logprobs, **choice}
    return {"choices": [single], "usage": {"prompt_tokens": 5, "completion_tokens": 7}}


def places(value: Any, set_to: Callable[[Any], None] | None = None) -> list[Callable[[Any], None]]:
    """What replaces each value inside a value."""
    result = [set_to] if set_to else []
    keys: Any = list(value) if isinstance(value, dict) else ()
    for key in range(len(value)) if isinstance(value, list) else keys:
        result += places(value[key], lambda new, key=key: value.__setitem__(key, new))
    return result


def read(body: Any) -> Any:
    sampling = SamplingConfig(temperature=1.0)
    usage = _usage(body)
    if usage is None or not _is_sensible(usage, QUESTION.most):
        return None
    return _completion(body, QUESTION, sampling, usage)


def test_each_field_of_a_reply_may_be_any_json() -> None:
    count = len(places(reply()))
    assert count > 10
    for number in range(count):
        for value in JSON:
            body = reply()
            places(body)[number](value)
            try:
                completion = read(body)
            except Interrupted:
                continue
            if completion is not None:
                completion.text.encode("utf-8")
                assert type(completion.text) is str
                assert 0 <= completion.counted < 10**6


def test_random_replies_are_read_or_asked_for_again() -> None:
    draw = random.Random(5)
    for _ in range(500):
        body = reply()
        for _ in range(draw.choice((1, 2, 3))):
            draw.choice(places(body))(draw.choice(JSON))
            if not places(body):
                break
        try:
            read(body)
        except Interrupted:
            continue


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [(-1, 5), (5, -1), (10**9, 5), (5, 10**9), (-(10**9), -(10**9)), (2**70, 1)],
)
def test_counts_that_cannot_be_true_are_no_counts(prompt: int, completion: int) -> None:
    assert not _is_sensible(Usage(prompt, completion), QUESTION.most)


@pytest.mark.parametrize("counts", [{"prompt_tokens": True, "completion_tokens": 1}, [], None, "x"])
def test_counts_of_another_type_are_none(counts: Any) -> None:
    assert _usage({"usage": counts}) is None


@pytest.mark.parametrize("content", [5, True, {"text": "x"}, ["x"], [{"type": "text"}], 1.5])
def test_content_that_is_no_text_is_no_completion(content: Any) -> None:
    with pytest.raises(Interrupted, match="no completion"):
        read(reply(message={"content": content}))


def test_text_in_parts_is_joined_and_odd_text_made_whole() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b\ud800"}]
    assert read(reply(message={"content": parts})).text == "ab\ufffd"
    assert read(reply(message={"content": "\ud83d\ude00"})).text == "\U0001f600"


def test_log_probs_are_numbers() -> None:
    for bad in (float("nan"), float("-inf"), float("inf"), 0.5, 10**400, "x", None):
        with pytest.raises(Interrupted):
            read(reply(logprobs={"content": [{"logprob": bad}]}))


@pytest.mark.parametrize("given", ["nan", "-5", "x" * 10_000, "Wed, 99 Foo 2026", ""])
def test_a_wait_that_cannot_be_read_is_none(given: str) -> None:
    from datetime import UTC, datetime

    assert retry_after({"retry-after": given}, datetime(2026, 1, 1, tzinfo=UTC)) == 0.0


def test_ten_million_characters_are_no_fifty_tokens() -> None:
    fifty_long_tokens = "a" * (50 * 256)
    assert read(reply(message={"content": fifty_long_tokens})).text == fifty_long_tokens
    for message in ({"content": "a" * 10**7}, {"content": "a", "reasoning": " one" * 10**6}):
        with pytest.raises(Interrupted, match="characters of 50 tokens"):
            read(reply(message=message))


def test_stop_texts_that_are_only_quoted_are_looked_for_in_bounded_time() -> None:
    sampling = SamplingConfig(temperature=1.0, stop=("</answer>",))
    roomy = replace(QUESTION, most=Usage(100, 10_000))
    quoted = '<think> "</answer>" ' + '"</answer>" ' * 40_000
    began = time.process_time()
    body = reply(message={"content": quoted})
    completion = _completion(body, roomy, sampling, Usage(5, 7))
    assert time.process_time() - began < 20  # to look at all of them takes half an hour
    assert completion.finish_reason == "stop" and completion.text.endswith("</answer>")
    few = '<think> "</answer>" is a tag </think> <answer> 4 </answer> and on'
    completion = _completion(reply(message={"content": few}), roomy, sampling, Usage(5, 7))
    assert completion.text == few.removesuffix(" and on")


SECRET = "hunter2"
URLS = [
    f"http://user:{SECRET}@127.0.0.1/v1", f"http://{SECRET}@host/v1",
    f"https://host/v1?key={SECRET}", f"http://a:b/{SECRET}@host/", f"HTTP://user:{SECRET}@host",
]  # fmt: skip


@pytest.mark.parametrize("url", URLS)
def test_an_address_with_a_secret_is_refused_and_not_repeated(url: str, tmp_path: Path) -> None:
    machine = tmp_path / "m.json"
    machine.write_text(json.dumps({"endpoints": [{"url": url}]}), encoding="utf-8")
    source = {"type": "endpoint", "url": url, "name": "x"}
    recipe = tmp_path / "r.json"
    stages = {"a": {"kind": "model", "source": source}}
    recipe.write_text(json.dumps({"name": "x", "stages": stages}), encoding="utf-8")
    for read_file in (load_machine, load_recipe):
        with pytest.raises(RecipeError) as message:
            read_file(machine if read_file is load_machine else recipe)
        assert "url" in str(message.value)
        assert SECRET not in str(message.value)


def test_a_plain_address_is_taken() -> None:
    for url in ("http://127.0.0.1:8000/v1", "https://api.example.org/v1/"):
        assert Machine(endpoints=(EndpointAccess(url=url),)).endpoints[0].url == url
