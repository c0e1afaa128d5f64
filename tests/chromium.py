"""A page in headless Chromium, driven through DevTools over two pipes: no network, no driver."""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

PROGRAM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
    "--disable-sync", "--disable-background-networking", "--disable-component-update",
    "--disable-dev-shm-usage",
)  # fmt: skip
WAIT = 60.0
"""Seconds until an answer of the browser is given up; a loaded machine is slow."""


class Page:
    """One tab. Lives as long as its browser process; `told` gathers what the page had to say."""

    def __init__(self, profile: Path) -> None:
        to_browser, from_us = os.pipe()
        from_browser, to_us = os.pipe()
        # Chromium reads commands from descriptor 3 and writes answers to descriptor 4.
        command = f'exec "$@" 3<&{to_browser} 4>&{to_us}'
        self._process = subprocess.Popen(
            ["bash", "-c", command, "-", str(PROGRAM), *FLAGS, f"--user-data-dir={profile}",
             "--remote-debugging-pipe", "about:blank"],
            pass_fds=(to_browser, to_us), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(profile)},
        )  # fmt: skip
        os.close(to_browser)
        os.close(to_us)
        self._out, self._in = from_us, from_browser
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self.messages: list[str] = []
        """Console messages, exceptions and refusals of the content policy."""
        self.requests: list[str] = []
        """Addresses that were asked for."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send("Performance.enable", timeDomain="threadTicks")

    def close(self) -> None:
        os.close(self._out)
        os.close(self._in)
        self._process.kill()
        self._process.wait()

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """The browser's answer to one command; AssertionError where it refuses."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer}"
                return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], WAIT)
            assert ready, "the browser is silent"
            piece = os.read(self._in, 1 << 20)
            assert piece, "the browser is gone"
            self._rest += piece
        raw, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(raw)
        params = message.get("params", {})
        if message.get("method") == "Runtime.consoleAPICalled":
            self.messages += [
                str(item.get("value", item.get("description"))) for item in params["args"]
            ]
        elif message.get("method") == "Runtime.exceptionThrown":
            self.messages.append(str(params["exceptionDetails"]))
        elif message.get("method") == "Log.entryAdded":
            self.messages.append(params["entry"]["text"])
        elif message.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        return message

    def run(self, script: str) -> Any:
        """The value of a script's last expression, promises awaited."""
        done = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def wait_for(self, script: str) -> None:
        """Until a script gives something true."""
        until = time.monotonic() + WAIT
        while not self.run(script):
            assert time.monotonic() < until, f"never true: {script}"
            time.sleep(0.02)

    def open(self, path: Path, *, ready: str = "true") -> None:
        """Load a file and wait until it is complete, and `ready` is true."""
        # By way of an empty page: else `ready` may still be asked of the page before.
        for address, last in (("about:blank", "true"), (path.as_uri(), ready)):
            self.send("Page.navigate", url=address)
            here = f"location.href === {json.dumps(address)}"
            self.wait_for(f"{here} && document.readyState === 'complete' && {last}")

    def click(self, selector: str) -> None:
        """A click of the mouse on the middle of the first such element."""
        position = self.run(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)});"
            " one.scrollIntoView({block: 'center', behavior: 'instant'});"
            " const box = one.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send(
                "Input.dispatchMouseEvent", type=kind, x=position[0], y=position[1], button="left",
                clickCount=1,
            )  # fmt: skip

    def press(self, key: str, *, control: bool = False) -> None:
        """One key, down and up."""
        held = 2 if control else 0
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, modifiers=held)

    def write(self, text: str) -> None:
        """Put text where the cursor is, in place of what is selected."""
        self.send("Input.insertText", text=text)

    def choose(self, selector: str, label: str) -> None:
        """Choose an option of a select by its label, as a person does."""
        self.run(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)});"
            f" const wanted = [...one.options].find(o => o.label === {json.dumps(label)});"
            " one.value = wanted.value;"
            " one.dispatchEvent(new Event('change', {bubbles: true})); })()"
        )

    def texts(self, selector: str) -> list[str]:
        """The visible text of every such element."""
        return self.run(
            f"[...document.querySelectorAll({json.dumps(selector)})].map(one => one.innerText)"
        )

    def thread_seconds(self) -> float:
        """Seconds of processor time that the page's main thread has used: the load of a machine
        does not change it much."""
        metrics = self.send("Performance.getMetrics")["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "ThreadTime")

    def look_like(self, *, width: int, dark: bool = False, media: str = "") -> None:
        """Another width, colour scheme or medium (print)."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", media=media, features=scheme)
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1,
            mobile=width < 500,
        )  # fmt: skip

    def accessibility_faults(self) -> list[str]:
        """What axe-core calls serious or critical: rule and element of each."""
        script = files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
        self.run(f"{script}; true")
        path = self.run(
            "axe.run(document, {resultTypes: ['violations']}).then(done => done.violations"
            ".filter(one => ['serious', 'critical'].includes(one.impact))"
            ".flatMap(one => one.nodes.map(node => one.id + ': ' + node.target.join(' ') + ': '"
            " + node.failureSummary.split('\\n').slice(1, 2).join(' '))))"
        )
        return list(path)

    def shoot(self, target: Path, selector: str = "body") -> None:
        """A picture of one element, to be looked at."""
        box = self.run(
            f"(() => {{ const box = document.querySelector({json.dumps(selector)})"
            ".getBoundingClientRect();"
            " return [box.x + scrollX, box.y + scrollY, box.width, box.height]; })()"
        )
        clip = dict(zip(("x", "y", "width", "height"), box, strict=True), scale=1)
        shot = self.send("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        target.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def page(profile: Path) -> Iterator[Page]:
    """A tab of a browser of its own."""
    opened = Page(profile)
    try:
        yield opened
    finally:
        opened.close()
