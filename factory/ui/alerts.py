"""Alerts of a build: a web address or a command hears of alarms, failures, spending and the end.

FACTORY_ALERT is an http(s) address, which gets a POST of JSON, or a command, which gets the JSON on
its standard input. It is taken from the environment: a recipe can name neither, and such an address
is often a secret, which must not stand in a store or a log.
"""

import json
import os
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from factory.building.builds import is_alarm
from factory.building.pipeline import Observer
from factory.building.plan import Step
from factory.core.artifacts import Artifact
from factory.core.errors import RecipeError
from factory.core.files import note
from factory.text.visible import visible

TARGET = "FACTORY_ALERT"
SPEND = "FACTORY_ALERT_SPEND"
SECONDS = 20.0
"""That a delivery may take; the build goes on meanwhile."""
LONGEST = 2000
"""Characters of a text: it may be a model's."""


class Alerting:
    """A display that also tells whoever is to be alerted."""

    def __init__(
        self, display: Observer, recipe: str, price: float | None, *,
        target: str, spend: float | None, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._display = display
        self._recipe = recipe
        self._price = price
        self._target = target
        self._spend = spend
        self._clock = clock
        self._began = clock()
        self._threads: list[threading.Thread] = []

    def reused(self, step: Step, artifact: Artifact) -> None:
        self._display.reused(step, artifact)

    def started(self, step: Step, folder: Path) -> None:
        self._display.started(step, folder)

    def event(self, step: Step, event: Mapping[str, Any]) -> None:
        self._display.event(step, event)
        if event["event"] == "note" and is_alarm(str(event["text"])):
            self.tell("alarm", str(event["text"]), stage=step.name)
        self._count()

    def made(self, step: Step, artifact: Artifact) -> None:
        self._display.made(step, artifact)
        self._count()

    def waiting(self, step: Step, holder: str) -> None:
        self._display.waiting(step, holder)

    def _count(self) -> None:
        """Tell once that the money that was named is spent."""
        if self._spend is None or self._price is None:
            return
        spent = self._price * (self._clock() - self._began) / 3600
        if spent >= self._spend:
            self._spend = None
            self.tell("spent", f"{spent:,.2f} spent; the build goes on")

    def tell(self, event: str, text: str, *, stage: str | None = None) -> None:
        """Deliver in a thread of its own: neither a slow nor a dead receiver holds the build up."""
        fields = {"schema": 1, "event": event, "recipe": self._recipe, "stage": stage}
        message = json.dumps({**fields, "text": visible(text)[:LONGEST]}) + "\n"
        thread = threading.Thread(target=_deliver, args=(self._target, message), daemon=True)
        thread.start()
        self._threads.append(thread)

    def wait(self) -> None:
        """Until what was told is delivered or given up."""
        for thread in self._threads:
            thread.join(SECONDS)


@contextmanager
def alerting(display: Observer, recipe: str, price: float | None) -> Iterator[Observer]:
    """The display itself, or one that alerts too: also of how the block ended."""
    target = os.environ.get(TARGET, "").strip()
    if not target:
        yield display
        return
    if not target.startswith(("http://", "https://")):
        _command(target)
    observer = Alerting(display, recipe, price, target=target, spend=_limit())
    try:
        yield observer
    except KeyboardInterrupt:
        observer.tell("stopped", "the build was stopped")
        raise
    except Exception as error:
        observer.tell("failed", str(error))
        raise
    else:
        observer.tell("finished", "every stage is made")
    finally:
        observer.wait()


def _limit() -> float | None:
    text = os.environ.get(SPEND, "").strip()
    try:
        limit = float(text) if text else None
    except ValueError:
        limit = -1.0
    if limit is not None and not 0 < limit < float("inf"):
        raise RecipeError(f"{SPEND}: found {text!r}, an amount above 0 is needed, or nothing")
    return limit


def _command(target: str) -> list[str]:
    try:
        words = shlex.split(target)
    except ValueError as error:
        raise RecipeError(f"{TARGET}: cannot be read as a command: {error}") from error
    return words


def _deliver(target: str, message: str) -> None:
    """What goes wrong is noted without the address, and stops nothing."""
    import httpx

    try:
        if target.startswith(("http://", "https://")):
            headers = {"Content-Type": "application/json"}
            with httpx.stream(
                "POST", target, content=message, headers=headers, timeout=SECONDS
            ) as answer:  # whose text nobody reads, however long it is
                if not answer.is_success:
                    note(f"{TARGET}: the alert was refused with status {answer.status_code}")
            return
        done = subprocess.run(
            _command(target), input=message.encode(), timeout=SECONDS, check=False,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode != 0:
            note(f"{TARGET}: the command ended with status {done.returncode}")
    except (httpx.HTTPError, httpx.InvalidURL, OSError, subprocess.TimeoutExpired) as error:
        note(f"{TARGET}: the alert was not delivered: {type(error).__name__}")
