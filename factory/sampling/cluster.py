"""Engines on many nodes behind the Sampler protocol, by Ray.

A call is cut into the blocks that an engine in this process would be given one after the other.
Each engine draws one block at a time; this process hands them out, collects them and keeps them. A
block whose engine has died goes to another one. So completions do not depend on who drew them, as
far as the nodes compute alike: an engine gets the same requests, with their own seeds, in one call.

Ray Data would cut, order and retry by itself, but its stages have no place for what is asked next
when it depends on what has come (`enough`, `retry`), nor for a block on disk before the call ends.
"""

import textwrap
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.context import Metrics
from factory.errors import EngineError, FactoryError
from factory.machine import Cluster, Machine
from factory.records import SamplingConfig
from factory.sampling.engine import Engine, Opened, Order, file_sizes, versions
from factory.sampling.kept import Kept
from factory.sampling.nodes import Nodes
from factory.sampling.sampler import Completion, Request

LOOK_SECONDS = 1.0
"""Between two looks at the clock while nothing comes."""


@dataclass
class _Slot:
    """One of the engines that the machine file asks for; after a death another process fills it."""

    number: int
    actor: Any = None
    task: Any = None
    """What is awaited of it: that it opens, or its block. None while it has nothing to do."""
    block: int | None = None
    opened: Opened | None = None
    blocks: int = 0
    """Blocks, of all processes that have filled the slot."""

    @property
    def label(self) -> str:
        return f"engine {self.number}" + (f" on node {self.opened.node}" if self.opened else "")


class ClusterSampler:
    """Hands blocks to engines on a cluster; a block is on disk as soon as it is there."""

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
        self._notify = notify
        self._figures = figures
        self._kept = Kept(scratch, "cluster-blocks")
        self._restarts = 0
        self._told: set[str] = set()
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
            self._nodes.require_room(self._need)
            self._order = Order(
                model,
                file_sizes(model),
                machine.model_copy(update={**own, "device": "cuda" if self._on_gpu else "cpu"}),
                max_length,
                mean_length,
                versions(),
            )
            self._slots = [_Slot(number) for number in range(1, settings.engines + 1)]
            for slot in self._slots:
                self._start(slot)
        except BaseException:
            self._nodes.close()
            raise

    def sample(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[Completion]:
        size = self._block
        blocks = [requests[start : start + size] for start in range(0, len(requests), size)]
        requested = [[list(request.prompt_ids), request.seed] for request in requests]
        kept = self._kept.begin([requested, sampling.model_dump(mode="json"), size])
        places = [
            range(number * size, number * size + len(block)) for number, block in enumerate(blocks)
        ]
        waiting = deque(n for n, own in enumerate(places) if not all(p in kept for p in own))
        left = len(waiting)
        while left:
            self._hand_out(blocks, waiting, sampling)
            for slot in self._answering():
                answer = self._answer(slot, waiting)
                if answer is None:
                    continue
                number, completions = answer
                answers = dict(zip(places[number], completions, strict=True))
                self._kept.add(answers)
                kept |= answers
                left -= 1
        return [kept[index] for index in range(len(requests))]

    def load_weights(self, weights: Iterable[tuple[str, Any]]) -> None:
        raise EngineError("engines on a cluster take no weights")

    def close(self) -> None:
        nodes = Counter(slot.opened.node for slot in self._slots if slot.opened)
        counts = [slot.blocks for slot in self._slots]
        message = "; ".join(f"{slot.label}: {slot.blocks} blocks" for slot in self._slots)
        self._tell(f"nodes: {len(nodes)}; restarts: {self._restarts}; {message}")
        if self._figures is not None:
            self._figures |= {
                "cluster_engines": float(len(self._slots)),
                "cluster_nodes": float(len(nodes)),
                "cluster_restarts": float(self._restarts),
                "cluster_fewest_blocks": float(min(counts)),
                "cluster_most_blocks": float(max(counts)),
            }
        self._nodes.close()

    def _start(self, slot: _Slot) -> None:
        """Fill a slot with a new process, on the node with the fewest."""
        slot.actor = (
            self._ray.remote(Engine)
            .options(
                num_cpus=self._need["CPU"],
                num_gpus=self._need.get("GPU", 0),
                scheduling_strategy="SPREAD",
                # What becomes of a dead engine's block is decided here, not by Ray.
                max_restarts=0,
            )
            .remote()
        )
        slot.opened = slot.block = None
        self._started = time.monotonic()
        slot.task = slot.actor.open.remote(self._order)

    def _hand_out(
        self, blocks: Sequence[Sequence[Request]], waiting: deque[int], sampling: SamplingConfig
    ) -> None:
        for slot in self._slots:
            if waiting and slot.task is None:
                slot.block = waiting.popleft()
                slot.task = slot.actor.sample.remote(blocks[slot.block], sampling)

    def _answering(self) -> list[_Slot]:
        """Slots whose task has ended in whatever way; waits a moment for the first."""
        slots = {slot.task: slot for slot in self._slots if slot.task is not None}
        ready, _ = self._ray.wait(list(slots), num_returns=1, timeout=LOOK_SECONDS)
        is_late = time.monotonic() - self._started > self._settings.start_seconds
        if not ready and is_late and not any(slot.opened for slot in self._slots):
            raise EngineError(
                f"cluster {self._settings.address}: no engine was ready after "
                f"{self._settings.start_seconds:g} seconds; other jobs may hold what they need of "
                f"{self._nodes}; free it, or raise cluster.start_seconds in the machine file"
            )
        return [slots[task] for task in ready]

    def _answer(self, slot: _Slot, waiting: deque[int]) -> tuple[int, list[Completion]] | None:
        """A block and its completions; None if the slot was opened, or its process is lost."""
        number, task = slot.block, slot.task
        slot.task = slot.block = None
        try:
            value = self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, FactoryError):
                raise type(error.cause)(f"{slot.label}: {error.cause}") from error
            raise
        except self._ray.exceptions.RayError as error:
            if number is not None:
                waiting.appendleft(number)
            self._replace(slot, error)
            return None
        if number is not None:
            slot.blocks += 1
            return number, value
        slot.opened = value
        self._examine(slot)
        return None

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

    def _replace(self, slot: _Slot, error: Exception) -> None:
        """Start a slot anew; EngineError with node and cause if that was done often enough."""
        cause = textwrap.shorten(str(error), 600, placeholder=" ...")
        message = f"{slot.label} was lost: {cause}"
        limit = self._settings.restarts
        if self._restarts == limit:
            raise EngineError(
                f"cluster {self._settings.address}: {message}. {limit} engines were started anew "
                "before, and cluster.restarts allows no more; finished blocks are kept: mend the "
                "node, start again"
            ) from error
        self._restarts += 1
        self._tell(f"{message}. Another draws its block; restart {self._restarts} of {limit}")
        self._ray.kill(slot.actor)
        self._start(slot)

    def _tell(self, text: str) -> None:
        """Say something to the user, each text once: what engines note, all of them do."""
        if self._notify is not None and text not in self._told:
            self._told.add(text)
            self._notify(f"cluster {self._settings.address}: {text}")
