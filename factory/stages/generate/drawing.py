"""Which samples of which problems a trace run draws next, and when a problem has enough of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from factory.core.records import Problem, Record, Trace


class Retry(Record):
    """Draws a completion that was cut at its limit once more, under a higher one.

    With the same seed: as if the sample had had that limit from the start, so long texts are not
    rarer among the traces than the model writes them.
    """

    retry: int = Field(ge=1, le=10**7)
    """New tokens of the second time."""


LengthStops = Literal["keep", "drop"] | Retry
"""What becomes of traces that were cut at `max_new_tokens`."""


@dataclass(frozen=True)
class Draw:
    """One completion to draw."""

    index: int
    """Of its problem among all that are asked."""
    problem: Problem
    sample: int
    max_new_tokens: int


@dataclass
class _Open:
    """A problem that may still need samples."""

    index: int
    problem: Problem
    requested: int = 0
    settled: int = 0
    """Samples whose last trace is there; less than `requested` while one waits for another try."""
    kept: int = 0
    verified: int = 0


class Line:
    """Problems as they wait for samples, each retired as soon as it has enough of them.

    What is drawn next depends on the traces so far and on the size of a block, on nothing else: a
    run that goes on after a kill asks for the same blocks. In memory are the problems of a block
    and those with a trace that waits to be drawn again, never more than three blocks of them.

    Counts: problems `retired`, those of them `answered` (a trace was kept), `solved` (a verified
    one) and `hopeless`; samples `retried` and `dropped`.
    """

    def __init__(
        self, problems: Iterator[Problem], *, samples: int, max_new_tokens: int,
        enough: int | None = None, hopeless_after: int | None = None,
        length_stops: LengthStops = "keep",
    ) -> None:  # fmt: skip
        self._new = enumerate(problems)
        self._samples = samples
        self._limit = max_new_tokens
        self._enough = enough
        self._hopeless_after = hopeless_after or samples
        self._length_stops = length_stops
        self._open: dict[int, _Open] = {}
        self._again: list[Draw] = []
        self.retired = self.answered = self.solved = self.hopeless = 0
        self.retried = self.dropped = 0

    @property
    def settled(self) -> int:
        """Samples that are drawn for good or that nobody needs any more."""
        return self.retired * self._samples + sum(entry.settled for entry in self._open.values())

    def next(self, size: int) -> list[Draw]:
        """The next block, at most `size` completions of one length limit; empty at the end.

        Every problem gets as many as it needs if all of them turn out right. Where no more
        problems come, places that would stay empty go to further samples of those still open: a
        step of an engine takes the same time with them.
        """
        if len(self._again) >= size:
            return self._take_again(size)
        draws: list[Draw] = []
        for entry in self._in_order():
            draws += self._draws(entry, min(self._needed(entry), size - len(draws)))
            if len(draws) == size:
                return draws
        for entry in self._open.values():
            draws += self._draws(entry, size - len(draws))
        return draws or self._take_again(size)

    def add(self, draw: Draw, trace: Trace) -> bool:
        """Take note of a trace; whether it is one of those that are kept."""
        entry = self._open[draw.index]
        is_cut = trace.finish_reason == "length"
        if is_cut and isinstance(self._length_stops, Retry) and draw.max_new_tokens == self._limit:
            again = self._length_stops.retry
            self._again.append(Draw(draw.index, draw.problem, draw.sample, again))
            self.retried += 1
            return False
        is_kept = not (is_cut and self._length_stops == "drop")
        entry.settled += 1
        entry.kept += is_kept
        entry.verified += is_kept and trace.verdict.is_correct
        self.dropped += not is_kept
        if entry.settled == entry.requested and self._needed(entry) == 0:
            self._retire(entry)
        return is_kept

    def _in_order(self) -> Iterator[_Open]:
        """Open problems, then new ones."""
        yield from list(self._open.values())
        for index, problem in self._new:
            self._open[index] = entry = _Open(index, problem)
            yield entry

    def _needed(self, entry: _Open) -> int:
        left = self._most(entry) - entry.requested
        if self._enough is None:
            return left
        hoped_for = entry.verified + entry.requested - entry.settled
        return max(0, min(left, self._enough - hoped_for))

    def _most(self, entry: _Open) -> int:
        """How many samples of a problem may be asked for, by what has come of it."""
        return self._samples if entry.verified else self._hopeless_after

    def _draws(self, entry: _Open, count: int) -> list[Draw]:
        first = entry.requested
        entry.requested = max(first, min(self._most(entry), first + count))
        return [
            Draw(entry.index, entry.problem, sample, self._limit)
            for sample in range(first, entry.requested)
        ]

    def _take_again(self, size: int) -> list[Draw]:
        taken, self._again = self._again[:size], self._again[size:]
        return taken

    def _retire(self, entry: _Open) -> None:
        del self._open[entry.index]
        self.retired += 1
        self.answered += entry.kept > 0
        self.solved += entry.verified > 0
        self.hopeless += not entry.verified and entry.requested < self._samples
