"""How a worker process is started: forked with its imports done, or as ranks by a launcher.

Importing torch, vLLM and TRL takes some twenty seconds, and a small recipe has as many stages. So
the first worker starts a fork server (Python's own) that imports once what the plan's stages will
need; each worker is a fork of it and begins at once. No thread runs and no CUDA context exists in
the fork server, and a worker still is a process of its own.
"""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, Protocol

from factory.building import worker
from factory.building.launch.endings import end_of
from factory.building.launch.engines import with_engines
from factory.core.errors import EngineError, RecipeError
from factory.core.files import write_file
from factory.core.interpreter import die_with_parent, module_command
from factory.core.machine import Machine, environment
from factory.core.ranks import is_launched, strip, without_ranks
from factory.core.slurm import Allocation, allocation, ranks_command
from factory.core.yaml12 import is_mapping
from factory.stages import Stage

GRACE_SECONDS = 10.0
UNTOLD = 255
"""Python's exit code of a fork whose server ended before it could tell another."""


class Worker(Protocol):
    """A started worker process."""

    @property
    def sentinel(self) -> int | None:
        """A file descriptor that becomes readable when the worker ends, where there is one."""
        ...

    @property
    def pid(self) -> int | None:
        """Of its first process."""
        ...

    def poll(self) -> int | None:
        """Exit status, negative for a signal, or None while it runs."""
        ...

    def signal(self, sign: signal.Signals) -> None:
        """Send a signal to the worker and its children."""
        ...

    def end_of_server(self) -> int | None:
        """How the process that it was forked from ended, negative for a signal, if it has."""
        ...

    def stop(self) -> None:
        """End the worker and its children: finished samples and checkpoints are on disk."""
        ...


class Launcher:
    """Starts the workers of one build on this machine."""

    def __init__(self, machine: Machine, stages: Sequence[Stage], *, log: Path) -> None:
        """`log` takes what libraries say while they are imported.

        RecipeError where the machine's accelerate config starts another number of ranks,
        EngineError where its Slurm job is not there.
        """
        self.machine = machine = with_engines(machine)
        self._allocation: Allocation | None = None
        if machine.slurm is not None:
            self._allocation = allocation(machine.slurm, os.environ)
        if any(stage.in_ranks for stage in stages):
            _check_config(machine)
        self._environment = environment(machine.for_worker(in_ranks=False))
        self._context = multiprocessing.get_context("forkserver")
        # What the server inherits: library settings are read when a library is imported.
        strip(os.environ)
        os.environ.update(self._environment)
        self._context.set_forkserver_preload(preload(_modules(machine, stages)))
        with _output_to(log):
            forkserver.ensure_running()

    def start(self, job: Path, log: Path, *, machine: Machine, trains: bool) -> Worker:
        """Start the worker of a job in a session of its own, its output appended to `log`.

        `machine` is the job's, which says how it is started.
        """
        environ = {**without_ranks(os.environ), **environment(machine)}
        if is_launched(machine):
            return _Launched(self._ranks(machine, job), log, environ)
        # The fork server may have been started with another environment, by an earlier build.
        return _Forked(self._context, job, log, environ | _gpus(trains=trains))

    def _ranks(self, machine: Machine, job: Path) -> list[str]:
        if machine.slurm is None or self._allocation is None:
            return _accelerate(machine, job)
        return ranks_command(
            machine.slurm, self._allocation, "factory.building.worker", str(job.absolute())
        )


class _Forked:
    def __init__(
        self,
        context: ForkServerContext,
        job: Path,
        log: Path,
        environ: dict[str, str],
    ) -> None:
        self._process = context.Process(target=_work, args=(str(job), str(log), environ))
        try:
            self._process.start()
        except (EOFError, ConnectionError) as error:
            raise EngineError(
                f"{job}: the process that workers are forked from ended: start again (it resumes)"
            ) from error
        server: Any = vars(forkserver)["_forkserver"]
        self._server: int = server._forkserver_pid
        self.sentinel = self._process.sentinel

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def signal(self, sign: signal.Signals) -> None:
        _signal_session(self._process.pid, sign)

    def end_of_server(self) -> int | None:
        # The worker's pipe closes a moment before its server counts as ended.
        latest = time.monotonic() + 1.0
        while (status := end_of(self._server)) is None and self.poll() == UNTOLD:
            if time.monotonic() > latest:
                break
            time.sleep(0.01)
        return status

    def stop(self) -> None:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            self.signal(sign)
            self.signal(signal.SIGCONT)  # one that is stopped would not hear the first
            self._process.join(GRACE_SECONDS)
            if self._process.exitcode is not None:
                return


