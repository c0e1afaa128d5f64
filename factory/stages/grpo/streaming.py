"""A rollout without rounds: groups are graded beside generation, and those without a signal are
replaced while the slow ones of the others are still being drawn.

What is drawn is what `dynamic_sampling.fill` draws, only earlier: a spare question is asked as soon
as the groups so far make certain that `fill` asks it. So no group is used because it came early.
"""

from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic

from factory.core.records import SamplingConfig
from factory.sampling.sampler import Completion, OnEnd, Request, nobody
from factory.sampling.streams import Streaming
from factory.stages.grpo.dynamic_sampling import G, least_spare


@dataclass
class _Group:
    requests: Sequence[Request]
    completions: dict[int, Completion] = field(default_factory=dict[int, Completion])


class Groups(Generic[G]):
    """The supply of a rollout: its first questions, and spare ones as it turns out."""

    def __init__(
        self, requests: Callable[[int], Sequence[Request]], *, first: int, spare: int, rounds: int,
        grade: Callable[[int, Sequence[Request], Sequence[Completion]], G],
        has_signal: Callable[[G], bool],
    ) -> None:  # fmt: skip
        """`requests(number)` are those of a group; the spare ones are numbered after the first.

        `grade(number, requests, completions)` makes a group, in a thread beside the engine's.
        """
        self._requests_of, self._grade, self._has_signal = requests, grade, has_signal
        self._first, self._rounds = first, rounds
        self._signals: list[bool | None] = [None] * (first + spare)
        self._groups: list[_Group] = []
        self._waiting: deque[tuple[int, int]] = deque()
        self._numbers: list[tuple[int, int]] = []
        """Group and sample of each request of the stream."""
        self._graded: dict[int, Future[G]] = {}

    def draw(self, sampler: Streaming, sampling: SamplingConfig, on_end: OnEnd = nobody) -> list[G]:
        """Every group that `fill` would draw, in its order, as `grade` gives them."""
        with ThreadPoolExecutor(1) as thread:
            while self._open():
                self._numbers = []
                for number, completion in sampler.stream(self, sampling):
                    at, sample = self._numbers[number]
                    group = self._groups[at]
                    group.completions[sample] = completion
                    on_end()
                    if len(group.completions) == len(group.requests):
                        answers = [group.completions[n] for n in range(len(group.requests))]
                        self._graded[at] = thread.submit(self._grade, at, group.requests, answers)
                for future in self._graded.values():
                    future.result()
        return [self._graded[number].result() for number in range(len(self._groups))]

    def take(self, count: int) -> Sequence[Request]:
        self._open()
        taken = [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]
        self._numbers += taken
        return [self._groups[group].requests[sample] for group, sample in taken]

    def given_up(self) -> Collection[int]:
        return ()

    def _open(self) -> bool:
        """Make requests of the groups that are certain to be needed; whether any waits."""
        for number, future in self._graded.items():
            if self._signals[number] is None and future.done():
                self._signals[number] = self._has_signal(future.result())
        first, spare = self._signals[: self._first], self._signals[self._first :]
        end = self._first + least_spare(first, spare, self._rounds)
        for number in range(len(self._groups), end):
            self._groups.append(_Group(self._requests_of(number)))
            self._waiting += [(number, sample) for sample in range(len(self._groups[-1].requests))]
        return bool(self._waiting)
