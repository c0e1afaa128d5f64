"""What a server sends on the wire: heads, lengths, packings, redirects, and where the key goes."""

import contextlib
import gzip
import json
import re
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from factory.core.errors import EngineError
from factory.core.machine import EndpointAccess
from factory.sampling.connection import Connection, Interrupted, Refused

KEY = "sk-secret-0123456789"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
GOOD = b'{"answer": "\xc3\xa9"}'
Send = Callable[[socket.socket], None]


def whole_request(stream: socket.socket) -> bytes:
    """All of it: a socket that is closed with something unread resets its connection."""
    data = b""
    while True:
        head, end, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if end and len(body) >= int(length[1] if length else 0):
            return data
        piece = stream.recv(65536)
        if not piece:
            return data
        data += piece


class Wire:
    """A socket that answers every request with the same bytes, and keeps what it was sent."""

    def __init__(self, answer: bytes | Send) -> None:
        self.requests: list[bytes] = []
        self._answer = answer
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}/v1"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                stream, _ = self._listening.accept()
                with stream, contextlib.suppress(OSError):
                    self.requests.append(whole_request(stream))
                    if isinstance(self._answer, bytes):
                        stream.sendall(self._answer)
                    else:
                        self._answer(stream)

    def close(self) -> None:
        self._listening.close()


@contextmanager
def wire(answer: bytes | Send) -> Iterator[Wire]:
    server = Wire(answer)
    try:
        yield server
    finally:
        server.close()


def reply_of(server: Wire, *, most: int = 1 << 20, timeout: float = 30.0) -> object:
    access = EndpointAccess.model_validate(
        {"url": server.url, "key_env": "TEST_KEY", "timeout": timeout}
    )
    connection = Connection(server.url, access)
    try:
        return connection.send("POST", "/completions", {}, most_bytes=most)
    finally:
        connection.close()


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)


def complete(body: bytes, *lines: str) -> bytes:
    head = "".join(f"{line}\r\n" for line in lines).encode()
    return OK + head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def drop_by_drop(first: bytes, drop: bytes) -> Send:
    """A byte now and then, for longer than any test waits."""

    def send(stream: socket.socket) -> None:
        stream.sendall(first)
        for _ in range(2000):
            time.sleep(0.05)
            stream.sendall(drop)

    return send


ENDLESS = {
    "a head that trickles": (OK + b"X-Padding: ", b"a"),
    "heads without end": (OK, b"X-Padding: a\r\n"),
    "a body that trickles": (OK + b"Content-Length: 100000\r\n\r\n", b" "),
    "pieces without end": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
}


@pytest.mark.parametrize("case", ENDLESS)
def test_a_reply_that_trickles_ends_by_a_clock_of_its_own(case: str) -> None:
    with wire(drop_by_drop(*ENDLESS[case])) as server:
        began = time.monotonic()
        with pytest.raises(Interrupted, match=r"does not end|ReadTimeout") as fault:
            reply_of(server, timeout=0.2)
        assert fault.value.is_lost
        assert time.monotonic() - began < 60  # the server goes on for 100 seconds


