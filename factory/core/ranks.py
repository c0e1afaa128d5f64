"""Which of the launched processes this one is: the only module that reads it.

A launcher tells its ranks by environment variables. A pod, a batch system or MPI sets variables of
the same names for its own purposes, and torch, accelerate and vLLM believe whoever wrote last. So a
process that no launcher of ours started loses them before a library reads them, and a rank insists
that they say what its job says.
"""

import os
import traceback
from collections.abc import Generator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import Any

from factory.core.errors import EngineError
from factory.core.machine import Machine

NAMES = frozenset({
    # torchrun to its ranks
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE",
    "ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT",
    # accelerate 1.15: FSDP's plugin, notebooks
    "FSDP_VERSION", "FSDP_SHARDING_STRATEGY", "FSDP_RESHARD_AFTER_FORWARD", "FSDP_OFFLOAD_PARAMS",
    "FSDP_BACKWARD_PREFETCH", "FSDP_FORWARD_PREFETCH", "FSDP_AUTO_WRAP_POLICY",
    "FSDP_TRANSFORMER_CLS_TO_WRAP", "FSDP_MIN_NUM_PARAMS", "FSDP_USE_ORIG_PARAMS",
    "FSDP_SYNC_MODULE_STATES", "FSDP_ACTIVATION_CHECKPOINTING",
    "FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD", "FSDP_IGNORED_MODULES",
    "FSDP_CPU_RAM_EFFICIENT_LOADING", "FSDP_STATE_DICT_TYPE", "FORK_LAUNCHED",
    # Slurm to its tasks
    "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS", "SLURM_NPROCS",
    "SLURM_NTASKS_PER_NODE", "SLURM_TASKS_PER_NODE", "SLURM_STEP_NUM_TASKS",
    "SLURM_STEP_TASKS_PER_NODE",
})  # fmt: skip
PREFIXES = (
    "TORCHELASTIC_", "PET_", "ACCELERATE_", "PARALLELISM_CONFIG_", "MEGATRON_LM_", "VLLM_DP_",
    "OMPI_COMM_WORLD_", "PMI_", "PMIX_", "MV2_COMM_WORLD_", "MPI_LOCAL",
)  # fmt: skip
"""PET_ are torchrun's own arguments, MPI_LOCAL those of Intel's MPI; ACCELERATE_ also holds the
device, the precision and whether weights are sharded."""
JOIN_SECONDS = 1800
"""A rank waits so long for the others, in a rollout too: transformers' default for trainers."""


_ADVICE = {
    "accelerate": "in the file of accelerate_config write distributed_type: MULTI_GPU (with "
    "use_cpu: true on CPUs; MULTI_CPU starts one process) or FSDP, or leave accelerate_config out",
    "slurm": "let `factory submit` write the job, and start none of its ranks by hand",
}


LOST_RANK = ("Connection closed by peer", "Connection reset by peer", "NCCL", "gloo")
"""What torch says where another rank has gone."""


@dataclass(frozen=True)
class Rank:
    """One of `count` processes that train together; the default is a process on its own."""

    index: int = 0
    local: int = 0
    """Among those of this node: which device it takes."""
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether it writes the files that all share."""
        return self.index == 0


def this_rank() -> Rank:
    """What the launcher told this process; a process on its own where it was told nothing.

    EngineError where a variable is no number.
    """
    names = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1}
    return Rank(*(_number(name, default) for name, default in names.items()))


def is_launched(machine: Machine) -> bool:
    """Whether a worker with these settings is started as a rank, by accelerate or torchrun."""
    return machine.launcher != "local"


def enter(machine: Machine) -> None:
    """Make the environment say what the job says; a worker's first act, before libraries read it.

    EngineError where a launcher started another number of ranks than the machine file asks for.
    """
    if not is_launched(machine):
        strip(os.environ)
        return
    rank = this_rank()
    if rank.count != machine.processes or not 0 <= rank.index < rank.count:
        raise EngineError(
            f"machine file: processes: {machine.processes}, but {machine.launcher} started this "
            f"worker as rank {rank.index} of {rank.count}: each would train by itself; "
            + _ADVICE[machine.launcher]
        )
    for name in [name for name in os.environ if name in NAMES and name.startswith("SLURM_")]:
        del os.environ[name]  # of the task that torchrun is, which has other ranks than ours
    os.environ.update(sharding(machine))


def sharding(machine: Machine) -> dict[str, str]:
    """How accelerate 1.15 learns, in each rank, that `train` divides the model among them."""
    train = machine.train
    if not train.is_sharded:
        return {}
    is_whole = train.checkpoint == "whole"
    return {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
        # By the classes that the model itself names: its layers.
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT" if is_whole else "SHARDED_STATE_DICT",
        "FSDP_OFFLOAD_PARAMS": str(train.offload == "all").lower(),
        # Else the KL reference is loaded by the first rank alone.
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
        "FSDP_ACTIVATION_CHECKPOINTING": "false",  # the trainer's own arguments say it
    }


def failure_of_rank(error: Exception) -> str:
    """A bug of one rank, or what is left where another was killed, with its traceback's end."""
    rank = this_rank()
    if any(sign in str(error) for sign in LOST_RANK):
        return (
            f"rank {rank.index} of {rank.count} lost another rank, which was ended from outside, "
            "most likely since memory ran out; start again (it resumes)"
        )
    *_, last = traceback.format_exception(error)
    where = "".join(traceback.format_tb(error.__traceback__)[-2:])
    return f"rank {rank.index} of {rank.count} failed: {last.strip()}\n{where.rstrip()}"


