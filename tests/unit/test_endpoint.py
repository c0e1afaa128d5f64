"""A served model behind the Sampler protocol: what is sent, what comes back, and every fault."""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from endpoint_server import Body, Fault, Server, serving
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from factory.core.errors import EngineError
from factory.core.guarded import intact_rows
from factory.core.machine import EndpointAccess, Machine
from factory.core.records import SamplingConfig
from factory.models.tiny import byte_tokenizer
from factory.sampling import Completion, Request, open_sampler
from factory.sampling.blocks import sample_blocks
from factory.sampling.connection import retry_after
from factory.sampling.endpoint import EndpointSampler
from factory.sampling.served import Served, messages_of, messages_tokenizer, write_served
from factory.text.chat import Demonstration, PromptConfig, completion_text, render

SAMPLING = SamplingConfig(temperature=0.6, top_p=0.9, max_new_tokens=10)
MESSAGES = messages_tokenizer()
KEY = "sk-secret-0123456789"


def reply_to(body: Body) -> str:
    """What the stand-in says: which question it was asked, and with which seed."""
    return f"{body['messages'][-1]['content']} seed {body['seed']}"


def ask(text: str, seed: int = 1, prompt: PromptConfig | None = None) -> Request:
    rendered = render(text, prompt or PromptConfig(style="chat"), MESSAGES)
    return Request(tuple(MESSAGES(rendered, add_special_tokens=False)["input_ids"]), seed)


REQUESTS = [ask(f"question {number}", number) for number in range(12)]


def opened(
    server: Server,
    folder: Path,
    *,
    notes: list[str] | None = None,
    max_length: int = 64,
    tokenizer: bool = False,
    fields: dict[str, object] | None = None,
    **access: object,
) -> EndpointSampler:
    """A sampler as stages get it, quick to try again."""
    model, scratch = folder / "model", folder / "scratch"
    model.mkdir(exist_ok=True)
    scratch.mkdir(exist_ok=True)
    served = Served(url=server.url, name="teacher", fields=fields or {}, has_tokenizer=tokenizer)
    write_served(model, served)
    if tokenizer:
        byte_tokenizer().save_pretrained(model)
    allowed = {"url": server.url, "first_wait": 0.01, "timeout": 60.0, "concurrency": 4, **access}
    machine = Machine(endpoints=(EndpointAccess.model_validate(allowed),))
    sampler = open_sampler(
        model,
        machine,
        max_length=max_length,
        notify=(notes if notes is not None else []).append,
        scratch=scratch,
    )
    assert isinstance(sampler, EndpointSampler)
    return sampler


def texts(completions: Sequence[Completion]) -> list[str]:
    return [completion.text for completion in completions]


WANTED = [f"question {number} seed {number}" for number in range(12)]


def test_messages_go_to_the_chat_with_every_setting_and_come_back_in_order(tmp_path: Path) -> None:
    system = PromptConfig(style="chat", system="Be brief.")
    with serving(reply_to) as server:
        sampler = opened(server, tmp_path, fields={"reasoning_effort": "high"})
        completions = sampler.sample([*REQUESTS, ask("with system", 7, system)], SAMPLING)
        sampler.close()
    assert texts(completions) == [*WANTED, "with system seed 7"]
    assert {c.finish_reason for c in completions} == {"stop"}
    assert [c.tokens for c in completions] == [4] * 13 and completions[0].token_ids == ()
    assert {path for path, _, _ in server.requests} == {"/v1/chat/completions"}
    (with_system,) = [body for body in server.bodies if len(body["messages"]) == 2]
    assert with_system == {
        "model": "teacher",
        "temperature": 0.6,
        "top_p": 0.9,
        "seed": 7,
        "max_tokens": 10,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "with system"},
        ],
        "reasoning_effort": "high",
    }
    assert server.most_at_once <= 4


