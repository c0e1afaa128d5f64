"""Machine settings: how fast and where, never what is made. Recorded, not fingerprinted."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from factory.core.engines import Cluster, Replicas
from factory.core.errors import EngineError
from factory.core.interpreter import SAFE_PATH
from factory.core.records import Record, Url
from factory.core.sharding import Train
from factory.core.slurm import Slurm

Matmul = Literal["float32", "bfloat16"]


class DevicePeaks(Record):
    """What one device does at best; by it `factory plan --cost` reckons."""

    gflops: float = Field(ge=0.001, le=1e9)
    """Of dense matrix products in the machine's dtype, without sparsity."""
    gigabytes_per_second: float = Field(ge=0.001, le=1e9)
    """Of reading its memory."""
    memory_gib: float = Field(ge=0.001, le=1e6)
    """Of the device, GiB."""


class EndpointAccess(Record):
    """How a served model may be asked from this machine, and what its owner's account allows."""

    url: Url
    """The endpoint's, as in the recipe: a key is only ever sent there."""
    model: str | None = None
    """Only for this model of the server; None for all of them."""
    key_env: str | None = Field(default=None, pattern=r"^[A-Z][A-Z0-9_]*$")
    """Environment variable that holds the key; the key itself is written nowhere."""
    concurrency: int = Field(default=16, ge=1, le=10**4)
    """Requests on their way at once."""
    requests_per_minute: float | None = Field(default=None, ge=0.01, le=1e7)
    """Spread evenly; retries count."""
    price_in: float | None = Field(default=None, ge=0, le=1e9)
    """Money for a million prompt tokens."""
    price_out: float | None = Field(default=None, ge=0, le=1e9)
    """Money for a million tokens of completions."""
    most_spend: float | None = Field(default=None, ge=1e-9, le=1e12)
    """Most money of one stage, in the unit of the prices; it stops before it would go beyond."""
    retries: int = Field(default=8, ge=0, le=1000)
    """For one request, after faults that may pass: 429, 5xx, lost connections, timeouts."""
    first_wait: float = Field(default=1.0, ge=1e-6, le=3600)
    """Seconds before the first retry, at most; doubled for each further one, up to a minute."""
    timeout: float = Field(default=3600.0, ge=0.001, le=1e7)
    """Seconds without a byte after which an answer counts as lost; most servers send none before
    the answer is whole, which takes an hour for 32,768 tokens at 9 a second."""
    logprobs: bool = False
    """Ask for log-probs; servers of some models refuse."""

    @model_validator(mode="after")
    def _can_count(self) -> "EndpointAccess":
        if self.most_spend is not None and None in (self.price_in, self.price_out):
            raise ValueError("most_spend needs price_in and price_out")
        return self


