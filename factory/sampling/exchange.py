"""A stream that is fed from call to call: what an engine on a node holds of it."""

from collections import deque
from collections.abc import Collection, Sequence
from queue import Empty, SimpleQueue
from threading import Condition, Thread

from factory.core.records import SamplingConfig
from factory.sampling.sampler import Completion, Request, Sampler
from factory.sampling.streams import stream


class Exchange:
    """The supply of an engine that draws in a thread of its own, so that it waits for no call.

    Callers number requests as they like, the engine those that it takes from 0.
    """

    def __init__(self, sampler: Sampler, sampling: SamplingConfig, *, block: int) -> None:
        self._changed = Condition()
        self._waiting: deque[tuple[int, Request]] = deque()
        self._taken: list[int] = []
        """The caller's number of each request that the engine has taken."""
        self._going: dict[int, int] = {}
        """The engine's number of those that have not ended, by the caller's."""
        self._given_up: set[int] = set()
        self._steps = 0
        self._is_over = False
        self._answers: SimpleQueue[tuple[int, Completion] | Exception] = SimpleQueue()
        self._thread = Thread(target=self._run, args=(sampler, sampling, block), daemon=True)
        self._thread.start()

    def call(
        self, requests: Sequence[tuple[int, Request]], given_up: Collection[int], *, seconds: float
    ) -> tuple[int, list[tuple[int, Completion]]]:
        """(how often the engine has asked, completions that have ended since the last call).

        Takes further requests, each with its number, and numbers of earlier ones that nobody waits
        for any more; waits so long for the first completion. What the engine raises is raised here.
        """
        with self._changed:
            gone = {*given_up}
            kept = [entry for entry in self._waiting if entry[0] not in gone]
            self._waiting = deque([*kept, *requests])
            self._given_up |= gone
            self._changed.notify()
        answers: list[tuple[int, Completion]] = []
        try:
            while True:
                answer = self._answers.get(timeout=0 if answers else seconds)
                if isinstance(answer, Exception):
                    raise answer
                answers.append(answer)
        except Empty:
            return self._steps, answers

    def end(self) -> None:
        """Let the engine drop all that it draws; returns when it has."""
        with self._changed:
            self._is_over = True
            self._changed.notify()
        self._thread.join()

    def take(self, count: int) -> Sequence[Request]:
        with self._changed:
            self._steps += 1
            size = 0 if self._is_over else min(count, len(self._waiting))
            taken = [self._waiting.popleft() for _ in range(size)]
            for number, _ in taken:
                self._going[number] = len(self._taken)
                self._taken.append(number)
        return [request for _, request in taken]

    def given_up(self) -> Collection[int]:
        with self._changed:
            self._steps += 1
            gone, self._given_up = self._given_up, set()
            numbers = [*self._going] if self._is_over else gone & self._going.keys()
            return [self._going.pop(number) for number in numbers]

    def _run(self, sampler: Sampler, sampling: SamplingConfig, block: int) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._is_over or self._waiting)
                    if self._is_over:
                        return
                    self._taken, self._going = [], {}
                for number, completion in stream(sampler, self, sampling, block=block):
                    with self._changed:
                        if self._going.pop(self._taken[number], None) is not None:
                            self._answers.put((self._taken[number], completion))
        except Exception as error:  # of whatever kind: it belongs to whoever calls
            self._answers.put(error)
