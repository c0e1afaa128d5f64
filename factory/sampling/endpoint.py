"""A served model behind the Sampler protocol: any server with OpenAI's HTTP interface.

A prompt that was written with the model's own tokenizer goes to `/completions` as token ids, so
that the model reads exactly what a local engine would be given. Messages go to `/chat/completions`,
where the server's template writes the prompt; plain text without a tokenizer goes to `/completions`
as text.

vLLM, known by its list of models, is asked more than the interface has: to go on after a prefill
and to leave the stop text in. From other servers a prefill is left out, and what a reply writes of
it by itself is cut off again; stop texts are not sent to them, since they would not say which one
ended a completion: what follows the first one is cut off here. One that open thoughts only quote
ends nothing: where vLLM has stopped there, it is asked again without stop texts.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from factory.core.errors import EngineError
from factory.core.machine import Machine
from factory.core.records import FinishReason, SamplingConfig
from factory.core.seeds import derive
from factory.sampling.connection import LONGEST_REPLY, Connection, Interrupted, Refused
from factory.sampling.kept import Kept
from factory.sampling.sampler import Completion, OnEnd, Request, nobody
from factory.sampling.served import Served, messages_of
from factory.sampling.spending import Spending, Usage
from factory.text.lookalike import PROMPT_END, only_quotes
from factory.text.templates import open_tokenizer

TEMPLATE_TOKENS = 256
"""What a server's template may add to the messages, for the limit of spending."""
OPENING_RETRIES = 3
"""A server that does not answer at all is a mistake more often than a pause."""
FREEDOM, ADDED_TOKENS = 4, 100_000
"""A server's counts may be so many times what was asked for, and so many tokens more."""
STOPS = ("stop", "include_stop_str_in_output")
REPLY_BYTES, LOGPROB_BYTES = 256, 1024
"""Of a reply, for each token that was asked for: its text, and its log-prob with that."""
TEXT_SLACK = 1 << 16
"""Characters that a text may have beyond: what a server counts may be less than it writes."""
MOST_SCANNED = 1 << 23
"""Characters that are looked through for quoted stop texts; from there on the next one counts."""
EXAMPLES_NOTE = (
    "writes the prompts itself: its template may leave the thoughts out of worked examples; name "
    "the model's tokenizer (source.tokenizer) to write them here"
)
FINISHED: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    # A filter cuts a text off, as a limit does.
    "content_filter": "length",
}


@dataclass(frozen=True)
class _Question:
    """A request as the server gets it."""

    path: str
    body: Mapping[str, Any]
    prefill: str
    prompt_end: str
    """What the model goes on from; open thoughts may quote a stop text (`only_quotes`)."""
    most: Usage
    """What it may cost; no text has more tokens than bytes."""