class Machine(Record):
    """What a machine file may say. Every field has a default that fits a small CPU machine."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA where torch sees it."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: float32 on CPUs (faster than bf16 without AMX), bfloat16 on CUDA."""
    matmul: Literal["auto"] | Matmul = "auto"
    """How a CPU multiplies float32 matrices: `bfloat16` allows torch to round the operands and sum
    in float32, twice as fast on some CPUs and slower on others; `auto` measures once."""
    threads: int = Field(default=0, ge=0, le=4096)
    """Torch and engine threads; 0 takes every core this process may use, or fewer where a
    measurement says that fewer are clearly faster."""
    engine: Literal["auto", "vllm", "transformers"] = "auto"
    """`auto` takes vLLM where it imports. On CPUs in float32 it takes our own decode loop, which is
    faster, for models that this covers (Llama, Qwen2, Qwen3) where `engine_memory_gib` holds 32
    rows of the mean length that they may reach."""
    engine_memory_gib: float = Field(default=1.0, ge=0.001, le=1e6)
    """Key-value cache of the engine on a CPU, GiB; more rows than fit are drawn in parts."""
    gpu_memory_fraction: float = Field(default=0.85, gt=0, lt=1)
    """Share of the GPU's memory that the engine may take when it runs alone."""
    gpu_memory_fraction_rl: float = Field(default=0.3, gt=0, lt=1)
    """The same while a trainer shares the GPU."""
    tensor_parallel: int = Field(default=1, ge=1, le=1024)
    """GPUs of one engine that draws alone."""
    tensor_parallel_rl: int = Field(default=1, ge=1, le=1024)
    """Ranks of a node that share one engine beside their trainers, each with a part of the model;
    divides the ranks of a node. vLLM alone."""
    block: int = Field(default=128, ge=1, le=10**6)
    """Requests a sampling block: the unit of resume, and what shares a batch."""
    rows: int = Field(default=0, ge=0, le=10**6)
    """Requests that vLLM decodes at once; 0 takes `block`. With fewer, the next request of a block
    takes the place of one that has ended, so that only the end of a block waits for its slowest."""
    drawing: Literal["auto", "exact", "full"] = "auto"
    """How completions share an engine. `exact`: in blocks that wait for their slowest, the same
    bytes after any resume. `full`: the next request takes the row of a completion as soon as it
    ends, so long ones hold up none; which samples are drawn is the same, but which of them share a
    product is not, so a text may differ where rounding decides. `auto`: `full` on CUDA, and for
    what a `cluster` draws."""
    micro_batch: int = Field(default=8, ge=1, le=10**6)
    """SFT rows a forward pass; gradient accumulation follows from the recipe's batch."""
    micro_groups: int = Field(default=1, ge=1, le=10**5)
    """GRPO prompt groups a pass."""
    training_pass: Literal["auto", "measure", "packed", "trl"] = "auto"
    """How GRPO computes log-probs and gradients where both passes can: packed, or as TRL does.
    `measure` times both on the first rollout, about a second, and takes the faster; `auto` does so
    but on CPUs in float32, where it takes the packed one."""
    parallel: int = Field(default=1, ge=1, le=1000)
    """Stages at work side by side where they do not need each other, each with `threads` threads:
    pays where models are too small to keep several threads busy."""
    checkpoint_steps: int = Field(default=10, ge=1, le=10**7)
    """Trainer steps between resumable checkpoints."""
    launcher: Literal["local", "accelerate", "slurm"] = "local"
    """`local`: one process, which sees one GPU where it trains. `accelerate` starts training stages
    (but `pretrain`) with `accelerate launch`, `slurm` with torchrun on every node of a Slurm job;
    with one process and no `accelerate_config` both as `local` does."""
    processes: int = Field(default=1, ge=1, le=10**5)
    """Ranks of a training stage, of all nodes; more than one under the accelerate launcher only."""
    slurm: Slurm | None = None
    """The job that `factory submit` asks for, under the slurm launcher only."""
    endpoints: tuple[EndpointAccess, ...] = ()
    """For served models; the first entry that fits an endpoint counts."""
    cluster: Cluster | None = None
    """Where the stages that only draw find their engines; None: an engine for each GPU of this
    machine or of the Slurm job, where Ray is installed, else one for a stage."""
    replicas: Replicas | None = None
    """Servers of this machine instead of engines, for the stages that only draw."""
    trackers: tuple[Literal["trackio", "wandb", "mlflow", "tensorboard"], ...] = ()
    """Where the figures of a build are mirrored to, through these libraries; into the store's
    `.trackers`, unless their own environment variables name a server."""
    unsandboxed: bool = False
    """Runs programs that models wrote without the sandbox: from `--unsandboxed` alone, which has to
    be typed, never from a machine file. Manifests, verdicts and reports say so."""
    ignore_fit: bool = False
    """Builds what the plan says does not fit: from `--ignore-fit` alone, never from a file."""
    accelerate_config: str | None = None
    """An accelerate config file (DeepSpeed, several nodes), under the accelerate launcher only;
    its `num_processes` must be `processes`. None: the ranks of this node as `train` says, on CPUs
    too; accelerate's own default config is not read. With FSDP and a KL term write
    `fsdp_cpu_ram_efficient_loading: false`."""
    train: Train = Train()
    """How ranks hold what they train."""
    price_per_hour: float | None = Field(default=None, ge=0, le=1e9)
    """Of the whole machine, in your currency. None: estimates say that there is no price."""
    peaks: DevicePeaks | None = None
    """Of one device, for estimates alone. None: those of this processor are measured, once a store;
    those of a GPU have to be stated."""

    @field_validator("processes", "accelerate_config")
    @classmethod
    def _is_launched(cls, value: int | str | None, info: ValidationInfo) -> int | str | None:
        if value in (1, None) or info.data.get("launcher") != "local":
            return value
        raise ValueError(
            f"{info.field_name}: {value} needs launcher: accelerate, for with launcher: local "
            "nothing starts other ranks, among which each batch would be divided; write launcher: "
            f"accelerate beside it, or leave {info.field_name} out"
        )

    @model_validator(mode="after")
    def _is_sharded_once(self) -> "Machine":
        if not self.train.is_sharded:
            return self
        if self.launcher == "local":
            raise ValueError(
                "train.shard: fsdp2 needs ranks, and launcher: local starts none; write launcher: "
                "accelerate and processes: the number of GPUs (1 is allowed) beside it"
            )
        if self.accelerate_config is not None:
            raise ValueError(
                "train.shard: fsdp2 and accelerate_config both say how weights are divided; leave "
                "one of them out"
            )
        return self

    @model_validator(mode="after")
    def _has_an_allocation(self) -> "Machine":
        if (self.launcher == "slurm") != (self.slurm is not None):
            raise ValueError(
                "launcher: slurm and the block `slurm` come together; write "
                "slurm: {nodes: 1, gpus: 1} with your own numbers beside it, or leave both out"
            )
        if self.slurm is None:
            return self
        ranks = self.slurm.nodes * self.slurm.gpus
        if self.processes != ranks:
            raise ValueError(
                f"slurm.nodes: {self.slurm.nodes} with slurm.gpus: {self.slurm.gpus} are {ranks} "
                f"ranks, but processes is {self.processes}; write processes: {ranks}"
            )
        if self.accelerate_config is not None:
            raise ValueError(
                "accelerate_config is read by launcher: accelerate alone; leave it out, or write "
                "that launcher"
            )
        return self

    @model_validator(mode="after")
    def _draws_in_one_way(self) -> "Machine":
        if self.replicas is not None and self.cluster is not None:
            raise ValueError("cluster and replicas both say who draws; leave one of them out")
        return self

    @model_validator(mode="after")
    def _shares_engines_in_a_node(self) -> "Machine":
        local, shards = self.slurm.gpus if self.slurm else self.processes, self.tensor_parallel_rl
        if local % shards:
            message = f"{shards} does not divide the ranks of a node, {local}; write a divisor"
            raise ValueError(f"tensor_parallel_rl: {message}")
        return self

    def for_worker(self, *, in_ranks: bool) -> "Machine":
        """The settings of a worker, whose `launcher` and `processes` say how it is started.

        One rank that holds its model whole is a process of this machine like any other.
        """
        is_alone = self.processes == 1 and self.accelerate_config is None
        if in_ranks and not (is_alone and not self.train.is_sharded):
            return self
        train = self.train.model_copy(
            update={"shard": "none", "offload": "none", "reduce": "float32", "checkpoint": "whole"}
        )
        return self.model_copy(
            update={
                "launcher": "local", "processes": 1, "accelerate_config": None, "train": train,
                "slurm": None, "tensor_parallel_rl": 1,
            }
        )  # fmt: skip

    def access(self, url: str, model: str) -> EndpointAccess:
        """What the file says about a served model; without a word, the defaults and no key."""
        for endpoint in self.endpoints:
            if endpoint.url.rstrip("/") == url.rstrip("/") and endpoint.model in (None, model):
                return endpoint
        return EndpointAccess(url=url)

    @property
    def requests_at_once(self) -> int:
        """Requests that a stage asks an engine for in one call."""
        return self.block * (self.cluster.blocks if self.cluster else 1)

    @property
    def draws_full(self) -> bool:
        """Whether rows of engines that only draw are filled as they become free."""
        # Engines of a cluster may have the devices that the machine of the stage lacks.
        return (self.drawing == "auto" and self.cluster is not None) or self.rolls_out_full

    @property
    def rolls_out_full(self) -> bool:
        """Whether those of an engine in the process of its trainer are."""
        if self.drawing != "auto":
            return self.drawing == "full"
        return self.device == "cuda" or (self.device == "auto" and self.takes_gpu())

    @property
    def local_ranks(self) -> int:
        """Ranks of a training stage on this node, which share its cores."""
        ranks = self.processes // (self.slurm.nodes if self.slurm else 1)
        return max(1, ranks) if self.accelerate_config is None else 1

    def thread_count(self) -> int:
        """Of a process: as stated, or its share of the cores."""
        return self.threads or max(1, len(os.sched_getaffinity(0)) // self.local_ranks)

    def may_take_gpu(self) -> bool:
        """`takes_gpu` by NVIDIA's device file alone: importing torch takes seconds."""
        return self.device != "cpu" and Path("/dev/nvidiactl").exists()

    def takes_gpu(self) -> bool:
        """Whether work goes to CUDA; EngineError where the file wants it and torch sees none."""
        import torch

        if self.device == "cuda" and not torch.cuda.is_available():
            raise EngineError(
                "machine file: device: cuda, but torch sees no CUDA device; install a CUDA build "
                "of torch, or set device: cpu"
            )
        return self.device != "cpu" and torch.cuda.is_available()

    def torch_dtype_name(self, *, on_gpu: bool) -> Literal["float32", "bfloat16"]:
        """The dtype that trainer and engine share: one dtype, or their log-probs drift apart."""
        if self.dtype != "auto":
            return self.dtype
        return "bfloat16" if on_gpu else "float32"


def free_gib(path: Path) -> float:
    """Free disk space at `path`, GiB."""
    stats = os.statvfs(path)
    return stats.f_bavail * stats.f_frsize / 2**30


def environment(machine: Machine) -> dict[str, str]:
    """A worker's settings: threads fixed, no telemetry, repeatable hashing and sums, no code from
    the current folder."""
    threads = str(machine.thread_count())
    return {
        **SAFE_PATH,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "warning",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        # The engine lives in the worker: weights go over without a copy through a pipe.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # The engine sets torch's precision by this when it starts, for the whole process.
        "VLLM_FLOAT32_MATMUL_PRECISION": "medium" if machine.matmul == "bfloat16" else "highest",
        # glibc would map and unmap every large tensor anew: a third of a training pass on a CPU
        # went into page faults. Kept, the memory is used again; the largest blocks (32 MiB is
        # glibc's own limit) still go back, or the peak would grow by gigabytes.
        "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
        "MALLOC_TRIM_THRESHOLD_": str(100 * 2**30),
        "MALLOC_TOP_PAD_": str(256 * 2**20),
        # Some reasoning-gym families draw from sets of strings, whose order is salted.
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        # cuBLAS needs it for repeatable sums; without CUDA nobody reads it.
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }


def apply_matmul(machine: Machine) -> None:
    """Make torch compute float32 products as the machine says; for engine and trainer alike."""
    import torch

    torch.set_num_threads(machine.thread_count())
    if machine.matmul != "auto":
        is_rounded = machine.matmul == "bfloat16"
        torch.set_float32_matmul_precision("medium" if is_rounded else "highest")
