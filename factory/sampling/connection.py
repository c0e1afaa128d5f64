"""HTTP to a served model: one request at a time, at a measured pace, and what its faults mean.

httpx, which huggingface-hub brings along, and not the `openai` package, which only vLLM does: what
is needed of it is two POSTs, and retries must go through the rate and spend limits.
"""

import json
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Event, Lock
from typing import Any

import httpx

from factory.errors import EngineError
from factory.machine import EndpointAccess
from factory.visible import visible

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
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(access.timeout, connect=30.0, pool=None),
            limits=httpx.Limits(max_connections=access.concurrency),
        )
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
        is read no further than `most_bytes`, and no longer than four times the timeout.
        """
        self._take_turn()
        try:
            with self._client.stream(method, f"{self.url}{path}", json=body) as response:
                data = self._read(response, most_bytes)
        except httpx.RequestError as error:
            never_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            reason = f"{type(error).__name__}: {error}".removesuffix(": ")
            raise Interrupted(reason, is_lost=not never_sent) from None
        text = data.decode(response.encoding or "utf-8", "replace")
        text = text.replace(self._key, "[key]") if self._key else text
        if not response.is_success:
            self._refuse(response.status_code, text, response.headers)
        try:
            reply = json.loads(text)
        except (ValueError, RecursionError):
            raise Interrupted(f"no JSON: {text[:SHOWN]!r}", is_lost=True) from None
        # Some gateways report a failure behind them with status 200.
        if isinstance(reply, Mapping) and reply.get("error"):
            raise Interrupted(_message(text))
        return reply

    def _read(self, response: httpx.Response, most_bytes: int) -> bytes:
        data, ends = bytearray(), time.monotonic() + 4 * self._access.timeout
        for part in response.iter_bytes():
            data += part
            if len(data) > most_bytes:
                raise Interrupted(f"a reply of more than {most_bytes:,} bytes", is_lost=True)
            if time.monotonic() > ends:
                raise Interrupted("a reply that does not end", is_lost=True)
        return bytes(data)

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
        self._client.close()

    def _take_turn(self) -> None:
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._gap
        self._sleep(turn - now)

    def _sleep(self, seconds: float) -> None:
        if self._stopped.wait(max(seconds, 0.0)):
            raise EngineError(self._reason)

    def _refuse(self, status: int, text: str, headers: Mapping[str, str]) -> None:
        message = f"HTTP {status}: {_message(text)}"
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