class EndpointSampler:
    """Asks a server; every answer is on disk as soon as it is there, and none is asked for twice.

    Differs from an engine of ours: equal requests give equal completions only as far as the server
    keeps to seeds; a completion has no token ids, only a count; log-probs are there where they are
    asked for and mean what ours do, which is at temperature 1.
    """

    name = "endpoint"

    def __init__(
        self,
        model: Path,
        served: Served,
        machine: Machine,
        *,
        max_length: int,
        notify: Callable[[str], None] | None = None,
        scratch: Path | None = None,
    ) -> None:
        self._served = served
        self._access = machine.access(served.url, served.name)
        self._tokenizer = open_tokenizer(model)
        self._connection = Connection(served.url, self._access)
        self._spending = Spending(self._access, scratch and scratch / "endpoint-spent.jsonl")
        self._kept = Kept(scratch, "endpoint-answers")
        self._notify = notify
        self._told: set[str] = set()
        self._is_vllm = self._examine(max_length)

    def sample(
        self, requests: Sequence[Request], sampling: SamplingConfig, on_end: OnEnd = nobody
    ) -> list[Completion]:
        questions = [self._question(request, sampling) for request in requests]
        kept = self._kept.begin([[question.path, question.body] for question in questions])
        with ThreadPoolExecutor(self._access.concurrency) as threads:
            waiting = {
                threads.submit(self._answer, index, questions[index], sampling, request.seed): index
                for index, request in enumerate(requests)
                if index not in kept
            }
            try:
                for future in as_completed(waiting):
                    kept[waiting[future]] = future.result()
                    on_end()
            except BaseException:
                # Nothing more is sent; what is on its way is paid for, awaited and kept.
                self._connection.stop("stopped")
                threads.shutdown(cancel_futures=True)
                raise
        return [kept[index] for index in range(len(requests))]

    def load_weights(self, weights: Iterable[tuple[str, Any]]) -> None:
        raise EngineError(f"{self._served.name} is on a server: it takes no weights")

    def close(self) -> None:
        self._tell("spent", str(self._spending))
        self._connection.close()

    def _examine(self, max_length: int) -> bool:
        """Whether the server is vLLM; EngineError if it says that it cannot answer."""
        name = self._served.name
        try:
            listed = self._retried(
                lambda: self._connection.send("GET", "/models"), seed=0, retries=OPENING_RETRIES
            )
        except Refused as refusal:
            if refusal.status in (401, 403):
                raise
            return False  # not every server has a list
        entries = listed.get("data") if isinstance(listed, Mapping) else None
        entries = entries if isinstance(entries, list) else []
        cards = [card for card in entries if isinstance(card, Mapping)]
        if not any(card.get("owned_by") == "vllm" for card in cards):
            return False
        mine = [card for card in cards if card.get("id") == name]
        if not mine:
            there = ", ".join(str(card.get("id"))[:100] for card in cards[:20])
            raise EngineError(f"{self._served.url}: serves no {name!r}; there is {there}")
        room = mine[0].get("max_model_len")
        if self._served.has_tokenizer and isinstance(room, int) and room < max_length:
            raise EngineError(
                f"{self._served.url}: {name} takes {room} tokens, and a prompt with its completion "
                f"may have {max_length}: lower max_new_tokens, or serve it with a longer context"
            )
        return True

    def _question(self, request: Request, sampling: SamplingConfig) -> _Question:
        served, limit = self._served, request.new_tokens(sampling)
        if sampling.loop is not None:
            self._tell("loop", "does not look for loops: completions that repeat go to their limit")
        body: dict[str, Any] = {
            "model": served.name,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": request.seed,
        }
        if self._is_vllm and sampling.stop:
            body |= {"stop": list(sampling.stop), "include_stop_str_in_output": True}
        prompt: Any = list(request.prompt_ids)
        if not served.has_tokenizer:
            prompt = self._tokenizer.decode(prompt)
            messages = messages_of(prompt)
            if messages is not None:
                if any(message["role"] == "assistant" for message in messages[0]):
                    self._tell("examples", EXAMPLES_NOTE)
                return self._conversation(*messages, body=body, limit=limit)
        body |= {"prompt": prompt, "max_tokens": limit}
        if self._access.logprobs:
            body["logprobs"] = 1
        most = Usage(len(request.prompt_ids) + 1, limit)
        tail = list(request.prompt_ids[-PROMPT_END:])
        prompt_end = str(self._tokenizer.decode(tail, skip_special_tokens=True))
        return _Question("/completions", {**body, **served.fields}, "", prompt_end, most)

    def _conversation(
        self, messages: list[dict[str, Any]], prefill: str, *, body: dict[str, Any], limit: int
    ) -> _Question:
        if prefill and self._is_vllm:
            messages = [*messages, {"role": "assistant", "content": prefill}]
            body |= {"add_generation_prompt": False, "continue_final_message": True}
        elif prefill:
            self._tell("prefill", f"takes no prefill: {prefill!r} is left out of the prompts")
        body |= {"messages": messages, self._served.limit_field: limit}
        if self._access.logprobs:
            body["logprobs"] = True
        length = len(json.dumps(messages, ensure_ascii=False).encode()) + TEMPLATE_TOKENS
        most = Usage(length, limit)
        fields = {**body, **self._served.fields}
        return _Question("/chat/completions", fields, prefill, prefill, most)

    def _answer(
        self, index: int, question: _Question, sampling: SamplingConfig, seed: int
    ) -> Completion:
        try:
            completion = self._asked(question, sampling, seed)
            if "stop" in question.body and only_quotes(completion.text, question.prompt_end):
                # vLLM stops at a quotation too: the whole text is asked for, and cut here.
                body = {key: value for key, value in question.body.items() if key not in STOPS}
                completion = self._asked(replace(question, body=body), sampling, seed)
        except EngineError as error:
            # Before this thread takes the next question.
            self._connection.stop(str(error))
            raise
        self._kept.add({index: completion})
        return completion

    def _asked(self, question: _Question, sampling: SamplingConfig, seed: int) -> Completion:
        return self._retried(
            lambda: self._ask(question, sampling), seed=seed, retries=self._access.retries
        )

    def _ask(self, question: _Question, sampling: SamplingConfig) -> Completion:
        with self._spending.set_aside(question.most):
            try:
                each = LOGPROB_BYTES if self._access.logprobs else REPLY_BYTES
                most_bytes = LONGEST_REPLY + each * question.most.completion
                reply = self._connection.send(
                    "POST", question.path, question.body, most_bytes=most_bytes
                )
            except Interrupted as fault:
                if fault.is_lost:
                    # The server may have gone on and billed it whole.
                    self._spending.pay(question.most)
                raise
            usage = _usage(reply)
            is_sensible = usage is not None and _is_sensible(usage, question.most)
            self._spending.pay(usage if usage is not None and is_sensible else question.most)
        if usage is None:
            raise EngineError(f"{self._served.url}: counts no tokens: its replies have no usage")
        if not is_sensible:
            raise EngineError(
                f"{self._served.url}: counts {usage.prompt} tokens of a prompt and "
                f"{usage.completion} of a completion, where at most {question.most.prompt} and "
                f"{question.most.completion} were asked for; its counts cannot be used"
            )
        return _completion(reply, question, sampling, usage)

    def _retried(self, attempted: Callable[[], Any], *, seed: int, retries: int) -> Any:
        for attempt in count():
            try:
                return attempted()
            except Interrupted as fault:
                if attempt == retries:
                    raise EngineError(
                        f"{self._served.url}: gave up after {attempt + 1} attempts, at last: "
                        f"{fault}; what is answered is kept: start again"
                    ) from None
                self._tell("fault", f"{fault}; it is asked again, up to {retries} times a request")
                share = derive(seed, "back-off", attempt) / 2**31
                self._connection.pause(attempt, share, wait=fault.wait)

    def _tell(self, what: str, text: str) -> None:
        """Say something to the user, each kind once."""
        if self._notify is not None and what not in self._told:
            self._told.add(what)
            self._notify(f"{self._served.url}: {text}")