def test_worked_examples_whose_thoughts_a_server_may_drop_are_told_once(tmp_path: Path) -> None:
    shown = Demonstration(question="1", reasoning='say "two"\nor </think>', answer="2")
    prompt = PromptConfig(style="few_shot", demonstrations=(shown,))
    notes: list[str] = []
    with serving(reply_to) as server:
        sampler = opened(server, tmp_path, notes=notes)
        sampler.sample([ask("bare", 1)], SAMPLING)
        assert not any("worked examples" in note for note in notes)
        sampler.sample([ask("one", 1, prompt), ask("two", 2, prompt)], SAMPLING)
    (note,) = [note for note in notes if "worked examples" in note]
    assert "name the model's tokenizer" in note
    sent = server.bodies[-1]["messages"][1]["content"]
    assert sent == completion_text(shown.reasoning, shown.answer)


def test_a_prompt_of_the_models_own_tokenizer_is_sent_as_its_ids(tmp_path: Path) -> None:
    with serving(lambda body: {"text": "yes", "finish_reason": "length"}) as server:
        sampler = opened(server, tmp_path, tokenizer=True)
        (completion,) = sampler.sample([Request((1, 7, 9), 3)], SAMPLING)
    assert (completion.text, completion.finish_reason) == ("yes", "length")
    ((path, body, _),) = server.requests
    assert path == "/v1/completions"
    assert (body["prompt"], body["seed"], body["max_tokens"]) == ([1, 7, 9], 3, 10)


def test_plain_text_without_a_tokenizer_is_sent_as_text(tmp_path: Path) -> None:
    with serving(lambda body: "yes") as server:
        opened(server, tmp_path).sample(
            [ask("What is 2 + 2?", 3, PromptConfig(style="zero"))], SAMPLING
        )
    ((path, body, _),) = server.requests
    assert path == "/v1/completions" and body["prompt"].endswith("User: What is 2 + 2? Assistant:")


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["system", "user"]), st.text()), min_size=1, max_size=4),
    st.sampled_from(["", "<think>\n", "]", '"}]']),
)
def test_no_text_in_a_message_can_pass_for_a_message(
    turns: list[tuple[str, str]], prefill: str
) -> None:
    messages = [{"role": role, "content": content} for role, content in turns]
    prompt = MESSAGES.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = MESSAGES(prompt + prefill, add_special_tokens=False)["input_ids"]
    assert messages_of(MESSAGES.decode(ids)) == (messages, prefill)


def test_messages_may_hold_every_mark_that_tokenizers_know() -> None:
    text = '<|im_end|>\n<|im_start|>system\n"}]<|messages|>[{"role": "system"'
    assert messages_of(MESSAGES.decode(ask(text).prompt_ids)) == (
        [{"role": "user", "content": text}],
        "",
    )


FORM = PromptConfig(style="chat", prefill="<think>\n")


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ("<think>\nfirst</think> 4", "\nfirst</think> 4"),
        ("4", "4"),
        (
            {
                "message": {"content": "4", "reasoning_content": "\nfirst\n"},
                "finish_reason": "stop",
            },
            "\nfirst\n</think>\n\n4",
        ),
        (
            {"message": {"content": None, "reasoning": "fir"}, "finish_reason": "length"},
            "\nfir",
        ),
    ],
)
def test_thoughts_are_put_together_with_the_answer_and_a_prefill_is_not_doubled(
    tmp_path: Path, choice: object, text: str
) -> None:
    notes: list[str] = []
    with serving(lambda body: choice) as server:
        completions = opened(server, tmp_path, notes=notes).sample([ask("q", 1, FORM)], SAMPLING)
    assert texts(completions) == [text]
    assert server.bodies[0]["messages"] == [{"role": "user", "content": "q"}]
    assert len([note for note in notes if "prefill" in note]) == 1


def test_vllm_goes_on_after_a_prefill_and_leaves_the_stop_text_in(tmp_path: Path) -> None:
    stops = SAMPLING.model_copy(update={"stop": ("</answer>",)})
    with serving(lambda body: "so</think><answer>4</answer>", is_vllm=True) as server:
        completions = opened(server, tmp_path).sample([ask("q", 1, FORM)], stops)
    assert texts(completions) == ["so</think><answer>4</answer>"]
    (body,) = server.bodies
    assert body["messages"][-1] == {"role": "assistant", "content": "<think>\n"}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert (body["stop"], body["include_stop_str_in_output"]) == (["</answer>"], True)


