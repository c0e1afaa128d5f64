"""HTTP to a served model: one request at a time, at a measured pace, and what its faults mean.

httpx, which huggingface-hub brings along, and not the `openai` package, which only vLLM does: what
is needed of it is two POSTs, and retries must go through the rate and spend limits.
"""

import asyncio
import json
import os
import time
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Event, Lock, Thread
from typing import Any

import httpx

from factory.core.errors import EngineError
from factory.core.machine import EndpointAccess
from factory.text.visible import visible

PASSING = (408, 409, 425, 429)
"""Refusals that may pass, besides all of 5xx."""
LONGEST_BACK_OFF = 60.0
LONGEST_WAIT = 900.0
"""Seconds that a server may ask to wait; beyond, the stage stops and can be started again."""
LONGEST_REPLY = 4 << 20
"""Bytes of a reply, unless more was asked for."""
SHOWN = 300
"""Characters of a server's own words in an error."""


class Interrupted(Exception):
    """A request that may succeed if it is sent again."""

    def __init__(self, reason: str, *, wait: float = 0.0, is_lost: bool = False) -> None:
        super().__init__(reason)
        self.wait = wait
        """Seconds that the server asked for."""
        self.is_lost = is_lost
        """An answer may have been made, and billed, that never arrived."""


class Refused(EngineError):
    """The server will not answer such a request, however often it is asked."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Connection:
    """A server that is asked at no more than its rate; any number of threads may share it."""

    def __init__(self, url: str, access: EndpointAccess) -> None:
        self.url = url.rstrip("/")
        self._access = access
        self._key = _key(access)
        self._client = httpx.AsyncClient(
            headers={"Accept-Encoding": "identity"}
            | ({"Authorization": f"Bearer {self._key}"} if self._key else {}),
            timeout=httpx.Timeout(access.timeout, connect=30.0, pool=None),
            limits=httpx.Limits(max_connections=access.concurrency),
            follow_redirects=False,  # the key is for this server alone
        )
        # Only a loop can end a request at a moment: a timeout is for each read, a byte or more.
        self._loop = asyncio.new_event_loop()
        Thread(target=self._loop.run_forever, daemon=True).start()
        self._gap = 60.0 / access.requests_per_minute if access.requests_per_minute else 0.0
        self._next = 0.0
        self._lock = Lock()
        self._stopped = Event()
        self._reason = ""

    def send(
        self, method: str, path: str, body: Any = None, *, most_bytes: int = LONGEST_REPLY
    ) -> Any:
        """The JSON that the server answers. Interrupted, or an EngineError that says what is wrong.

        Nothing of a request is in an error; the key is cut out of the server's own words. A reply
        is read no further than `most_bytes`, packed and unpacked, and with its head no longer than
        four times the timeout.
        """
        self._take_turn()
        exchange = self._exchange(method, path, body, most_bytes)
        response, text = asyncio.run_coroutine_threadsafe(exchange, self._loop).result()
        text = text.replace(self._key, "[key]") if self._key else text
        if not response.is_success:
            self._refuse(response.status_code, text, response.headers)
        try:
            reply = json.loads(text)
        except (ValueError, RecursionError):
            raise Interrupted(f"no JSON: {text[:SHOWN]!r}", is_lost=True) from None
        # Some gateways report a failure behind them with status 200.
        if isinstance(reply, Mapping) and reply.get("error"):
            raise Interrupted(self._words(text))
        return reply

    async def _exchange(
        self, method: str, path: str, body: Any, most_bytes: int
    ) -> tuple[httpx.Response, str]:
        """A reply and its text; Interrupted where none comes whole."""
        data = bytearray()
        try:
            async with (
                asyncio.timeout(4 * self._access.timeout),
                self._client.stream(method, f"{self.url}{path}", json=body) as response,
            ):
                async for part in response.aiter_raw():
                    data += part
                    if len(data) > most_bytes:
                        raise _too_long(most_bytes)
        except TimeoutError:
            raise Interrupted("a reply that does not end", is_lost=True) from None
        except httpx.RequestError as error:
            never_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            reason = f"{type(error).__name__}: {error}".removesuffix(": ")
            raise Interrupted(reason, is_lost=not never_sent) from None
        # JSON is UTF-8, whatever a header says of it: some of Python's codecs raise, or take long.
        return response, _unpacked(response, data, most_bytes).decode("utf-8", "replace")

    def pause(self, attempt: int, share: float, *, wait: float) -> None:
        """Wait before the retry after this attempt (from 0): exponential back-off, of which
        `share` in [0, 1) picks a place in the upper half, and at least `wait`."""
        most = min(self._access.first_wait * 2**attempt, LONGEST_BACK_OFF)
        seconds = max(most * (0.5 + share / 2), wait)
        if wait:
            with self._lock:
                self._next = max(self._next, time.monotonic() + wait)
        self._sleep(seconds)

    def stop(self, reason: str) -> None:
        """Send nothing any more; whoever waits for a turn gets an EngineError of this reason."""
        with self._lock:
            self._reason = self._reason or reason
        self._stopped.set()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._client.aclose(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _take_turn(self) -> None:
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._gap
        self._sleep(turn - now)

    def _sleep(self, seconds: float) -> None:
        if self._stopped.wait(max(seconds, 0.0)):
            raise EngineError(self._reason)

    def _words(self, text: str) -> str:
        """What the server says, without the key: JSON can write it in many ways."""
        words = _message(text)
        return words.replace(self._key, "[key]") if self._key else words

    def _refuse(self, status: int, text: str, headers: Mapping[str, str]) -> None:
        message = f"HTTP {status}: {self._words(text)}"
        # OpenAI's word for an empty account comes with 429; waiting does not fill it.
        is_empty = status == 402 or "insufficient_quota" in text
        if (status in PASSING or status >= 500) and not is_empty:
            wait = retry_after(headers, datetime.now(UTC))
            if wait > LONGEST_WAIT:
                raise Refused(
                    f"{self.url}: asks to wait {wait:.0f} s ({message}); what is answered is kept: "
                    "start again then",
                    status,
                )
            raise Interrupted(message, wait=wait)
        advice = ""
        if is_empty:
            advice = "; the account is empty: what is answered is kept, start again once it is not"
        elif status in (401, 403) and not self._key:
            advice = "; give the machine file an entry in `endpoints` with this url and a key_env"
        elif status in (401, 403):
            advice = f"; look at the key in ${self._access.key_env}"
        raise Refused(f"{self.url}: {message}{advice}", status)


def _unpacked(response: httpx.Response, data: bytes | bytearray, most: int) -> bytes:
    """A body of at most so many bytes; servers that pack what nobody asked them to mean gzip."""
    packing = response.headers.get("content-encoding", "").strip().lower()
    if packing in ("", "identity"):
        return bytes(data)
    if packing not in ("gzip", "x-gzip", "deflate"):
        raise Interrupted(f"a reply packed as {packing[:SHOWN]!r}", is_lost=True)
    try:
        text = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(data, most + 1)
    except zlib.error as error:
        raise Interrupted(f"a reply that cannot be unpacked: {error}", is_lost=True) from None
    if len(text) > most:
        raise _too_long(most)
    return text


def _too_long(most: int) -> Interrupted:
    return Interrupted(f"a reply of more than {most:,} bytes", is_lost=True)


def retry_after(headers: Mapping[str, str], now: datetime) -> float:
    """Seconds that a Retry-After asks for (RFC 9110, 10.2.3: seconds or a date); 0 without."""
    given = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(given))
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(given)
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return max(0.0, (at - now).total_seconds()) if at.tzinfo else 0.0


def _key(access: EndpointAccess) -> str:
    if access.key_env is None:
        return ""
    key = os.environ.get(access.key_env, "").strip()
    if not key:
        raise EngineError(
            f"{access.url}: its key is to be in the environment variable {access.key_env}, which "
            "is not set"
        )
    if not all("!" <= character <= "~" for character in key):
        # The HTTP library would repeat it in its complaint.
        raise EngineError(
            f"{access.url}: the key in {access.key_env} holds a blank or a character beyond ASCII, "
            "which no header may"
        )
    return key


def _message(text: str) -> str:
    """The server's own words out of an error's body."""
    try:
        body = json.loads(text)
        while isinstance(body, Mapping):
            body = body.get("error") or body.get("message") or body.get("detail") or text
        words = str(body)
    except (ValueError, RecursionError):
        words = text
    return visible(" ".join(words.split())[:SHOWN]) or "no reason given"