def _usage(reply: Any) -> Usage | None:
    counts = reply.get("usage") if isinstance(reply, Mapping) else None
    if not isinstance(counts, Mapping):
        return None
    prompt, completion = counts.get("prompt_tokens"), counts.get("completion_tokens")
    if type(prompt) is int and type(completion) is int:
        return Usage(prompt, completion)
    return None


def _is_sensible(usage: Usage, most: Usage) -> bool:
    """Whether counts may be true: a server's template and its own tokens add something."""
    return (
        0 <= usage.prompt <= FREEDOM * most.prompt + ADDED_TOKENS
        and 0 <= usage.completion <= FREEDOM * most.completion + ADDED_TOKENS
    )


def _completion(
    reply: Mapping[str, Any], question: _Question, sampling: SamplingConfig, usage: Usage
) -> Completion:
    """Interrupted where the reply is no completion: gateways report faults behind them so."""
    try:
        choice = reply["choices"][0]
        finish = FINISHED[choice["finish_reason"]]
        is_plain = "text" in choice
        text = _text(choice["text"]) if is_plain else _chat_text(choice["message"], finish)
        logprobs = _logprobs(choice) if sampling.temperature == 1.0 else ()
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise Interrupted(f"no completion: {type(error).__name__}: {error}") from None
    if len(text) > REPLY_BYTES * question.most.completion + TEXT_SLACK:
        raise Interrupted(
            f"no completion: {len(text):,} characters of {question.most.completion:,} tokens"
        )
    opening = question.prefill.strip()
    if opening and text.lstrip().startswith(opening):
        text = text.lstrip()[len(opening) :]
    ends = {match.end() for stop in sampling.stop for match in re.finditer(re.escape(stop), text)}
    scanned = 0
    for end in sorted(ends):
        scanned += end
        # Each look reads from the beginning: of a text that only quotes, some megabytes of looks.
        if scanned > MOST_SCANNED or not only_quotes(text[:end], question.prompt_end):
            text, finish = text[:end], "stop"
            break
    return Completion(text, (), logprobs, finish, counted=usage.completion)


def _text(value: Any) -> str:
    """A reply's text, given as such, as nothing, or as a list of parts; TypeError for all else.

    Halves of surrogate pairs, which JSON can write and no file can hold, become U+FFFD.
    """
    if isinstance(value, list):
        return "".join(_text(part["text"]) for part in value if part["type"] == "text")
    if value is not None and not isinstance(value, str):
        raise TypeError(f"a {type(value).__name__} where text belongs")
    return (value or "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _chat_text(message: Mapping[str, Any], finish: FinishReason) -> str:
    """A reply's text; thoughts that the server took out of it are put back between their tags."""
    content = _text(message.get("content")) or _text(message.get("refusal"))
    thoughts = _text(message.get("reasoning_content")) or _text(message.get("reasoning"))
    if not thoughts:
        return content
    if not content and finish == "length":
        return f"<think>\n{thoughts}"
    return f"<think>\n{thoughts.strip()}\n</think>\n\n{content}"


def _logprobs(choice: Mapping[str, Any]) -> tuple[float, ...]:
    given = choice.get("logprobs") or {}
    if "token_logprobs" in given:
        values = tuple(map(float, given["token_logprobs"]))
    else:
        values = tuple(float(token["logprob"]) for token in given.get("content") or ())
    # Sums in float32 leave dust above 0.
    if not all(math.isfinite(value) and value < 0.01 for value in values):
        raise ValueError("a log-prob that is none")
    return values
