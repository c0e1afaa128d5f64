"""What an estimate may know: its stage, the machine and its speed, what earlier stages hand on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, cast

from factory.core.machine import Machine
from factory.cost import formulas
from factory.cost.filling import Filling
from factory.cost.flows import Answers, Questions, Texts, completion_tokens, prompt_tokens
from factory.cost.formulas import DecodeLoad, Speed
from factory.cost.memory import GIB, Base, Held
from factory.cost.shapes import Shape, Unpriced
from factory.text.chat import PromptConfig

TRANSFORMERS_START = 1.0
PROCESS_BYTES = 0.53 * GIB
"""A worker that holds no model: every light stage of r1-small."""
ENGINE_BYTES = 0.95 * GIB
TRAINER_BYTES = 0.8 * GIB
"""Libraries and buffers of a process with an engine or a trainer, beside what is counted. These
three are fitted."""


@dataclass(frozen=True)
class Model:
    """A model artifact: its shape and the bytes of a saved number."""

    shape: Shape
    bytes_per_number: int

    @property
    def file_bytes(self) -> float:
        return self.shape.parameters * self.bytes_per_number


Flow = Model | Questions | Answers | Texts | None
"""What a stage hands on to those that read it, as numbers; scores hand on nothing."""


@dataclass(frozen=True)
class StageCost:
    """What a stage takes: of a machine with several devices, seconds of the machine."""

    seconds: float
    tokens: float = 0.0
    """Completion tokens drawn, or tokens trained on."""
    memory: float = PROCESS_BYTES
    """Peak bytes: of the process, or on GPUs of one device."""
    disk: float = 0.0
    """Bytes of the artifact."""
    scratch: float = 0.0
    """Bytes of checkpoints while it trains."""
    host: float = 0.0
    """Bytes that its ranks keep in the memory of their hosts, where devices offload."""
    is_assumed: bool | None = None
    """Whether lengths of completions are an assumption, not those of an earlier run; None where
    nothing is drawn."""
    filling: Filling | None = None
    """Of the engines of a stage that does nothing but draw."""


@dataclass(frozen=True)
class CostContext:
    """The machine with its speed, the stage that is estimated, and the flows of earlier stages."""

    machine: Machine
    speed: Speed
    on_gpu: bool
    device_bytes: float
    """Memory of one device."""
    engine: str
    is_busy: bool
    """Whether other work made the measured speed too low."""
    lengths: Mapping[str, float] = field(default_factory=dict)
    """Mean tokens of a completion in earlier runs, by stage name."""
    kept: Mapping[str, float] = field(default_factory=dict)
    """Shares that selections kept in earlier runs, by stage name."""
    flows: dict[str, Flow] = field(default_factory=dict)
    """By stage name."""
    name: str = ""
    """Of the stage that is estimated, as are all below."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """The stages that it reads, by field path."""
    seed: int = 0
    trains: bool = False

    def read(self, path: str) -> Any:
        """The flow behind a reference; Unpriced if that stage has none."""
        name = self.inputs[path]
        if name not in self.flows:
            raise Unpriced(f"needs {name}")
        return self.flows[name]

    def model(self, path: str = "model") -> Model:
        return cast("Model", self.read(path))

    @property
    def draws_full(self) -> bool:
        """As `Machine.draws_full` or `rolls_out_full`, by what is known without torch."""
        drawing, is_there = self.machine.drawing, self.machine.cluster is not None
        by_itself = self.on_gpu or (is_there and not self.trains)
        return drawing == "full" or (drawing == "auto" and by_itself)

    @property
    def start(self) -> float:
        """Seconds until the engine answers; the decode loop on transformers only loads weights."""
        return self.speed.start if self.engine == "vllm" else TRANSFORMERS_START

    @property
    def engine_number(self) -> int:
        """Bytes of a number in the engine."""
        return 4 if self.machine.torch_dtype_name(on_gpu=self.on_gpu) == "float32" else 2

    @property
    def ranks(self) -> int:
        return self.machine.processes if self.machine.launcher != "local" else 1

    def held(
        self, *, adapters: int = 0, base: Base = "plain", eight_bit_adam: bool = False
    ) -> Held:
        """How the ranks hold a model that this stage trains. An accelerate config is taken to
        divide it among them all."""
        train = self.machine.train
        is_sharded = train.is_sharded or self.machine.accelerate_config is not None
        recomputes = self.on_gpu if train.activations == "auto" else train.activations != "keep"
        return Held(
            shards=self.ranks if is_sharded else 0,
            replicas=1 if is_sharded else self.ranks,
            adapters=adapters,
            base=base,
            optimizer="adamw_8bit" if eight_bit_adam else "adamw",
            is_offloaded=train.offload == "all",
            recomputes=recomputes,
            is_rounded=self.engine_number == 2,
        )

    @property
    def engine_devices(self) -> int:
        """Over which an engine is divided, beside a trainer over those of ranks."""
        machine = self.machine
        return machine.tensor_parallel_rl if self.trains else machine.tensor_parallel

    @property
    def engines(self) -> int:
        """Engines that share what a stage draws that does nothing else, as `launch.engines` and
        `sampling.replicas` count them."""
        cluster, replicas = self.machine.cluster, self.machine.replicas
        stated = replicas.count if replicas else cluster.engines if cluster else None
        if stated is not None:
            return stated
        is_shared = self.on_gpu and (cluster or replicas or find_spec("ray"))
        return max(1, self.ranks // self.machine.tensor_parallel) if is_shared else 1

    def expected(self, limit: int) -> tuple[float, bool]:
        """Mean tokens of a completion, and whether that is an assumption."""
        measured = self.lengths.get(self.name)
        if measured is None:
            return completion_tokens(limit, trains=self.trains), True
        return min(measured, limit), False

    def engine_room(self, weights: float, *, training: bool = False) -> float:
        """Bytes for keys and values."""
        if not self.on_gpu:
            return self.machine.engine_memory_gib * GIB
        fraction = self.machine.gpu_memory_fraction
        if training:
            fraction = self.machine.gpu_memory_fraction_rl
        return self.device_bytes * fraction * self.engine_devices - weights

    def engine_memory(self, model: Model, load: DecodeLoad, *, training: bool = False) -> float:
        """Bytes of an engine on one device. On GPUs it takes its fraction, or more if it must."""
        size = model.shape.size(self.engine_number)
        weights = model.shape.parameters * self.engine_number
        row = formulas.cache_bytes(size, 1, load.frame + load.own + load.longest)
        if self.on_gpu:
            taken = weights + max(row, self.engine_room(weights, training=training))
            return taken / self.engine_devices
        if self.engine == "vllm":
            return weights + self.engine_room(weights)
        return weights + load.at_once * row

    def decode_load(
        self, model: Model, prompt: PromptConfig, *, question: float, prompts: float,
        rows: float, completion: float, limit: int, training: bool = False,
    ) -> DecodeLoad:  # fmt: skip
        """Completions of an engine, as many at once as the block and its memory allow."""
        prompted = prompt_tokens(prompt, question, model.shape)
        shared = prompted.frame if self.engine == "vllm" else 0.0
        size = model.shape.size(self.engine_number)
        room = self.engine_room(model.shape.parameters * self.engine_number, training=training)
        row = formulas.cache_bytes(size, 1, prompted.tokens + completion)
        # A trainer hands a whole rollout to its engine in one call.
        block = rows if training or self.draws_full else min(rows, self.machine.block)
        at_once = block
        if self.on_gpu or self.engine == "vllm":
            rows_allowed = self.machine.rows or self.machine.block
            at_once = min(block, rows_allowed, max(1.0, room / row))
        own = prompted.tokens - shared
        return DecodeLoad(rows, prompts, shared, own, completion, limit, block, at_once)

    def draw_seconds(self, model: Model, load: DecodeLoad) -> float:
        """Of one engine over its devices."""
        size = model.shape.size(self.engine_number)
        return formulas.draw_seconds(size, self.speed, load) / self.engine_devices
