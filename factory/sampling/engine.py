"""What runs on a node of a cluster: one engine in a process of its own.

A plain class, which `cluster.py` makes an actor: nothing here imports Ray before an engine starts.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from factory.core.errors import EngineError
from factory.core.machine import Machine, apply_matmul, environment
from factory.core.provenance import code_state
from factory.core.records import SamplingConfig
from factory.install import installed_version
from factory.sampling.exchange import Exchange
from factory.sampling.local import open_local
from factory.sampling.sampler import Completion, Request, Sampler
from factory.sampling.streams import Streaming

COMPARED = ("torch", "transformers")
"""Packages that change the numbers whatever the engine is."""


@dataclass(frozen=True)
class Order:
    """What an engine is to hold, and what its node must have for that."""

    model: Path
    files: Mapping[str, int]
    """Sizes of the model's files, by name."""
    machine: Machine
    max_length: int
    mean_length: int
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Opened:
    """An engine that is ready."""

    node: str
    kind: str
    """What it is, in words: engines of two kinds round differently."""
    notes: tuple[str, ...]
    rows: int
    """Requests that it draws at once."""


class Engine:
    """Holds one sampler of this process."""

    _sampler: Sampler
    _rows: int
    _exchange: tuple[int, Exchange] | None = None
    """Of the stream with this number."""

    def open(self, order: Order) -> Opened:
        """Start the engine; EngineError where this node is not as the order wants it."""
        node = whereabouts()
        difference = differences(order.versions, versions())
        if difference:
            raise EngineError(f"node {node}: {difference}: install what the others have")
        check_files(order.model, order.files, node)
        os.environ.update(environment(order.machine))
        # Engines of one node would all bind to its first cores.
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        notes: list[str] = []
        self._sampler = sampler = self.opened(order, notes)
        self._rows = sampler.rows if isinstance(sampler, Streaming) else order.machine.block
        return Opened(node, self._kind(order.machine), tuple(notes), self._rows)

    def opened(self, order: Order, notes: list[str]) -> Sampler:
        """The sampler that this engine is."""
        apply_matmul(order.machine)
        return open_local(
            order.model, order.machine,
            max_length=order.max_length, mean_length=order.mean_length, notify=notes.append,
        )  # fmt: skip

    def _kind(self, machine: Machine) -> str:
        name = self._sampler.name
        engine = f"{name} {public(name)}" if name in ("vllm", *COMPARED) else name
        return f"{engine} on {machine.device}"

    def sample(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[Completion]:
        """One completion a request, in order."""
        return self._sampler.sample(requests, sampling)

    def exchange(
        self, number: int, requests: Sequence[tuple[int, Request]], given_up: Collection[int],
        sampling: SamplingConfig, *, seconds: float,
    ) -> tuple[int, list[tuple[int, Completion]]]:  # fmt: skip
        """`Exchange.call` of a stream, which ends the stream before it."""
        if self._exchange is None or self._exchange[0] != number:
            if self._exchange is not None:
                self._exchange[1].end()
            self._exchange = number, Exchange(self._sampler, sampling, block=self._rows)
        return self._exchange[1].call(requests, given_up, seconds=seconds)


def whereabouts() -> str:
    """The node of this process: its address and the beginning of Ray's own name for it."""
    import ray
    from ray.util import get_node_ip_address

    return f"{get_node_ip_address()}/{ray.get_runtime_context().get_node_id()[:8]}"


def versions() -> dict[str, str]:
    """Versions of the code here and of the packages that change the numbers."""
    return {"the factory": code_state()[0], **{name: public(name) for name in COMPARED}}


def public(package: str) -> str:
    """Installed version without its build's label: +cpu and +cu130 are one version of torch."""
    return (installed_version(package) or "missing").partition("+")[0]


def differences(wanted: Mapping[str, str], present: Mapping[str, str]) -> str:
    """Which versions differ, in words; empty if none."""
    return ", ".join(
        f"{name} is {present[name]}, not {version}"
        for name, version in wanted.items()
        if present[name] != version
    )


def file_sizes(folder: Path) -> dict[str, int]:
    """Sizes of a model's files, by name."""
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}


def check_files(folder: Path, sizes: Mapping[str, int], node: str) -> None:
    """EngineError unless a folder is seen here as it is seen where the stage runs."""
    shared = "every node must see the store under the same path: put it on a shared file system"
    if not folder.is_dir():
        raise EngineError(f"node {node}: {folder} is not there; {shared}")
    present = file_sizes(folder)
    for name, size in sizes.items():
        if present.get(name) != size:
            has = f"{present[name]} bytes" if name in present else "missing"
            raise EngineError(f"node {node}: {folder / name} is {has}, not {size} bytes; {shared}")