def test_other_servers_are_cut_at_the_first_stop_text_here(tmp_path: Path) -> None:
    stops = SAMPLING.model_copy(update={"stop": ("END", "</answer>")})
    choice = {"text": "4</answer> User: more END", "finish_reason": "length"}
    with serving(lambda body: dict(choice)) as server:
        completions = opened(server, tmp_path).sample([ask("q")], stops)
    assert (completions[0].text, completions[0].finish_reason) == ("4</answer>", "stop")
    assert "stop" not in server.bodies[0]


def test_a_quoted_stop_text_ends_nothing_and_vllm_is_asked_without_it(tmp_path: Path) -> None:
    stops = SAMPLING.model_copy(update={"stop": ("</answer>",)})
    quoted = "it wants <answer> </answer>"
    complete = f"{quoted}, so </think> <answer> 4 </answer>"

    def reply(body: Body) -> str:
        return quoted if "stop" in body else f"{complete} User: more"

    for is_vllm in (True, False):
        folder = tmp_path / str(is_vllm)
        folder.mkdir()
        with serving(reply, is_vllm=is_vllm) as server:
            result = opened(server, folder).sample([ask("q", 1, FORM)], stops)
        assert texts(result) == [complete]
        assert ["stop" in body for body in server.bodies] == [True, False][not is_vllm :]


def test_log_probs_are_kept_only_where_they_mean_what_ours_do(tmp_path: Path) -> None:
    choice = {
        "message": {"content": "a b"},
        "finish_reason": "stop",
        "logprobs": {"content": [{"logprob": -0.5}, {"logprob": -1.0}]},
    }
    hot = SAMPLING.model_copy(update={"temperature": 1.0})
    with serving(lambda body: choice) as server:
        sampler = opened(server, tmp_path, logprobs=True)
        assert sampler.sample([ask("q")], hot)[0].logprobs == (-0.5, -1.0)
        assert sampler.sample([ask("q")], SAMPLING)[0].logprobs == ()
    assert server.bodies[0]["logprobs"] is True


def test_faults_that_pass_are_waited_out_and_every_question_is_answered_once(
    tmp_path: Path,
) -> None:
    notes: list[str] = []
    with serving(reply_to) as server:
        server.faults = [
            Fault(429, text='{"error": {"message": "slow down"}}'),
            Fault(500),
            Fault(503, text="<html>"),
            Fault(drops=True),
            Fault(200, text='{"error": "the server behind is gone"}'),
            Fault(200, text="not json"),
            Fault(seconds=1.6),
        ]
        sampler = opened(server, tmp_path, notes=notes, timeout=1.0)
        completions = sampler.sample(REQUESTS, SAMPLING)
        sampler.close()
    assert texts(completions) == WANTED
    # Seven faults cost one request each; the slow one was answered too late to be heard.
    assert len(server.requests) == len(REQUESTS) + 7
    assert len([note for note in notes if "asked again" in note]) == 1
    # 12 answers and three that may have been billed: dropped, not json, too late.
    assert f"{len(REQUESTS) + 3} requests" in notes[-1]


def test_a_server_that_asks_to_wait_is_left_alone_for_as_long(tmp_path: Path) -> None:
    with serving(reply_to) as server:
        server.faults = [Fault(429, retry_after="1")]
        opened(server, tmp_path, concurrency=1).sample(REQUESTS[:2], SAMPLING)
    times = [at for _, _, at in server.requests]
    assert times[1] - times[0] >= 1.0


def test_retry_after_is_seconds_or_a_date() -> None:
    now = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
    assert retry_after({"retry-after": "2.5"}, now) == 2.5
    assert retry_after({"retry-after": "Thu, 01 Jan 2026 12:00:30 GMT"}, now) == 30.0
    assert retry_after({"retry-after": "Thu, 01 Jan 2026 11:00:00 GMT"}, now) == 0.0
    assert retry_after({"retry-after": "soon"}, now) == retry_after({}, now) == 0.0


