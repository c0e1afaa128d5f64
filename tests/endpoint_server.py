"""A server with OpenAI's HTTP interface in a thread of the test, with faults on demand."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]
Answer = Callable[[Body], Any]
"""The reply to a request's body: a text, a whole choice, or a Fault."""


class Fault:
    """What happens instead of an answer: a status, a closed connection, or a delay before it."""

    def __init__(
        self,
        status: int = 0,
        *,
        text: str = "",
        retry_after: str | None = None,
        drops: bool = False,
        seconds: float = 0.0,
    ) -> None:
        self.status, self.text, self.retry_after = status, text, retry_after
        self.drops, self.seconds = drops, seconds


class Server:
    """Answers by `answer`; each fault of `faults` takes the place of one answer, in order."""

    def __init__(self, answer: Answer, *, is_vllm: bool, models: tuple[str, ...]) -> None:
        self.answer = answer
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, Body, float]] = []
        """Path, body and time of every POST."""
        self.keys: set[str | None] = set()
        self.answered = 0
        self.most_at_once = 0
        self._at_once = 0
        self.lock = threading.Lock()
        card = {"owned_by": "vllm", "max_model_len": 4096} if is_vllm else {"owned_by": "someone"}
        self.listed = {"data": [{"id": name, **card} for name in models]}
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    @property
    def bodies(self) -> list[Body]:
        return [body for _, body, _ in self.requests]

    def next_fault(self, path: str, body: Body) -> Fault | None:
        with self.lock:
            self.requests.append((path, body, time.monotonic()))
            return self.faults.pop(0) if self.faults else None

    @contextmanager
    def counted(self) -> Iterator[None]:
        with self.lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            yield
        finally:
            with self.lock:
                self._at_once -= 1


@contextmanager
def serving(
    answer: Answer, *, is_vllm: bool = False, models: tuple[str, ...] = ("teacher",)
) -> Iterator[Server]:
    server = Server(answer, is_vllm=is_vllm, models=models)
    thread = threading.Thread(target=server.http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.keys.add(self.headers.get("Authorization"))
            self._send(200, json.dumps(server.listed))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.keys.add(self.headers.get("Authorization"))
            with server.counted():
                fault = server.next_fault(self.path, body)
                if fault is not None:
                    time.sleep(fault.seconds)
                    if fault.drops:
                        self.close_connection = True
                        return
                    if fault.status:
                        self._send(fault.status, fault.text, fault.retry_after)
                        return
                reply = _reply(self.path, body, server.answer(body))
            with server.lock:
                server.answered += 1
            self._send(200, json.dumps(reply))

        def _send(self, status: int, text: str, retry_after: str | None = None) -> None:
            raw = text.encode()
            try:
                self.send_response(status)
                if retry_after is not None:
                    self.send_header("Retry-After", retry_after)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)
            except OSError:
                self.close_connection = True  # the client has given up

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def _reply(path: str, body: Body, answer: Any) -> Body:
    """A whole reply; a text stands for a choice that ended by itself, a token a word."""
    choice = answer if isinstance(answer, dict) else {"text": answer, "finish_reason": "stop"}
    if path.endswith("/chat/completions") and "message" not in choice:
        choice = {"message": {"role": "assistant", "content": choice.pop("text")}, **choice}
    prompt = json.dumps(body.get("messages") or body["prompt"])
    text = choice.get("text") or choice["message"]["content"] or ""
    usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(text.split())}
    return {"choices": [choice], "usage": usage}
