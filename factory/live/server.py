"""The server of the live page: one address, one token; decisions of a review are all it writes.

It listens on the loopback address; over SSH a tunnel leads to it. Foreign pages of the same browser
do not get in: every request names the token, and its Host must be this machine. A decision has the
token in a header, which no foreign page can send, and comes from a page of this very address.
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
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from factory.building.builds import is_running
from factory.core.errors import DataError, EngineError, FactoryError
from factory.live.desk import NAME, Desk
from factory.live.state import Watcher
from factory.live.view import Sections, overview, sections, tree
from factory.report.document import document, lines
from factory.report.html import contents
from factory.report.svg import tag
from factory.text.visible import visible

PORT = 8765
PORTS = 20
"""Ports that are tried, one after the other, where none was named."""
EVERY = 1.0
"""Seconds between two looks at the files, while somebody looks on."""
HEARTBEAT = 15.0
MOST_BUILDS = 300
LARGEST_DECISION = 2 * 2**20
"""Bytes of a decision that a page sends."""
REVIEW = ("review", "Review")
NAMES = ("now", "curves", "rollouts", "stages", "scores", "log", "builds")
TITLES = ("Now", "Curves", "Answers", "Stages", "Scores", "Log", "All builds")
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


Guard = Callable[
    [Callable[[Request], Awaitable[Response]]], Callable[[Request], Awaitable[Response]]
]


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


def application(
    store: Path, *, token: str, recipe: str | None = None, desk: Desk | None = None,
    reviewer: str = "",
) -> Starlette:  # fmt: skip
    """The page and its stream of changed sections; with a desk its review queue too. Whoever has
    no token gets nothing."""
    views = Views(store, recipe)

    def guarded(
        answer: Callable[[Request], Awaitable[Response]],
    ) -> Callable[[Request], Awaitable[Response]]:
        async def checked(request: Request) -> Response:
            given = request.headers.get("X-Token") or request.query_params.get("token", "")
            if not hmac.compare_digest(given.encode(), token.encode()):
                text = "The address that `factory watch` printed has a token; this one has not."
                return PlainTextResponse(text, status_code=403, headers=HEADERS)
            return await answer(request)

        return checked

    async def page(request: Request) -> Response:
        return HTMLResponse(
            live_page(store.absolute().name, reviewer, reviews=desk is not None), headers=HEADERS
        )

    async def changes(request: Request) -> Response:
        chosen = request.query_params.get("build", "")
        return StreamingResponse(
            _changes(views, chosen, request), media_type="text/event-stream", headers=HEADERS
        )

    routes = [Route("/", guarded(page)), Route("/changes", guarded(changes))]
    if desk is not None:
        routes += review_routes(desk, guarded)
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    return Starlette(routes=routes, middleware=[hosts])


def review_routes(desk: Desk, guarded: Guard) -> list[Route]:
    """What waits, to be read; and decisions, which only a page of this server can send."""

    async def waiting(request: Request) -> Response:
        query = request.query_params
        view = partial(
            desk.view,
            reviewer=query.get("reviewer", "")[:NAME],
            viewer=query.get("viewer", "")[:64],
            review_pass=2 if query.get("pass") == "2" else 1,
            after=query.get("after", ""),
        )
        return await _answered(view)

    async def decide(request: Request) -> Response:
        if not _is_ours(request):
            return PlainTextResponse("only for the live page", status_code=403, headers=HEADERS)
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > LARGEST_DECISION:
                return PlainTextResponse("too long", status_code=413, headers=HEADERS)
        return await _answered(lambda: {"said": desk.decide(body)})

    return [
        Route("/queue", guarded(waiting)),
        Route("/decisions", guarded(decide), methods=["POST"]),
    ]


def _is_ours(request: Request) -> bool:
    """Whether a page of this server sends it: the token in a header, JSON, the same origin."""
    headers = request.headers
    origin = headers.get("Origin", "")
    return (
        "X-Token" in headers
        and headers.get("Content-Type", "").partition(";")[0] == "application/json"
        and origin == f"http://{headers.get('Host', '')}"
        and headers.get("Sec-Fetch-Site", "same-origin") == "same-origin"
    )


async def _answered(act: Callable[[], dict[str, Any]]) -> Response:
    """Its answer as JSON, or what is wrong in words."""
    try:
        return JSONResponse(await asyncio.to_thread(act), headers=HEADERS)
    except (FactoryError, OSError) as error:
        status = 422 if isinstance(error, DataError) else 500
        return JSONResponse({"fault": visible(str(error))}, status_code=status, headers=HEADERS)


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


def live_page(store: str, reviewer: str = "", *, reviews: bool = False) -> str:
    """The page without content: its scripts ask for that."""
    status = tag("p", "Connecting ...", class_="dim", id_="link", role="status")
    header = [tag("h1", f"Builds in {store}"), status]
    names = list(zip(NAMES, TITLES, strict=True))
    parts = [tag("section", "", id_=name, hidden="") for name in NAMES]
    if reviews:
        names = [REVIEW, *names]
        parts = [tag("section", "", id_="review", hidden="", data_reviewer=reviewer), *parts]
    body = [
        tag("header", lines(header), class_="top"),
        contents(names, are_hidden=True),
        tag("main", lines(parts)),
    ]
    scripts = ("page.js", "live.js", *(["review.js"] if reviews else []))
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


def run(own: socket.socket, app: Starlette) -> None:
    """Serve until Ctrl-C; the builds go on."""
    import uvicorn

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", server_header=False,
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[own])


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(24)