def test_back_off_doubles_up_to_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(reply_to) as server:
        sampler = opened(server, tmp_path, first_wait=1.0)
        slept: list[float] = []
        monkeypatch.setattr(sampler._connection, "_sleep", slept.append)
        for attempt in (0, 1, 2, 9):
            sampler._connection.pause(attempt, 0.0, wait=0.0)
        sampler._connection.pause(1, 0.5, wait=0.0)
        sampler._connection.pause(0, 0.0, wait=7.0)
    # Halves of 1, 2, 4 and 60 s; three quarters of 2; the server's own word.
    assert slept == [0.5, 1.0, 2.0, 30.0, 1.5, 7.0]


def test_requests_are_spread_evenly_over_a_minute(tmp_path: Path) -> None:
    begin = time.monotonic()
    with serving(reply_to) as server:
        # 1200 a minute are one every 50 ms; the list of models is the first.
        opened(server, tmp_path, requests_per_minute=1200).sample(REQUESTS[:6], SAMPLING)
    # By our own clock: a busy server sees the first one late.
    assert time.monotonic() - begin >= 6 * 0.05


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            Fault(401, text=f'{{"error": {{"message": "bad key {KEY}"}}}}'),
            r"\[key\].*\$TEACHER_KEY",
        ),
        (Fault(404, text='{"message": "no such model"}'), "HTTP 404: no such model"),
        (Fault(400, text='{"detail": "context too long"}'), "HTTP 400: context too long"),
        (Fault(402, text="pay"), "account is empty"),
        (Fault(429, text='{"error": {"code": "insufficient_quota"}}'), "account is empty"),
        (Fault(429, retry_after="9999"), "asks to wait 9999 s"),
    ],
)
def test_what_does_not_pass_stops_at_once_in_the_servers_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault, message: str
) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    with serving(reply_to) as server:
        server.faults = [fault]
        sampler = opened(server, tmp_path, key_env="TEACHER_KEY", concurrency=1)
        with pytest.raises(EngineError, match=message) as caught:
            sampler.sample(REQUESTS, SAMPLING)
    assert len(server.requests) == 1
    assert KEY not in str(caught.value)
    assert server.keys == {f"Bearer {KEY}"}


def test_a_server_that_never_recovers_is_given_up_with_its_reason(tmp_path: Path) -> None:
    with serving(reply_to) as server:
        server.faults = [Fault(500, text="broken")] * 3
        with pytest.raises(EngineError, match=r"after 3 attempts, at last: HTTP 500: broken"):
            opened(server, tmp_path, retries=2, concurrency=1).sample(REQUESTS, SAMPLING)


def test_a_key_that_is_not_set_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    with serving(reply_to) as server, pytest.raises(EngineError, match="TEACHER_KEY, which is not"):
        opened(server, tmp_path, key_env="TEACHER_KEY")
    with serving(reply_to) as server:
        server.faults = [Fault(401)]
        with pytest.raises(EngineError, match="key_env"):
            opened(server, tmp_path).sample(REQUESTS[:1], SAMPLING)


def test_a_key_goes_to_its_own_server_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    machine = Machine(
        endpoints=(EndpointAccess(url="https://other.example/v1/", key_env="TEACHER_KEY"),)
    )
    assert machine.access("https://other.example/v1", "any").key_env == "TEACHER_KEY"
    assert machine.access("https://other.example/v1.evil", "any").key_env is None
    with serving(reply_to) as server:
        model = tmp_path / "model"
        model.mkdir()
        write_served(model, Served(url=server.url, name="teacher", has_tokenizer=False))
        open_sampler(model, machine, max_length=64).sample(REQUESTS[:1], SAMPLING)
    assert server.keys == {None}