class _Launched:
    sentinel = None

    def __init__(self, command: list[str], log: Path, environ: dict[str, str]) -> None:
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environ,
                start_new_session=True,
                # Its ranks die with it: else they would write on beside those of the next build.
                preexec_fn=die_with_parent,
            )

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.poll()

    def signal(self, sign: signal.Signals) -> None:
        _signal_session(self._process.pid, sign)

    def end_of_server(self) -> int | None:
        return None

    def stop(self) -> None:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            self.signal(sign)
            self.signal(signal.SIGCONT)
            try:
                self._process.wait(timeout=GRACE_SECONDS)
                return
            except subprocess.TimeoutExpired:
                continue


def _work(job: str, log: str, environ: dict[str, str]) -> None:
    """What a forked worker runs: a session and a log of its own, then the job."""
    os.setsid()
    _let_the_server_go()
    # The server ignores Ctrl-C and its children inherit that; a stop must reach libraries' waits.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    target = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(target, 1)
    os.dup2(target, 2)
    strip(os.environ)
    os.environ.update(environ)
    sys.exit(worker.main(Path(job)))


def _let_the_server_go() -> None:
    """Give up this worker's end of the pipe by which the fork server learns that it is not needed.

    Python's server (3.11 to 3.14) goes once nobody holds the pipe, and hands it to its children
    too: a worker would keep it after a build that was killed, and itself, since it dies with the
    server (worker.py).
    """
    server: Any = vars(forkserver)["_forkserver"]
    os.close(server._forkserver_alive_fd)
    server._forkserver_alive_fd = None


def preload(modules: Sequence[str]) -> list[str]:
    """What a fork server imports, in this order."""
    first, last = "factory.building.launch.before_imports", "factory.building.launch.after_imports"
    lean = ["factory.building.launch.lean_imports"] if modules else []
    return [first, "factory.building.worker", *lean, *modules, last]


def _modules(machine: Machine, stages: Sequence[Stage]) -> list[str]:
    """Modules that the given stages import anyway."""
    modules = dict.fromkeys(module for stage in stages for module in stage.preload)
    samples = "factory.sampling.blocks" in modules
    # On CPUs `auto` seldom takes vLLM, whose import takes longer than that of all the others.
    on_gpu = machine.engine == "auto" and machine.may_take_gpu()
    if samples and (machine.engine == "vllm" or on_gpu):
        modules |= {"vllm.entrypoints.llm": None} if find_spec("vllm") else {}
    return list(modules)


@contextmanager
def _output_to(path: Path) -> Generator[None]:
    """Let processes started meanwhile inherit `path` as their output."""
    kept = [os.dup(1), os.dup(2)]
    target = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.dup2(target, 1)
        os.dup2(target, 2)
        yield
    finally:
        for descriptor, copy in enumerate(kept, start=1):
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(target)


def _signal_session(pid: int | None, sign: signal.Signals) -> None:
    if pid is None:
        return
    try:
        os.killpg(pid, sign)
    except ProcessLookupError:
        # Not yet the leader of a session of its own, or gone already.
        try:
            os.kill(pid, sign)
        except ProcessLookupError:
            return


def _accelerate(machine: Machine, job: Path) -> list[str]:
    config = machine.accelerate_config
    if config is None:
        # Else accelerate takes the one in the user's cache, and without one starts several ranks
        # on several GPUs only.
        config = str(job.with_name("accelerate.json"))
        write_file(Path(config), json.dumps(_config(machine), indent=2) + "\n")
    options = ["--num_processes", str(machine.processes), "--config_file", config]
    options += ["--module", "factory.building.worker", str(job)]
    return module_command("accelerate.commands.launch", *options)


def _config(machine: Machine) -> dict[str, Any]:
    """An accelerate config of plain data parallelism on this node."""
    return {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU",  # with use_cpu too: MULTI_CPU starts one process
        "use_cpu": not machine.may_take_gpu(),
        "num_machines": 1,
        "num_processes": machine.processes,
        "machine_rank": 0,
        "main_process_port": 0,
        "mixed_precision": "no",  # the trainer's own arguments say it
        "rdzv_backend": "static",
        "same_network": True,
    }


def _check_config(machine: Machine) -> None:
    """RecipeError unless the accelerate config is there and starts as many ranks as `processes`."""
    if machine.accelerate_config is None:
        return
    import yaml

    path = Path(machine.accelerate_config)
    try:
        # By the rules of PyYAML, as accelerate reads it.
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(
            f"machine file: accelerate_config: {path}: cannot be read: {error}"
        ) from error
    if not is_mapping(config):
        raise RecipeError(f"machine file: accelerate_config: {path}: must be a mapping")
    stated = config.get("num_processes", machine.processes)
    if stated not in (machine.processes, -1):
        raise RecipeError(
            f"machine file: processes: {machine.processes}, but {path} has "
            f"num_processes: {stated}; write the same number, over all nodes, into both"
        )


def _gpus(*, trains: bool) -> dict[str, str]:
    """Which GPUs a worker of this machine sees: one that trains a single one.

    Trainers divide a batch by all GPUs in sight, or train so many times the batch.
    """
    if not trains:
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return {"CUDA_VISIBLE_DEVICES": "0" if visible is None else visible.split(",")[0]}
