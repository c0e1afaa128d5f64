"""Engines on many nodes behind the Sampler protocol, by Ray.

A call is cut into the blocks that an engine in this process would be given one after the other.
Each engine draws one block at a time; this process hands them out, collects them and keeps them. A
block whose engine has died, has raised or is late goes to another one. So completions do not
depend on who drew them, as far as the nodes compute alike: an engine gets the same requests, with
their own seeds, in one call. A stream hands out single requests instead, a few at a time: each
engine has as many as it draws at once and a few that wait there, and what one that fails had goes
to others.

Ray Data would cut, order and retry by itself, but its stages have no place for what is asked next
when it depends on what has come (`enough`, `retry`), nor for a block on disk before the call ends.
"""

import textwrap
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from factory.core.context import Metrics
from factory.core.engines import Cluster
from factory.core.errors import EngineError, FactoryError
from factory.core.machine import Machine
from factory.core.records import SamplingConfig
from factory.sampling.engine import Engine, Opened, Order, file_sizes, versions
from factory.sampling.kept import Kept
from factory.sampling.nodes import Nodes
from factory.sampling.sampler import Completion, OnEnd, Request, nobody
from factory.sampling.streams import Supply

LOOK_SECONDS = 1.0
"""Between two looks at the clock while nothing comes."""
BLOCK_SECONDS = 600.0
"""The deadline of a block where none is stated; later SLOWEST times what the slowest one took, if
that is more."""
SLOWEST = 4.0
LOTS = 16
"""Parts in which the rows of an engine are filled, by turns; one part more waits there."""


@dataclass
class _Slot:
    """One of the engines that the machine file asks for; after a fault another process fills it."""

    number: int
    actor: Any = None
    task: Any = None
    """What is awaited of it: that it opens, or answers. None while it has nothing to do."""
    given: set[int] = field(default_factory=set[int])
    """The block that it draws, or requests of a stream, by number."""
    given_up: set[int] = field(default_factory=set[int])
    """Requests of a stream that it has and nobody waits for."""
    since: float = 0.0
    """When it was given its task, or last went on with it."""
    steps: int = 0
    """How far its engine was then."""
    opened: Opened | None = None
    done: int = 0
    """Blocks or requests, of all processes that have filled the slot."""
    faults: int = 0
    """How often it raised or was late."""
    is_dropped: bool = False

    @property
    def label(self) -> str:
        return f"engine {self.number}" + (f" on node {self.opened.node}" if self.opened else "")

    @property
    def is_idle(self) -> bool:
        return self.task is None and not self.is_dropped