def test_a_limit_of_spending_is_kept_and_what_is_answered_is_never_paid_again(
    tmp_path: Path,
) -> None:
    # A million a token: 4 tokens an answer cost 4, the longest possible 10; prompts are free.
    prices = {"price_in": 0.0, "price_out": 1e6}
    keyed = [(f"p{number}", request) for number, request in enumerate(REQUESTS)]

    def build(server: Server, limit: float) -> list[Completion]:
        sampler = opened(server, tmp_path, most_spend=limit, **prices)
        try:
            return sample_blocks(sampler, keyed, SAMPLING, segment=tmp_path / "s.jsonl", block=5)
        finally:
            sampler.close()

    with serving(reply_to) as server:
        with pytest.raises(EngineError, match="spend limit: 24 of 33 is spent") as caught:
            build(server, 33.0)
        assert "start again" in str(caught.value)
        # 24 + 10 > 33: after six answers the next might have gone beyond.
        assert server.answered == 6
        assert len(intact_rows(tmp_path / "s.jsonl")) == 5
        completions = build(server, 60.0)
    assert texts(completions) == WANTED
    assert server.answered == len(REQUESTS)
    seeds = [body["seed"] for body in server.bodies]
    assert sorted(seeds) == list(range(12))


def test_a_limit_without_prices_is_refused() -> None:
    with pytest.raises(ValidationError, match="most_spend needs price_in and price_out"):
        EndpointAccess(url="http://h/v1", most_spend=1.0)


def test_a_url_with_a_password_or_a_query_is_refused() -> None:
    for url in ("https://me:word@h/v1", "https://h/v1?key=1", "ftp://h/v1", "https://h/v1#m"):
        with pytest.raises(ValidationError):
            Served(url=url, name="m", has_tokenizer=False)


def test_answers_of_a_cut_block_are_kept_one_by_one(tmp_path: Path) -> None:
    with serving(reply_to) as server:
        server.faults = [Fault(seconds=0.01)] * 7 + [Fault(400, text="enough")]
        with pytest.raises(EngineError, match="enough"):
            opened(server, tmp_path, concurrency=1).sample(REQUESTS, SAMPLING)
        assert server.answered == 7
        # Other questions do not take these answers for theirs.
        others = [replace(request, seed=request.seed + 100) for request in REQUESTS]
        completions = opened(server, tmp_path).sample(others, SAMPLING)
        assert texts(completions)[0] == "question 0 seed 100"
        again = opened(server, tmp_path).sample(REQUESTS, SAMPLING)
        assert texts(again) == WANTED
    assert server.answered == 7 + 12 + 5


def test_vllm_that_cannot_take_the_questions_says_so_before_any_is_asked(tmp_path: Path) -> None:
    for models, reason in (
        (("other", "third"), "no 'teacher'; there is other, third"),
        (("teacher",), "takes 4096 tokens"),
    ):
        with serving(reply_to, is_vllm=True, models=models) as server:
            with pytest.raises(EngineError, match=reason):
                opened(server, tmp_path, tokenizer=True, max_length=5000)
            assert server.requests == []


def test_replies_without_usage_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bare(path: str, body: Body, answer: object) -> Body:
        return {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}

    monkeypatch.setattr("endpoint_server._reply", bare)
    with serving(reply_to) as server, pytest.raises(EngineError, match="no usage"):
        opened(server, tmp_path).sample(REQUESTS[:1], SAMPLING)


def test_a_served_model_is_never_trained(tmp_path: Path) -> None:
    write_served(tmp_path, Served(url="http://h/v1", name="m", has_tokenizer=True))
    with pytest.raises(EngineError, match="cannot be trained"):
        open_sampler(tmp_path, Machine(), max_length=8, training=True)


def test_nothing_but_the_end_waits_for_a_slow_answer(tmp_path: Path) -> None:
    def slow_at_first(body: Body) -> str:
        end = time.monotonic() + 10
        while body["seed"] == 0 and server.answered < len(REQUESTS) - 1:
            assert time.monotonic() < end
            time.sleep(0.01)
        return reply_to(body)

    with serving(slow_at_first) as server:
        assert texts(opened(server, tmp_path, timeout=20.0).sample(REQUESTS, SAMPLING)) == WANTED
