"""The live page's server beside a test."""

import threading

import chromium
import uvicorn
from starlette.applications import Starlette

from factory.live.server import listen

TOKEN = "only-for-this-test"


class Server:
    """The live page in a thread of the tests."""

    def __init__(self, app: Starlette) -> None:
        self.socket = listen(0)
        self.port = self.socket.getsockname()[1]
        config = uvicorn.Config(
            app, log_level="error", lifespan="off", timeout_graceful_shutdown=1
        )  # fmt: skip
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],))
        self.thread.start()
        self.address = f"http://127.0.0.1:{self.port}/?token={TOKEN}"

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()
        self.socket.close()


def open_page(
    tab: chromium.Page, server: Server, *, ready: str, width: int = 1280, dark: bool = False
) -> None:
    """Show the server's page in a tab, until there is an element of the selector `ready`."""
    tab.look_like(width=width, dark=dark)
    tab.send("Page.navigate", url=server.address)
    tab.wait_for(f"document.querySelector({ready!r}) !== null")
