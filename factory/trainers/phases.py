"""Where a training step's seconds go."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

DRAWING = 0.5
"""Of a training step, what drawing its completions counts for in the display."""


class PhaseClock:
    """Seconds in each named phase; a phase inside another is not counted in the outer one."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._seconds: dict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._mark = self._taken = now()

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Charge the time in this block to `phase`."""
        self._charge()
        self._running.append(phase)
        try:
            yield
        finally:
            self._charge()
            self._running.pop()

    def take(self) -> dict[str, float]:
        """Seconds by phase since the last call, and `step`: all seconds since then."""
        self._charge()
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        now = self._now()
        seconds["step"], self._taken = now - self._taken, now
        return seconds

    def _charge(self) -> None:
        now = self._now()
        if self._running:
            self._seconds[self._running[-1]] += now - self._mark
        self._mark = now
