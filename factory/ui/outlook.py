"""The time that a whole build still takes: its estimates, corrected by what has been seen of it."""

import time
from collections.abc import Mapping

LEAST_SHARE = 0.05
"""Of all estimated work, before which what was seen says too little to correct by."""


class TimeLeft:
    """Counts what of the estimated work is done, and how long that took."""

    def __init__(self, expected: Mapping[str, float], wall: float) -> None:
        """`expected` are seconds by stage, `wall` those of the build, whose stages may run side by
        side. Stages that are not named take no time."""
        self._expected = dict(expected)
        self._shares: dict[str, float] = {}
        self._side_by_side = wall / max(1e-9, sum(expected.values()))
        self._began = time.monotonic()

    def progress(self, stage: str, share: float) -> None:
        """So much of a stage is done; it never goes back, as a bar never does."""
        self._shares[stage] = max(self._shares.get(stage, 0.0), min(1.0, share))

    @property
    def total(self) -> float:
        """Estimated seconds of all stages."""
        return sum(self._expected.values())

    @property
    def done(self) -> float:
        """Estimated seconds of what is done."""
        return sum(self._expected.get(name, 0.0) * share for name, share in self._shares.items())

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._began

    @property
    def left(self) -> float | None:
        """Seconds; None where nothing is estimated."""
        if not self._expected:
            return None
        remaining = (self.total - self.done) * self._side_by_side
        if self.done < LEAST_SHARE * self.total:
            return max(remaining - self.elapsed, remaining / 2)
        return remaining * self.elapsed / (self.done * self._side_by_side)
