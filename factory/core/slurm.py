"""Slurm: the one allocation of a build, its batch script, and the command that starts ranks in it.

Slurm gives nodes and takes them away, torchrun starts ranks; nothing here schedules.
"""

import os
import shlex
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from factory.core.errors import EngineError
from factory.core.interpreter import module_command, program_command
from factory.core.records import Record

FIRST_PORT = 20000
PORTS = 10000
TRIES = 20
"""Ports that are looked at where the machine file names none."""
ASK_SECONDS = 60.0
"""For a command of Slurm's that only asks."""


class Slurm(Record):
    """The allocation that `factory submit` asks for, in which all stages of a build run."""

    nodes: int = Field(default=1, ge=1, le=10**5)
    """Of the allocation. All see the store, the recipe and this installation under one path."""
    gpus: int = Field(default=1, ge=1, le=1024)
    """Ranks of a node, and with `device` other than cpu its GPUs."""
    cores: int = Field(default=0, ge=0, le=4096)
    """CPU cores of a node; 0 asks for the nodes as a whole, with all their memory."""
    partition: str | None = Field(default=None, pattern=r"^[\w.,@+-]+$")
    """Where the job may run; None: the cluster's default."""
    account: str | None = Field(default=None, pattern=r"^[\w.@+-]+$")
    """Who is charged; None: your default."""
    time: str | None = Field(default=None, pattern=r"^(\d+-)?\d{1,3}:\d{2}:\d{2}$")
    """Limit of one start, `HH:MM:SS` or `D-HH:MM:SS`; a job that reaches it goes on in another."""
    lines: tuple[str, ...] = ()
    """Further options of sbatch, each as it would stand behind `#SBATCH`."""
    setup: tuple[str, ...] = ()
    """Shell lines before the build: modules, environment variables."""
    port: int = Field(default=0, ge=0, lt=65536)
    """Where ranks meet, on the first node; 0 takes a free one from 20000 up."""
    start_seconds: int = Field(default=600, ge=1, le=10**6)
    """Until all nodes answer and all ranks have met."""
    stop_seconds: int = Field(default=120, ge=10, le=10**6)
    """Before the time limit: for the checkpoint of what trains, after the step under way."""


@dataclass(frozen=True)
class Allocation:
    """The job that this process runs in."""

    job: str
    first: str
    """Name of the first node, on which the build runs."""


def batch_script(
    settings: Slurm, *, name: str, arguments: Sequence[str], on_gpu: bool, folder: Path, log: Path
) -> str:
    """The text for sbatch: `factory` with `arguments`, in `folder`, its output appended to `log`.

    USR1, which Slurm sends before the time limit, asks the build for a checkpoint and puts the job
    back into the queue; a build that failed while a node has stopped answering goes back too. TERM
    ends it, for that is what `scancel` sends.
    """
    words = program_command(*arguments)
    python, command = shlex.quote(words[0]), shlex.join(words)
    every = shlex.join(_every_node(settings))
    options = [f"#SBATCH {line}" for line in _options(settings, name, on_gpu=on_gpu, log=log)]
    return "\n".join([
        "#!/bin/bash",
        *options,
        "# Written by `factory submit`. Started anew, it goes on where it was.",
        f"cd {shlex.quote(str(folder))} || exit 1",
        *settings.setup,
        "answering() {",
        f"  timeout \"$1\" {every} test -x {python} -a -e {shlex.quote(str(log.parent))}",
        "}",
        "again() { echo \"$1: the job goes back into the queue\"; scontrol requeue "
        "\"$SLURM_JOB_ID\"; exit 0; }",
        f"answering {settings.start_seconds} || {{",
        f"  echo \"error: not all {settings.nodes} nodes of $SLURM_JOB_NODELIST joined in "
        f"{settings.start_seconds} s with\" {python} \"and\" {shlex.quote(str(log.parent))}",
        "  exit 1",
        "}",
        f"{command} &",
        "build=$!",
        "trap 'kill -TERM $build; wait $build; again \"the time limit is near\"' USR1",
        "trap 'kill -TERM $build; wait $build; exit 143' TERM",
        "wait $build",
        "status=$?",
        "trap '' USR1",
        f"[ $status = 0 ] || answering {int(ASK_SECONDS)} || again \"a node is lost\"",
        "exit $status",
        "",
    ])  # fmt: skip


