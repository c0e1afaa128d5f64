"""How full the engines of a cluster stay: those that get their requests from it, in simulated time,
against the simulator of `plan --cost`. No clock and no load of a machine counts."""

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from factory.core.engines import Cluster
from factory.core.machine import Machine
from factory.core.records import SamplingConfig
from factory.cost.filling import Filling, fill, long_tail
from factory.sampling import Completion, Request, cluster
from factory.sampling.engine import Opened
from factory.sampling.streams import Listed

ROWS = 32
LATE, WAIT = 2, 50
"""Steps of an engine between its answer and its next call; for which a call waits for an answer."""


@dataclass(eq=False)
class Task:
    ready: int
    value: Any


class Actor:
    """An engine of ROWS rows that takes a step in a unit of time."""

    def __init__(self, ray: "Simulated") -> None:
        self._ray = ray
        self._now = self.last = 0
        self._waiting: deque[tuple[int, int]] = deque()
        self._going: list[tuple[int, int]] = []
        self._ended: list[tuple[int, Completion]] = []
        opened = Opened("node", "simulated", (), ROWS)
        self.open = SimpleNamespace(remote=lambda order: Task(0, opened))
        self.exchange = SimpleNamespace(remote=self._exchange)

    def _exchange(
        self, stream: int, requests: Sequence[tuple[int, Request]], given_up: set[int],
        sampling: SamplingConfig, *, seconds: float,
    ) -> Task:  # fmt: skip
        begin = self._ray.now + LATE
        self._step(begin)
        self._waiting += [(number, request.new_tokens(sampling)) for number, request in requests]
        self._step(begin + WAIT * (seconds > 0), is_awaited=True)
        ended, self._ended = self._ended, []
        return Task(max(begin, self._now), (self._now, ended))

    def _step(self, end: int, *, is_awaited: bool = False) -> None:
        while self._now < end and not (is_awaited and self._ended):
            while self._waiting and len(self._going) < ROWS:
                number, length = self._waiting.popleft()
                heapq.heappush(self._going, (self._now + length, number))
            self._now += 1
            while self._going and self._going[0][0] == self._now:
                _, number = heapq.heappop(self._going)
                self._ended.append((number, Completion("", (), (), "stop")))
                self.last = self._now


class Simulated:
    """What `ClusterSampler` needs of Ray, in simulated time."""

    exceptions = SimpleNamespace(RayTaskError=ZeroDivisionError, RayError=ZeroDivisionError)

    def __init__(self) -> None:
        self.now = 0
        self.actors: list[Actor] = []
        self.ray = self

    def remote(self, engine: type) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._actor))

    def _actor(self) -> Actor:
        self.actors.append(Actor(self))
        return self.actors[-1]

    def wait(self, tasks: list[Task], **_: Any) -> tuple[list[Task], list[Task]]:
        first = min(tasks, key=lambda task: task.ready)
        self.now = max(self.now, first.ready)
        return [first], []

    def get(self, task: Task) -> Any:
        return task.value

    def await_room(self, need: dict[str, float]) -> str:
        return ""

    def close(self) -> None:
        pass


def measured(lengths: Sequence[int], engines: int, folder: Path) -> Filling:
    """Of requests with these lengths in a stream on so many engines."""
    simulated = Simulated()
    settings = Cluster(engines=engines)
    machine = Machine(device="cpu", rows=ROWS, drawing="full", cluster=settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "Nodes", lambda settings: simulated)
        sampler = cluster.ClusterSampler(
            folder, machine, settings, max_length=1, mean_length=1, scratch=folder
        )
    requests = [Request((), number, length) for number, length in enumerate(lengths)]
    ended = [number for number, _ in sampler.stream(Listed(requests), SamplingConfig())]
    assert sorted(ended) == [*range(len(lengths))]
    steps = max(actor.last for actor in simulated.actors)
    return Filling(steps, sum(lengths) / (steps * ROWS * engines), 0.0)


@pytest.mark.parametrize("engines", [1, 2, 4, 8])
def test_the_simulated_share_of_busy_rows_is_that_of_engines_that_a_cluster_feeds(
    engines: int, tmp_path: Path
) -> None:
    lengths = long_tail(engines * ROWS * 12, mean=300, limit=1600)
    predicted = fill(lengths, rows=ROWS, engines=engines)
    stream = measured(lengths, engines, tmp_path)
    assert stream.busy == pytest.approx(predicted.busy, abs=0.01)
    assert stream.steps == pytest.approx(predicted.steps, rel=0.01)


def test_few_requests_are_shared_among_engines(tmp_path: Path) -> None:
    """Eight for each of four engines, which have room for all of them."""
    assert measured([100] * 32, 4, tmp_path).steps < 115
