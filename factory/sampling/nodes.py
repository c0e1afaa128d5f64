"""A Ray cluster as far as engines need one: connected to, or started on this machine alone.

Written against ray 2.60.0.
"""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import chdir
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from factory.core.engines import Cluster
from factory.core.errors import EngineError
from factory.core.interpreter import die_with_parent, module_command
from factory.core.ranks import without_ranks

REACH_SECONDS = 10.0
END_SECONDS = 10.0
ALL_SECONDS = 60.0
"""That a stage waits for all nodes of its job; those that come later take part then."""
JOIN_SECONDS = 1.0
"""Between two looks for nodes that have joined."""
LOCAL_STORE = 256 * 2**20
"""Bytes of shared memory for completions on their way."""


class Nodes:
    """The connection of one stage to its cluster; a cluster of its own ends with it."""

    def __init__(self, settings: Cluster) -> None:
        if not find_spec("ray"):
            raise EngineError(
                "machine file: cluster: Ray is not installed; install the extra that has it: "
                "pip install -c constraints.txt -e '.[cluster]'"
            )
        self._settings = settings
        self._folder: Path | None = None
        # Read when Ray is imported or started, hence set before.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        self._helpers: subprocess.Popen[bytes] | None = None
        if settings.address == "local":
            stay_on_loopback()
            self.ray = self._start({"_node_ip_address": "127.0.0.1"})
        elif settings.address == "slurm":
            self.ray = self._start_in_job()
        else:
            self.ray = self._join(settings.address)

    def _start_in_job(self) -> ModuleType:
        """A cluster of all nodes of the Slurm job that this process runs in: its head here, a step
        for the others, which end with this process."""
        count = os.environ.get("SLURM_JOB_NUM_NODES", os.environ.get("SLURM_NNODES"))
        if count is None:
            raise EngineError(
                "machine file: cluster.address: slurm, but this is no job of Slurm's; let `factory "
                "submit` start the build, or write `address: local`"
            )
        token = secrets.token_hex(32)
        ray = self._start({}, token=token)
        others = int(count) - 1
        if others:
            address = ray.get_runtime_context().gcs_address
            self._helpers = subprocess.Popen(
                [
                    "srun", "--overlap", "--relative=1", f"--nodes={others}", f"--ntasks={others}",
                    "--ntasks-per-node=1", "--cpu-bind=none", "--kill-on-bad-exit=0",
                    *module_command("ray.scripts.scripts", "start", f"--address={address}"),
                    "--block", "--disable-usage-stats",
                ],
                cwd="/",
                env={**without_ranks(os.environ), "RAY_AUTH_TOKEN": token},
                preexec_fn=die_with_parent,
            )  # fmt: skip
        end = time.monotonic() + ALL_SECONDS
        while len(alive(ray)) < int(count) and time.monotonic() < end:
            time.sleep(JOIN_SECONDS)
        return ray

    def _start(self, index: dict[str, Any], *, token: str | None = None) -> ModuleType:
        """A cluster whose head is this machine and whose processes die with this one."""
        # Every user of this machine can reach a port of 127.0.0.1, and who reaches Ray runs what he
        # likes. Ray asks for a token where nothing is said, and would leave one in the home folder.
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
            os.environ.pop(name, None)
        os.environ["RAY_AUTH_TOKEN"] = token or secrets.token_hex(32)
        import ray

        # The path of a socket may have 107 characters, too few for a store's scratch folder.
        self._folder = Path(tempfile.mkdtemp(prefix="factory-ray-"))
        try:
            _init(
                ray,
                address="local",
                num_cpus=len(os.sched_getaffinity(0)),
                object_store_memory=LOCAL_STORE,
                include_dashboard=False,
                _temp_dir=str(self._folder),
                **index,
            )
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        finally:
            # Ray has read it, and no other child of this process needs it.
            del os.environ["RAY_AUTH_TOKEN"]
        return ray

    def _join(self, address: str) -> ModuleType:
        host, _, port = address.rpartition(":")
        advice = (
            f"start Ray's head there (`ray start --head --port {port} --disable-usage-stats`) and "
            f"every node, this machine too, with `ray start --address {address}`; or write "
            "`address: local`"
        )
        try:
            socket.create_connection((host, int(port)), timeout=REACH_SECONDS).close()
        except OSError as error:
            raise EngineError(
                f"machine file: cluster.address: {address} does not answer ({error}); {advice}"
            ) from None
        if host in ("localhost", "127.0.0.1"):
            stay_on_loopback()
        # One attempt of 40 seconds instead of twenty, should something else than Ray listen there.
        os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")
        import ray
        from ray.exceptions import RayError

        try:
            _init(ray, address=address)
        except (RayError, ConnectionError, RuntimeError, ValueError) as error:
            raise EngineError(
                f"machine file: cluster.address: {address} answers, but this machine cannot join: "
                f"{error}; {advice}"
            ) from error
        return ray

    def await_room(self, need: Mapping[str, float]) -> str:
        """Wait until an engine that takes `need` fits on some node; a note where not all do yet.

        The others start when nodes join. EngineError where none fits after `start_seconds`, and
        at once on a cluster of this machine, which no node will join.
        """
        end = time.monotonic() + self._settings.start_seconds
        wanted = self._settings.engines or 1
        while True:
            nodes = alive(self.ray)
            room = sum(fitting(node["Resources"], need) for node in nodes)
            if room >= wanted:
                return ""
            each = ", ".join(f"{amount:g} {name}" for name, amount in need.items())
            text = (
                f"machine file: cluster.engines is {wanted}, and {self._settings.address} has room "
                f"for {room}: each takes {each}; there is {resources(nodes)}"
            )
            is_alone = self._settings.address == "local"
            if is_alone or (room == 0 and time.monotonic() > end):
                raise EngineError(f"{text}; ask for fewer, lower cluster.cores, or add nodes")
            if room:
                return f"{text}; the others start when nodes join"
            time.sleep(JOIN_SECONDS)

    def has_gpus(self) -> bool:
        return any(node["Resources"].get("GPU") for node in alive(self.ray))

    def __str__(self) -> str:
        return resources(alive(self.ray))

    def close(self) -> None:
        """End all engines of this stage, and a cluster of its own."""
        self.ray.shutdown()
        if self._helpers is not None:
            self._helpers.terminate()
            try:
                self._helpers.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self._helpers.kill()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _init(ray: ModuleType, **options: Any) -> None:
    """Ray's own `init`, away from the current folder, which Ray puts before all libraries on the
    path of its workers: files of the user's folder are data."""
    with chdir("/"):
        ray.init(**options)


def alive(ray: ModuleType) -> list[dict[str, Any]]:
    """Nodes of the cluster as Ray describes them."""
    return [node for node in ray.nodes() if node["Alive"]]


def fitting(resources: Mapping[str, float], need: Mapping[str, float]) -> int:
    """How many engines fit on a node."""
    return int(min(resources.get(name, 0.0) // amount for name, amount in need.items()))


def resources(nodes: list[dict[str, Any]]) -> str:
    """What nodes have, in words."""
    return "; ".join(
        f"node {node['NodeManagerAddress']}/{node['NodeID'][:8]} with "
        + ", ".join(f"{node['Resources'].get(name, 0.0):g} {name}" for name in ("CPU", "GPU"))
        for node in nodes
    )


def stay_on_loopback() -> None:
    """Let Ray bind to 127.0.0.1 alone where that is the address it is given.

    It replaces 127.0.0.1 by the machine's outer address, and then listens on all of them; not with
    this switch, which is meant for systems whose firewalls ask about every open port.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    from ray._private import ray_constants

    # Ray may have been imported before, by vLLM.
    ray_constants.ENABLE_RAY_CLUSTER = False