class ClusterSampler:
    """Hands blocks to engines on a cluster; a block is on disk as soon as it is there. What streams
    gets single requests, whose completions whoever asked puts on disk."""

    name = "cluster"

    def __init__(
        self,
        model: Path,
        machine: Machine,
        settings: Cluster,
        *,
        max_length: int,
        mean_length: int,
        scratch: Path,
        notify: Callable[[str], None] | None = None,
        figures: Metrics | None = None,
    ) -> None:
        self._settings = settings
        self._block = machine.block
        self.rows = machine.requests_at_once
        self._unit = "request" if machine.draws_full else "block"
        self._streams = 0
        self._notify = notify
        self._figures = figures
        self._kept = Kept(scratch, "cluster-blocks")
        self._restarts = 0
        self._tries: Counter[int] = Counter()
        self._slowest = 0.0
        self._reasons: list[str] = []
        self._notes: set[str] = set()
        self._nodes = Nodes(settings)
        self._ray = self._nodes.ray
        model = model.absolute()
        own = {"cluster": None, "threads": settings.cores, "endpoints": ()}
        try:
            self._on_gpu = machine.device == "cuda" or (
                machine.device == "auto" and self._nodes.has_gpus()
            )
            self._need: dict[str, float] = {"CPU": settings.cores}
            if self._on_gpu:
                self._need["GPU"] = machine.tensor_parallel
            gap = self._nodes.await_room(self._need)
            if gap:
                self._tell(gap)
            self._order = Order(
                model,
                file_sizes(model),
                machine.model_copy(update={**own, "device": "cuda" if self._on_gpu else "cpu"}),
                max_length,
                mean_length,
                versions(),
            )
            self._slots = [_Slot(number) for number in range(1, (settings.engines or 1) + 1)]
            for slot in self._slots:
                self._start(slot)
        except BaseException:
            self._nodes.close()
            raise

    def sample(
        self, requests: Sequence[Request], sampling: SamplingConfig, on_end: OnEnd = nobody
    ) -> list[Completion]:
        size = self._block
        blocks = [requests[start : start + size] for start in range(0, len(requests), size)]
        order = [[list(r.prompt_ids), r.seed, *filter(None, [r.limit])] for r in requests]
        completions = self._kept.begin([order, sampling.model_dump(mode="json"), size])
        rows = [
            range(number * size, number * size + len(block)) for number, block in enumerate(blocks)
        ]
        waiting = deque(
            number for number, own in enumerate(rows) if not all(row in completions for row in own)
        )
        left = len(waiting)
        self._tries.clear()
        while left:
            self._hand_out(blocks, waiting, sampling)
            for slot in self._answering(waiting):
                fresh = self._answer(slot, waiting)
                if fresh is None:
                    continue
                self._slowest = max(self._slowest, time.monotonic() - slot.since)
                slot.done += 1
                answers = dict(zip(rows[slot.given.pop()], fresh, strict=True))
                self._kept.add(answers)
                completions |= answers
                for _ in answers:
                    on_end()
                left -= 1
        return [completions[row] for row in range(len(requests))]

    def stream(self, supply: Supply, sampling: SamplingConfig) -> Iterator[tuple[int, Completion]]:
        self._streams += 1
        self._tries.clear()
        for slot in self._slots:
            slot.given, slot.given_up = set(), set()  # of a stream that was left
        going: dict[int, Request] = {}
        lost = deque[int]()
        numbers = count()
        while True:
            given_up = {*supply.given_up()} & going.keys()
            lost = deque(number for number in lost if number not in given_up)
            for slot in self._slots:
                slot.given_up |= slot.given & given_up
                slot.given -= given_up
            for number in given_up:
                del going[number]
            is_open = any(slot.opened and slot.is_idle for slot in self._slots)
            self._feed(supply, going, lost, numbers, sampling)
            if is_open and not going:
                return
            for slot in self._answering(lost):
                for number, completion in self._ended(slot, lost):
                    slot.given.remove(number)
                    slot.done += 1
                    del going[number]
                    yield number, completion

    def load_weights(self, weights: Iterable[tuple[str, Any]]) -> None:
        raise EngineError("engines on a cluster take no weights")

    def close(self) -> None:
        nodes = Counter(slot.opened.node for slot in self._slots if slot.opened)
        counts, units = [slot.done for slot in self._slots], f"{self._unit}s"
        engines = "; ".join(f"{slot.label}: {slot.done} {units}" for slot in self._slots)
        self._tell(f"nodes: {len(nodes)}; restarts: {self._restarts}; {engines}")
        if self._figures is not None:
            self._figures |= {
                "cluster_engines": float(len(self._slots)),
                "cluster_nodes": float(len(nodes)),
                "cluster_restarts": float(self._restarts),
                f"cluster_fewest_{units}": float(min(counts)),
                f"cluster_most_{units}": float(max(counts)),
            }
        self._nodes.close()

    def _start(self, slot: _Slot) -> None:
        """Fill a slot with a new process, on the node with the fewest; it waits for room."""
        slot.actor = (
            self._ray.remote(Engine)
            .options(
                num_cpus=self._need["CPU"],
                num_gpus=self._need.get("GPU", 0),
                scheduling_strategy="SPREAD",
                # What becomes of a dead engine's work is decided here, not by Ray.
                max_restarts=0,
            )
            .remote()
        )
        slot.opened, slot.given, slot.given_up = None, set(), set()
        slot.since = self._started = time.monotonic()
        slot.task = slot.actor.open.remote(self._order)

    def _hand_out(
        self, blocks: Sequence[Sequence[Request]], waiting: deque[int], sampling: SamplingConfig
    ) -> None:
        for slot in self._slots:
            if waiting and slot.is_idle:
                number = waiting.popleft()
                slot.given, slot.since = {number}, time.monotonic()
                slot.task = slot.actor.sample.remote(blocks[number], sampling)

    def _feed(
        self, supply: Supply, going: dict[int, Request], lost: deque[int],
        numbers: Iterator[int], sampling: SamplingConfig,
    ) -> None:  # fmt: skip
        """Give each engine that waits for a call a part of what it lacks, and call it.

        A stream may so end before the first engine is full, with all of them at work.
        """
        for slot in self._slots:
            if slot.opened is None or not slot.is_idle:
                continue
            part = -(-slot.opened.rows // LOTS)
            lacks = slot.opened.rows + part - len(slot.given)
            wanted = min(part, lacks)
            lot = {number: going[number] for number in (*lost,)[:wanted]}
            for _ in lot:
                lost.popleft()
            if len(lot) < wanted:
                for request in supply.take(wanted - len(lot)):
                    lot[next(numbers)] = request
            if not slot.given:
                slot.since = time.monotonic()
            going |= lot
            slot.given |= lot.keys()
            if slot.given or slot.given_up:
                is_filling = len(lot) == wanted < lacks
                slot.task = slot.actor.exchange.remote(
                    self._streams, list(lot.items()), slot.given_up, sampling,
                    seconds=0.0 if is_filling else LOOK_SECONDS,
                )  # fmt: skip
                slot.given_up = set()

    def _ended(self, slot: _Slot, lost: deque[int]) -> list[tuple[int, Completion]]:
        """What an engine has drawn of a stream since its last call; it loses all that it has where
        that failed, or where it makes no step any more."""
        answer = self._answer(slot, lost)
        if answer is None:
            return []
        steps, ended = answer
        if ended or steps != slot.steps:
            slot.steps, slot.since = steps, time.monotonic()
        elif slot.given:
            self._check_time(slot, lost)
        return [(number, completion) for number, completion in ended if number in slot.given]

    def _answering(self, waiting: deque[int]) -> list[_Slot]:
        """Slots whose task has ended in whatever way; waits a moment for the first. Those that are
        late with their block have lost it."""
        slots = {slot.task: slot for slot in self._slots if slot.task is not None}
        ready, _ = self._ray.wait(list(slots), num_returns=1, timeout=LOOK_SECONDS)
        is_late = time.monotonic() - self._started > self._settings.start_seconds
        if not ready and is_late and not any(slot.opened for slot in self._slots):
            raise EngineError(
                f"cluster {self._settings.address}: no engine was ready after "
                f"{self._settings.start_seconds:g} seconds; other jobs may hold what they need of "
                f"{self._nodes}; free it, or raise cluster.start_seconds in the machine file"
            )
        for slot in slots.values():
            if slot.task not in ready and slot.given:
                self._check_time(slot, waiting)
        return [slots[task] for task in ready]

    def _check_time(self, slot: _Slot, waiting: deque[int]) -> None:
        """Take what it has from an engine that is late."""
        limit = self._settings.block_seconds or max(BLOCK_SECONDS, SLOWEST * self._slowest)
        if time.monotonic() - slot.since > limit:
            self._give_back(slot, waiting)
            self._fault(slot, f"no answer for a {self._unit} in {limit:.0f} seconds")

    def _answer(self, slot: _Slot, waiting: deque[int]) -> Any:
        """What its call gave; None if the slot was opened, or something went wrong."""
        try:
            value = self._ray.get(slot.task)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause if error.cause is not None else error
            is_hopeless = slot.opened is None and isinstance(cause, FactoryError)
            self._give_back(slot, waiting)
            kind = "" if isinstance(cause, FactoryError) else f"{type(cause).__name__}: "
            self._fault(slot, f"{kind}{cause}", is_hopeless=is_hopeless)
            return None
        except self._ray.exceptions.RayError as error:
            self._give_back(slot, waiting)
            self._replace(slot, f"was lost: {_short(error)}")
            return None
        slot.task = None
        if slot.opened is not None:
            return value
        slot.opened = value
        self._examine(slot)
        return None

    def _give_back(self, slot: _Slot, waiting: deque[int]) -> None:
        """Let others draw what a slot had that failed with it."""
        slot.task = None
        self._tries.update(slot.given)
        waiting.extendleft(sorted(slot.given, reverse=True))

    def _examine(self, slot: _Slot) -> None:
        """EngineError if engines differ: what they draw would depend on who drew it."""
        assert slot.opened is not None
        for other in self._slots:
            if other.opened is not None and other.opened.kind != slot.opened.kind:
                raise EngineError(
                    f"cluster {self._settings.address}: {slot.label} is {slot.opened.kind} and "
                    f"{other.label} is {other.opened.kind}: install the same on every node, or "
                    "name one engine in the machine file"
                )
        for note in slot.opened.notes:
            self._tell(note)

    def _fault(self, slot: _Slot, cause: str, *, is_hopeless: bool = False) -> None:
        """Of an engine that raised or is late: it starts anew, or is dropped after `retries`; a
        block or request with which as many engines failed ends the stage."""
        cause = textwrap.shorten(cause, 600, placeholder=" ...")
        retries = self._settings.retries
        slot.faults += 1
        if any(self._tries[number] > retries for number in slot.given):
            self._reasons.append(f"{slot.label}: {cause}")
            raise EngineError(
                f"cluster {self._settings.address}: one {self._unit} failed {retries + 1} times, "
                f"and cluster.retries allows {retries}; finished {self._unit}s are kept. "
                + "; ".join(self._reasons)
            )
        if is_hopeless or slot.faults > retries:
            self._drop(slot, cause)
        else:
            self._replace(slot, f"failed: {cause}")

    def _replace(self, slot: _Slot, cause: str) -> None:
        """Start a slot anew, or drop it if that was done often enough."""
        limit = self._settings.restarts
        if self._restarts == limit:
            self._drop(
                slot,
                f"{cause}. {limit} engines were started anew before, and cluster.restarts allows "
                "no more",
            )
            return
        self._restarts += 1
        text = f"{slot.label} {cause}"
        self._reasons.append(text)
        self._tell(f"{text}. Others draw what it had; restart {self._restarts} of {limit}")
        self._ray.kill(slot.actor)
        self._start(slot)

    def _drop(self, slot: _Slot, cause: str) -> None:
        """Do without a slot; EngineError with all reasons when none is left."""
        self._reasons.append(f"{slot.label}: {cause}")
        slot.is_dropped, slot.task, slot.given = True, None, set()
        self._ray.kill(slot.actor)
        if all(slot.is_dropped for slot in self._slots):
            raise EngineError(
                f"cluster {self._settings.address}: no engine is left; finished {self._unit}s are "
                "kept: mend the nodes, start again. " + "; ".join(dict.fromkeys(self._reasons))
            )
        self._tell(f"{slot.label} is given up: {cause}")

    def _tell(self, text: str) -> None:
        """Say something to the user, each text once: what engines note, all of them do."""
        if self._notify is not None and text not in self._notes:
            self._notes.add(text)
            self._notify(f"cluster {self._settings.address}: {text}")


def _short(error: Exception) -> str:
    return textwrap.shorten(str(error), 600, placeholder=" ...")