def strip(environ: MutableMapping[str, str]) -> None:
    """Remove what makes a library take a process for one of several ranks."""
    for name in [*environ]:
        if name in NAMES or name.startswith(PREFIXES):
            del environ[name]


def without_ranks(environ: Mapping[str, str]) -> dict[str, str]:
    """A copy of an environment, stripped."""
    copy = dict(environ)
    strip(copy)
    return copy


def join(machine: Machine) -> None:
    """Join the process group of all ranks, on this rank's device; nothing for a process on its own.

    It comes before any engine: vLLM makes a group of one where it finds none, accelerate takes over
    the group that it finds, and each rank would train alone. EngineError where the group has
    another size than the launcher said.
    """
    rank = this_rank()
    if rank.count == 1 and "LOCAL_RANK" not in os.environ:
        return
    import torch

    state: Any = import_module("accelerate.state")  # it has no types of its own
    on_gpu = machine.takes_gpu()
    if on_gpu and rank.local >= torch.cuda.device_count():
        raise EngineError(
            f"machine file: processes: {machine.processes}, but rank {rank.index} needs GPU "
            f"{rank.local} of this node and torch sees {torch.cuda.device_count()}; set processes "
            "to the number of GPUs"
        )
    if not on_gpu:
        # accelerate would call the device cpu:0, for which a resumed Trainer finds no generator.
        os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
        if machine.train.is_sharded:
            _shard_on_processors()
    group = state.PartialState(cpu=not on_gpu, timeout=timedelta(seconds=JOIN_SECONDS))
    together: int = group.num_processes
    if together != rank.count:
        raise EngineError(
            f"rank {rank.index} of {rank.count} is in a process group of {together}: "
            "something opened a group before the ranks joined theirs, and each would train alone; "
            "open engines after factory.core.ranks.join"
        )


def _shard_on_processors() -> None:
    """Let accelerate 1.15 shard among ranks on CPUs: it would train whole replicas, unasked."""
    import torch

    state: Any = import_module("accelerate.state")

    def prepare_backend(*_: Any, **rest: Any) -> tuple[str, Any]:
        if not torch.distributed.is_initialized():
            timeout = timedelta(seconds=JOIN_SECONDS)
            torch.distributed.init_process_group("gloo", timeout=timeout)
        return "gloo", state.DistributedType.MULTI_GPU

    state.PartialState._prepare_backend = prepare_backend


@contextmanager
def whole_weights() -> Generator[None]:
    """Models opened meanwhile hold their weights on every rank.

    With fsdp_cpu_ram_efficient_loading transformers gives them to the first rank of a node alone,
    and only what is then trained has them sent to the others.
    """
    name = "FSDP_CPU_RAM_EFFICIENT_LOADING"
    before = os.environ.get(name)
    if before is not None:
        os.environ[name] = "false"
    try:
        yield
    finally:
        if before is not None:
            os.environ[name] = before


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError as error:
        raise EngineError(f"environment: {name}: found {text!r}, allowed is a number") from error