def flood(stream: socket.socket) -> None:
    stream.sendall(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    piece = b"10000\r\n" + b"a" * 65536 + b"\r\n"
    while True:
        stream.sendall(piece)


ZEROS = zlib.compressobj(9, wbits=31)
BOMB = ZEROS.compress(bytes(64 << 20)) + ZEROS.flush()
UNREADABLE = {
    "a body without end": (flood, "a reply of more than 1,048,576 bytes"),
    "64 MiB in 64 KiB": (complete(BOMB, "Content-Encoding: gzip"), "a reply of more than"),
    "packed twice": (complete(gzip.compress(BOMB), "Content-Encoding: gzip, gzip"), "packed as"),
    "packed by Brotli": (complete(b"\x00" * 99, "Content-Encoding: br"), "packed as 'br'"),
    "packed by Zstandard": (complete(b"\x28\xb5\x2f\xfd", "Content-Encoding: zstd"), "packed as"),
    "an unknown packing": (complete(GOOD, "Content-Encoding: \x1b[2J"), "packed as|RemoteProtocol"),
    "broken gzip": (complete(b"\x1f\x8b" + GOOD, "Content-Encoding: gzip"), "cannot be unpacked"),
    "torn gzip": (complete(gzip.compress(GOOD)[:-12], "Content-Encoding: gzip"), "no JSON"),
    "a length that is too large": (OK + b"Content-Length: 999\r\n\r\n" + GOOD, "RemoteProtocol"),
    "a length that is too small": (OK + b"Content-Length: 3\r\n\r\n" + GOOD, "no JSON"),
    "a length below zero": (OK + b"Content-Length: -5\r\n\r\n" + GOOD, "RemoteProtocol"),
    "a length of 400 digits": (OK + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n", "Protocol"),
    "two lengths": (OK + b"Content-Length: 3\r\nContent-Length: 9\r\n\r\n" + GOOD, "RemoteProt"),
    "no head": (b"\x16\x03\x01" * 50, "RemoteProtocol"),
    "a head of 1 MiB": (OK + b"X: " + b"a" * (1 << 20) + b"\r\n\r\n", "RemoteProtocol|ReadError"),
    "nothing": (b"", "RemoteProtocol"),
    "lists in lists": (complete(b"[" * 100_000), "no JSON"),
    "an integer of 5,000 digits": (complete(b"1" * 5000), "no JSON"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNREADABLE)
def test_bytes_that_are_no_reply_are_asked_for_again(case: str) -> None:
    answer, words = UNREADABLE[case]
    with wire(answer) as server, pytest.raises(Interrupted, match=words) as fault:
        reply_of(server)
    assert fault.value.is_lost  # it may have been billed
    assert KEY not in str(fault.value)


READABLE = {
    "gzip that nobody asked for": complete(gzip.compress(GOOD), "Content-Encoding: gzip"),
    "deflate": complete(zlib.compress(GOOD), "Content-Encoding: Deflate"),
    "a codec that is none for text": complete(GOOD).replace(b"/json", b"/json; charset=hex"),
    "a codec that always fails": complete(GOOD).replace(b"/json", b"/json; charset=undefined"),
    "a codec that takes long": complete(GOOD).replace(b"/json", b"/json; charset=punycode"),
    "no length": OK + b"\r\n" + GOOD,
    "a cookie": complete(GOOD, "Set-Cookie: a=b; Domain=example.org"),
    "its own place elsewhere": complete(GOOD, "Location: http://127.0.0.1:1/"),
}


@pytest.mark.parametrize("case", READABLE)
def test_json_is_read_as_utf_8_however_it_is_packed_or_called(case: str) -> None:
    with wire(READABLE[case]) as server:
        assert reply_of(server) == {"answer": "é"}
        assert b"accept-encoding: identity" in server.requests[0].lower()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer_and_the_key_goes_nowhere_else(status: int) -> None:
    with wire(complete(GOOD)) as other:
        for address in (
            f"{other.url}/completions",
            "file:///etc/passwd",
            "//127.0.0.1:1/",
            "x" * 9999,
        ):
            head = f"HTTP/1.1 {status} Moved\r\nLocation: {address}\r\nContent-Length: 0\r\n\r\n"
            with wire(head.encode()) as server, pytest.raises(Refused, match=f"HTTP {status}"):
                reply_of(server)
            assert f"Bearer {KEY}".encode() in server.requests[0]
            assert len(server.requests) == 1
        assert not other.requests


@pytest.mark.parametrize("bad", [f"{KEY}\nX-Other: 1", f"{KEY} x", f"{KEY}é", f"{KEY}\x00"])
def test_a_key_that_no_header_may_hold_is_refused_and_not_repeated(
    bad: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "\x00" in bad:
        monkeypatch.setattr("os.environ", {"TEST_KEY": bad})
    else:
        monkeypatch.setenv("TEST_KEY", bad)
    with wire(complete(GOOD)) as server:
        with pytest.raises(EngineError, match="TEST_KEY holds a blank or a character") as message:
            reply_of(server)
        assert KEY not in str(message.value) and not server.requests


def test_a_server_that_repeats_the_key_has_it_cut_out() -> None:
    with wire(complete(json.dumps({"said": f"Bearer {KEY}"}).encode())) as server:
        assert reply_of(server) == {"said": "Bearer [key]"}
    for words in (KEY, KEY.replace("s", "\\u0073")):
        body = b'{"error": "no such key: %s"}' % words.encode()
        refusal = b"HTTP/1.1 401 No\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        with wire(refusal) as server, pytest.raises(Refused, match=r"no such key: \[key\]"):
            reply_of(server)
