"""A Ray cluster of two nodes on this machine, and engines for it that fail when they are told to.

Engines import this module, hence what is heavy is imported inside functions.
"""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from trace_runs import Script, Stepper

from factory.core.records import SamplingConfig
from factory.sampling import Completion, Request, Sampler
from factory.sampling.engine import Engine, Opened, Order, whereabouts
from factory.sampling.nodes import stay_on_loopback

DEATHS = "deaths"
"""Folder beside the model's: each file in it is a fault to come."""
ROWS = 8


class Scripted(Engine):
    """Replies by a function of what shares the batch; fails as often as there are files in DEATHS.

    A file `node-<beginning of its id>` is for an engine on that node, and takes the node along; the
    other engines wait for it. Any other file is for the first engine that has a second block: with
    `raise` in its name the engine raises, with `hang` it hangs, else it dies. With `open` in its
    name it is for the first engine that opens.
    """

    _deaths: Path
    _calls = 0

    def open(self, order: Order) -> Opened:
        self._deaths = order.model.parent / DEATHS
        return super().open(order)

    def opened(self, order: Order, notes: list[str]) -> Sampler:
        self._fail("*open*")
        return Script()

    def _fail(self, names: str) -> None:
        for path in sorted(self._deaths.glob(names)):
            try:
                path.unlink()
            except FileNotFoundError:
                continue  # another engine has failed by it
            if "raise" in path.name:
                raise RuntimeError(f"{path.name}: as the test told me")
            if "hang" in path.name:
                time.sleep(600)
            die(os.getpid())

    def sample(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[Completion]:
        completions = super().sample(requests, sampling)
        self._disturb()
        return completions

    def exchange(self, number: int, *given: Any, **rest: Any) -> Any:
        answer = super().exchange(number, *given, **rest)
        if answer[1]:
            self._disturb()
        return answer

    def _disturb(self) -> None:
        self._calls += 1
        own = self._deaths / f"node-{whereabouts()[-8:]}"
        if own.exists():
            own.unlink()
            die(os.getppid())  # the raylet, which is the node
        end = time.monotonic() + 60
        while any(self._deaths.glob("node-*")) and time.monotonic() < end:
            time.sleep(0.05)
        if self._calls > 1:
            self._fail("*")


class Refusing(Scripted):
    """Raises whatever it is asked."""

    def sample(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[Completion]:
        self._calls += 1
        raise RuntimeError(f"call {self._calls}")

    def exchange(self, number: int, *given: Any, **rest: Any) -> Any:
        return self.sample((), given[2])


class Stepping(Scripted):
    """Streams: draws ROWS at once, each of which takes a step a token."""

    def opened(self, order: Order, notes: list[str]) -> Sampler:
        self._fail("*open*")
        return Stepper(ROWS, seconds=0.002)


class Patient(Scripted):
    """Takes a while, so that a node that joins late still finds work."""

    def sample(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[Completion]:
        time.sleep(2.0)
        return super().sample(requests, sampling)


NODE = {
    "node_ip_address": "127.0.0.1", "num_cpus": 2, "object_store_memory": 80 * 2**20,
    "include_dashboard": False, "no_monitor": True, "include_log_monitor": False,
}  # fmt: skip


def die(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    signal.pause()


@contextmanager
def two_nodes() -> Iterator[Any]:
    """Ray's own test cluster: a head and a node with two cores each, so it is told."""
    # The path of a socket may have 107 characters, too few for a folder of a test.
    folder = tempfile.mkdtemp(prefix="ray-")
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    system = {
        # A lost node is noticed after a second and a half instead of fifteen.
        "health_check_period_ms": 500, "health_check_failure_threshold": 3,
        # Processes that nobody asks for take seconds of these tests.
        "enable_worker_prestart": False, "prestart_worker_first_driver": False,
    }  # fmt: skip
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        stay_on_loopback()
        from ray.cluster_utils import Cluster

        head = {**NODE, "_system_config": system}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        stack.callback(cluster.shutdown)
        cluster.add_node(**NODE)
        yield cluster
