"""The server of the live page: one address, one token, reading only.

It listens on the loopback address; over SSH a tunnel leads to it. Foreign pages of the same browser
do not get in: every request names the token, and its Host must be this machine.
"""

import asyncio
import errno
import hashlib
import hmac
import json
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from threading import Lock

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from factory.builds import is_running
from factory.errors import EngineError
from factory.live.state import Watcher
from factory.live.view import Sections, overview, sections, tree
from factory.report.document import document, lines
from factory.report.html import contents
from factory.report.svg import tag

PORT = 8765
PORTS = 20
"""Ports that are tried, one after the other, where none was named."""
EVERY = 1.0
"""Seconds between two looks at the files, while somebody looks on."""
HEARTBEAT = 15.0
MOST_BUILDS = 300
NAMES = ("now", "curves", "rollouts", "stages", "scores", "log", "builds")
TITLES = ("Now", "Curves", "Answers", "Stages", "Scores", "Log", "All builds")
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Views:
    """What the page shows of each build: made once for all who look on, at most once a second."""

    def __init__(self, store: Path, recipe: str | None) -> None:
        self._watcher = Watcher(store)
        self._recipe = recipe
        self._lock = Lock()
        self._made: dict[str, tuple[float, dict[str, str]]] = {}

    def of(self, chosen: str) -> dict[str, str]:
        """By section its tree as JSON; of the newest build where none is chosen."""
        with self._lock:
            at, made = self._made.get(chosen, (-EVERY, {}))
            if time.monotonic() - at >= 0.9 * EVERY:
                made = self._look(chosen)
                self._made = {chosen: (time.monotonic(), made)} | {
                    name: view for name, view in self._made.items() if name != chosen
                }
                while len(self._made) > 8:
                    self._made.popitem()
            return made

    def _look(self, chosen: str) -> dict[str, str]:
        builds = self._watcher.builds()
        if self._recipe is not None:
            builds = {name: build for name, build in builds.items() if build.recipe == self._recipe}
        builds = dict(list(builds.items())[:MOST_BUILDS])
        running = [name for name in builds if is_running(self._watcher.store, name)]
        shown = chosen if chosen in builds else next(iter([*running, *builds]), "")
        made: Sections = {}
        if shown:
            made = sections(self._watcher, self._watcher.state(shown, builds[shown]))
        made["builds"] = overview(builds, running, shown)
        return {
            name: json.dumps(tree(name, section), ensure_ascii=True)
            for name, section in made.items()
        }


def application(store: Path, *, token: str, recipe: str | None = None) -> Starlette:
    """The page and its stream of changed sections. Whoever has no token gets nothing."""
    views = Views(store, recipe)

    def guarded(
        answer: Callable[[Request], Awaitable[Response]],
    ) -> Callable[[Request], Awaitable[Response]]:
        async def checked(request: Request) -> Response:
            given = request.query_params.get("token", "")
            if not hmac.compare_digest(given.encode(), token.encode()):
                text = "The address that `factory watch` printed has a token; this one has not."
                return PlainTextResponse(text, status_code=403, headers=HEADERS)
            return await answer(request)

        return checked

    async def page(request: Request) -> Response:
        return HTMLResponse(live_page(store.absolute().name), headers=HEADERS)

    async def changes(request: Request) -> Response:
        chosen = request.query_params.get("build", "")
        return StreamingResponse(
            _changes(views, chosen, request), media_type="text/event-stream", headers=HEADERS
        )

    routes = [Route("/", guarded(page)), Route("/changes", guarded(changes))]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    return Starlette(routes=routes, middleware=[hosts])


async def _changes(views: Views, chosen: str, request: Request) -> AsyncIterator[str]:
    """Sections as they change, and those that went."""
    sent: dict[str, bytes] = {}
    quiet = time.monotonic()
    while not await request.is_disconnected():
        made = await asyncio.to_thread(views.of, chosen)
        new = {name: hashlib.sha256(text.encode()).digest() for name, text in made.items()}
        for name in NAMES:
            if new.get(name) != sent.get(name):
                yield f"event: section\ndata: {json.dumps(name)} {made.get(name, 'null')}\n\n"
                quiet = time.monotonic()
        sent = new
        if time.monotonic() - quiet > HEARTBEAT:
            yield ": still here\n\n"
            quiet = time.monotonic()
        await asyncio.sleep(EVERY)


def live_page(store: str) -> str:
    """The page without content: its script asks for that."""
    status = tag("p", "Connecting ...", class_="dim", id_="link", role="status")
    header = [tag("h1", f"Builds in {store}"), status]
    names = list(zip(NAMES, TITLES, strict=True))
    body = [
        tag("header", lines(header), class_="top"),
        contents(names, are_hidden=True),
        tag("main", lines(tag("section", "", id_=name, hidden="") for name in NAMES)),
    ]
    scripts = ("page.js", "live.js")
    return document(f"{store} · live", body, scripts=scripts, connects=True)


def listen(port: int | None) -> socket.socket:
    """A socket on the loopback address: that port, or the first free one from PORT on.

    EngineError where it is taken.
    """
    ports = range(PORT, PORT + PORTS) if port is None else (port,)
    for number in ports:
        own = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            own.bind(("127.0.0.1", number))
            return own
        except (OSError, OverflowError) as error:
            own.close()
            if not isinstance(error, OSError) or error.errno not in (
                errno.EADDRINUSE,
                errno.EACCES,
            ):
                raise EngineError(f"--port {number}: cannot be listened on: {error}") from error
    taken = f"--port {port}" if port is not None else f"ports {PORT} to {PORT + PORTS - 1}"
    raise EngineError(f"{taken}: taken by another program; give --port, 0 takes any free one")


def run(store: Path, own: socket.socket, *, token: str, recipe: str | None) -> None:
    """Serve until Ctrl-C; the builds go on."""
    import uvicorn

    app = application(store, token=token, recipe=recipe)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", server_header=False,
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[own])


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(24)