def _options(settings: Slurm, name: str, *, on_gpu: bool, log: Path) -> list[str]:
    options = [
        f"--job-name={name}",
        f"--nodes={settings.nodes}",
        "--ntasks-per-node=1",
        *([f"--cpus-per-task={settings.cores}"] if settings.cores else ["--exclusive", "--mem=0"]),
    ]
    if on_gpu:
        options.append(f"--gpus-per-node={settings.gpus}")
    for key in ("partition", "account", "time"):
        if value := getattr(settings, key):
            options.append(f"--{key}={value}")
    return [
        *options,
        "--requeue",
        "--open-mode=append",
        f"--signal=B:USR1@{settings.stop_seconds}",
        f"--output={log}",
        *settings.lines,
    ]


def submit(script: Path) -> str:
    """Hand a script to Slurm; the job's number. EngineError in sbatch's own words."""
    return _slurm("sbatch", "--parsable", str(script)).partition(";")[0]


def allocation(settings: Slurm, environ: Mapping[str, str]) -> Allocation:
    """The job that a build with these settings runs in; EngineError outside one, or in another."""
    job = environ.get("SLURM_JOB_ID")
    if job is None:
        raise EngineError(
            "machine file: launcher: slurm, but this is no job of Slurm's (SLURM_JOB_ID is not "
            "set); hand the build to Slurm with `factory submit`, or type it in an `salloc`"
        )
    nodes = environ.get("SLURM_JOB_NUM_NODES", environ.get("SLURM_NNODES", "1"))
    if nodes != str(settings.nodes):
        raise EngineError(
            f"machine file: slurm.nodes: {settings.nodes}, but job {job} has {nodes}; write the "
            "number of the allocation, or ask for another allocation"
        )
    names = _slurm("scontrol", "show", "hostnames", environ.get("SLURM_JOB_NODELIST", ""))
    return Allocation(job, names.split()[0])


def ranks_command(settings: Slurm, where: Allocation, *module: str) -> list[str]:
    """The command that runs a module with its arguments in every rank of the allocation."""
    port = free_port(settings.port, where.job)
    return [
        *_every_node(settings),
        "--cpu-bind=none",  # ranks share the node's cores by their threads
        *module_command(
            "torch.distributed.run",
            f"--nnodes={settings.nodes}",
            f"--nproc-per-node={settings.gpus}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={where.first}:{port}",
            f"--rdzv-id={where.job}-{port}",
            f"--rdzv-conf=join_timeout={settings.start_seconds}",
            "--max-restarts=0",
            "-m",
            *module,
        ),
    ]


def free_port(stated: int, job: str) -> int:
    """Where the ranks of a job can meet on this node; EngineError where the stated one is taken."""
    begin = FIRST_PORT + int(job) % PORTS
    for port in [stated] if stated else range(begin, begin + TRIES):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    if stated:
        raise EngineError(
            f"machine file: slurm.port: {stated} is taken on {socket.gethostname()}; leave it out, "
            "which takes a free one"
        )
    raise EngineError(
        f"ports {begin} to {begin + TRIES - 1} are all taken on {socket.gethostname()}; name a "
        "free one as slurm.port in the machine file"
    )


def _every_node(settings: Slurm) -> list[str]:
    """srun with one task a node, beside other steps; where one fails, all end."""
    return [
        "srun", "--overlap", f"--nodes={settings.nodes}", f"--ntasks={settings.nodes}",
        "--ntasks-per-node=1", "--kill-on-bad-exit=1",
    ]  # fmt: skip


def _slurm(*command: str) -> str:
    if shutil.which(command[0]) is None:
        raise EngineError(
            f"machine file: launcher: slurm, but there is no {command[0]} on this machine; run it "
            "where Slurm's commands are, or write another launcher"
        )
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=ASK_SECONDS, env={**os.environ}
    )
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()) or f"status {done.returncode}"
        raise EngineError(f"{' '.join(command)}: {said}")
    return done.stdout.strip()
