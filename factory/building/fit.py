"""Whether the stages of a plan fit into memory, and the cheapest changes that make them fit.

A change is an option that can be pasted: `--set machine.KEY=VALUE` says how ranks hold the same
model, `--set stages.NAME.KEY=VALUE` trains another one. Each is judged by the estimate of the stage
itself. Changes are added in the order of their cost until the stage fits; then those that are not
needed are left out again, the dearest first.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from factory.building.plan import Step
from factory.building.pricing import Bill, Row
from factory.building.pruning import unneeded
from factory.building.recipe import load_machine
from factory.core.artifacts import find
from factory.core.data_file import WITH_PATHS
from factory.core.errors import FactoryError, RecipeError
from factory.core.machine import Machine
from factory.cost.context import GIB, CostContext, Flow, Model, StageCost
from factory.cost.memory import PACKED, may_be_planned
from factory.cost.shapes import HUB, Unpriced
from factory.trainers.arguments import micro_batch_rows, share_of_rank
from factory.trainers.lora import LoraConfig
from factory.trainers.lowmem import SHARDED_PACKED

CONTEXT_STEP = 1024
"""Tokens between two lengths that are tried."""
SIZE = re.compile(r"-(?=\d+(?:\.\d+)?B)")
"""Parts the family of a model's name from its size."""
LARGER = (2, 4, 8)
"""Times the ranks, or devices of an engine."""
MACHINE_FILES = tuple(
    Path("recipes/machines") / f"{name}.yaml" for name in ("gpu24", "gpu", "node8", "nodes2x8")
)
"""The smallest first."""


@dataclass(frozen=True)
class Change:
    """Settings of the machine file, or of the stage, by dotted path."""

    machine: Mapping[str, Any] = field(default_factory=dict)
    stage: Mapping[str, Any] = field(default_factory=dict)

    def options(self, name: str) -> list[str]:
        """As they are typed behind `factory build RECIPE`."""
        lines = [f"--set machine.{key}={_text(value)}" for key, value in self.machine.items()]
        lines += [f"--set stages.{name}.{key}={_text(value)}" for key, value in self.stage.items()]
        return lines


@dataclass(frozen=True)
class Remedy:
    """Options with which a stage fits, and what it takes then."""

    options: tuple[str, ...]
    gib: float
    host_gib: float = 0.0
    """Of the hosts together, where devices offload."""

    def line(self, title: str) -> str:
        host = f" and {self.host_gib:,.0f} of the hosts" if self.host_gib else ""
        return f"  {title}, {self.gib:,.1f} GiB{host}: {' '.join(self.options)}"


@dataclass(frozen=True)
class Misfit:
    """A stage that takes more than may be planned."""

    name: str
    gib: float
    room_gib: float
    same: Remedy | None
    """Makes the same model: only the machine file changes."""
    other: Remedy | None
    """Makes another model."""
    machine: Remedy | None
    """Another machine."""
    smaller: Remedy | None = None
    """A smaller base of the same family, looked for where nothing else helps."""

    def lines(self) -> list[str]:
        """What to say: the stage, and a line for each remedy."""
        lines = [
            f"stages.{self.name}: does not fit: {self.gib:,.1f} GiB a device, {self.room_gib:,.1f} "
            "may be planned"
        ]
        remedies = (
            ("same model", self.same), ("another model", self.other),
            ("another machine", self.machine), ("a smaller base", self.smaller),
        )  # fmt: skip
        for title, remedy in remedies:
            if remedy is not None:
                lines.append(remedy.line(title))
        if len(lines) == 1:
            lines.append("  no setting makes it fit: take a smaller model")
        return lines


def misfits(priced: Bill) -> list[Misfit]:
    """The stages of a bill that do not fit, each with what would help."""
    return [_solve(_Judge(row, priced)) for row in priced.misfits]


def rank_faults(steps: Iterable[Step], machine: Machine) -> list[str]:
    """Why stages cannot be trained in the machine's ranks, a line each."""
    faults = []
    for step in steps:
        if not step.stage.in_ranks:
            continue
        lora = getattr(step.config, "lora", None)
        if isinstance(lora, LoraConfig) and lora.base in PACKED and machine.train.is_sharded:
            faults.append(f"stages.{step.name}.{SHARDED_PACKED.format(lora.base)}")
        if machine.processes == 1:
            continue
        batch, prompts = (getattr(step.config, name, None) for name in ("batch", "prompts"))
        try:
            if batch is not None:
                micro_batch_rows(batch, machine)
            if prompts is not None:
                share_of_rank(prompts, "questions", machine.processes)
        except RecipeError as error:
            faults.append(f"stages.{step.name}.{error}")
        if getattr(step.config, "dynamic_sampling", None) is not None:
            faults.append(
                f"stages.{step.name}.dynamic_sampling: a replaced group is drawn for all ranks, "
                "and each draws its own; leave it out, or set processes: 1 in the machine file"
            )
    return faults


def require_devices(plan: Sequence[Step], store: Path, machine: Machine) -> None:
    """Before the first stage of a plan is made: RecipeError where one cannot be divided among the
    machine's ranks, EngineError where one needs a GPU, for `device: cuda`, and torch sees none."""
    skipped = unneeded(plan, store)
    absent = [step for step in plan if find(store, step.fingerprint) is None]
    steps = [step for step in absent if step.name not in skipped]
    if faults := rank_faults(steps, machine):
        raise RecipeError("\n".join(faults))
    # The device file spares most builds the import of torch.
    if machine.device != "cuda" or machine.may_take_gpu():
        return
    if any(step.stage.trains or _draws_here(step, machine) for step in steps):
        machine.takes_gpu()


def _draws_here(step: Step, machine: Machine) -> bool:
    is_local = machine.cluster is None and not step.stage.is_served(step.config)
    return is_local and "gpu_memory_fraction" in step.stage.memory_settings


def require_fit(priced: Bill) -> None:
    """RecipeError where a stage cannot be divided among the ranks; and, with the remedies, where
    one does not fit and nobody said to build it."""
    steps = [row.step for row in priced.rows if row.artifact is None]
    if faults := rank_faults(steps, priced.machine):
        raise RecipeError("\n".join(faults))
    if priced.machine.ignore_fit or not priced.misfits:
        return
    lines = [line for misfit in misfits(priced) for line in misfit.lines()]
    raise RecipeError(
        "\n".join(["memory: what is planned does not fit", *lines])
        + "\nadd the options of one line to the command, or --ignore-fit to try it all the same"
    )


class _Judge:
    """What a stage takes of a device under changes."""

    def __init__(self, row: Row, priced: Bill) -> None:
        assert row.context is not None and row.estimate is not None
        self.step, self.context = row.step, row.context
        self.machine, self.room_gib = priced.machine, priced.room_gib
        self.models = [other.step for other in priced.rows if other.step.kind == "model"]

    def among(self, flows: dict[str, Flow]) -> "_Judge":
        """The same stage behind other models."""
        other = copy(self)
        other.context = replace(self.context, flows=flows)
        return other

    def gib(self, changes: Sequence[Change]) -> float | None:
        """None where the settings refuse the changes."""
        taken = self.cost(changes)
        return None if taken is None else taken.memory / GIB

    def cost(self, changes: Sequence[Change]) -> StageCost | None:
        machine, config = (
            self.machine.model_dump(mode="json"),
            self.step.config.model_dump(mode="json", context=WITH_PATHS),
        )
        for change in changes:
            for key, value in change.machine.items():
                _put(machine, key, value)
            for key, value in change.stage.items():
                _put(config, key, value)
        try:
            return self._taken(
                Machine.model_validate_json(json.dumps(machine)),
                type(self.step.config).model_validate_json(json.dumps(config)),
                self.context,
            )
        except ValidationError:
            return None

    def on(self, path: Path) -> StageCost | None:
        """On the machine of a file; None where it does not fit there either."""
        machine = load_machine(path)
        if machine.peaks is None or machine.device == "cpu":
            return None
        bytes_there = machine.peaks.memory_gib * GIB
        context = replace(self.context, on_gpu=True, device_bytes=bytes_there)
        taken = self._taken(machine, self.step.config, context)
        fits = taken is not None and taken.memory <= may_be_planned(bytes_there)
        return taken if fits else None

    def fits(self, changes: Sequence[Change]) -> bool:
        taken = self.gib(changes)
        return taken is not None and taken <= self.room_gib

    def _taken(self, machine: Machine, config: Any, context: CostContext) -> StageCost | None:
        stage = self.step.stage
        if stage.trains:
            machine = machine.for_worker(in_ranks=stage.in_ranks)
        try:
            return stage.estimate(config, replace(context, machine=machine))[0]
        except (Unpriced, FactoryError):
            return None


def _solve(judge: _Judge) -> Misfit:
    same, cheap = list(_same_model(judge)), list(_same_model(judge, is_cheap=True))
    length = _length_key(judge)
    other = [] if length is None else [*cheap, *_other_model(judge)]
    remedies = [_remedy(judge, _cheapest(judge, same))]
    remedies.append(_remedy(judge, _cheapest(judge, other, length=length)))
    if remedies[0] == remedies[1]:
        remedies[1] = None
    remedies.append(_other_machine(judge))
    if not any(remedies):
        remedies.append(_smaller(judge))
    return Misfit(judge.step.name, judge.gib([]) or 0.0, judge.room_gib, *remedies)


def _same_model(judge: _Judge, *, is_cheap: bool = False) -> Iterator[Change]:
    """What leaves the model as it is, the cheapest first; `is_cheap` leaves out what needs other
    hardware or is slow."""
    machine, stage, on_gpu = judge.machine, judge.step.stage, judge.context.on_gpu
    settings = stage.memory_settings
    if "micro_batch" in settings and machine.micro_batch > 1:
        yield Change({"micro_batch": 1})
    if "micro_groups" in settings:
        yield Change({"train.micro_rows": 1})
    if stage.trains and machine.train.activations != "recompute":
        yield Change({"train.activations": "recompute"})
    if not on_gpu:
        return
    has_engine = "gpu_memory_fraction_rl" in settings
    if not stage.trains or (has_engine and machine.processes > 1):
        key = "tensor_parallel_rl" if stage.trains else "tensor_parallel"
        yield from (Change({key: count}) for count in LARGER)
    if not stage.in_ranks:
        return
    shards: dict[str, Any] = {"train.shard": "fsdp2"}
    if machine.launcher == "local":
        shards["launcher"] = "accelerate"
    if machine.processes > 1:
        yield Change(shards)
    if has_engine:
        yield from (
            Change({"gpu_memory_fraction_rl": round(share / 20, 2)})
            for share in range(math.ceil(20 * machine.gpu_memory_fraction_rl) - 1, 0, -1)
        )
    if not is_cheap:
        yield Change({**shards, "train.offload": "all"})
        yield from (Change({**shards, **_nodes(machine, times)}) for times in LARGER)


def _nodes(machine: Machine, times: int) -> dict[str, Any]:
    """So many times the nodes, as one Slurm job."""
    slurm = machine.slurm
    nodes = {"slurm.nodes": times * slurm.nodes} if slurm else {"launcher": "slurm"}
    if slurm is None:
        nodes |= {"slurm.nodes": times, "slurm.gpus": machine.processes}
    return {**nodes, "processes": times * machine.processes}


def _other_model(judge: _Judge) -> Iterator[Change]:
    """What trains another model, the nearest first."""
    fields = type(judge.step.config).model_fields
    if "optimizer" in fields:
        yield Change(stage={"optimizer": "adamw_8bit"})
    if "lora" in fields:
        yield Change(stage={"lora.rank": 16})
        yield from (Change(stage={"lora.rank": 16, "lora.base": base}) for base in ("int8", "nf4"))


def _length_key(judge: _Judge) -> str | None:
    """The setting that bounds how long a row is."""
    fields = type(judge.step.config).model_fields
    names = ("context", "max_new_tokens") if judge.step.stage.trains else ()
    return next((name for name in names if name in fields), None)


def _cheapest(
    judge: _Judge, changes: Sequence[Change], *, length: str | None = None
) -> list[Change] | None:
    """The first of `changes` that together fit, without those that are not needed; then shorter
    rows, where `length` names their setting; None where nothing helps."""
    chosen: list[Change] = []
    taken = judge.gib([])
    for change in changes:
        now = judge.gib([*chosen, change])
        if now is None or (taken is not None and now >= taken):
            continue
        chosen.append(change)
        taken = now
        if taken <= judge.room_gib:
            break
    if not judge.fits(chosen):
        if length is None:
            return None
        longest = getattr(judge.step.config, length)
        steps = range((longest - 1) // CONTEXT_STEP * CONTEXT_STEP, 0, -CONTEXT_STEP)
        shorter = (Change(stage={length: tokens}) for tokens in steps)
        last = next((each for each in shorter if judge.fits([*chosen, each])), None)
        if last is None:
            return None
        chosen.append(last)
    for change in chosen[-2::-1]:
        fewer = [each for each in chosen if each is not change]
        if judge.fits(fewer):
            chosen = fewer
    return chosen


def _remedy(judge: _Judge, changes: Sequence[Change] | None) -> Remedy | None:
    if not changes:
        return None
    machine: dict[str, Any] = {}
    stage: dict[str, Any] = {}
    for change in changes:
        machine |= change.machine
        stage |= change.stage
    now = judge.machine.model_dump(mode="json")
    news = {key: value for key, value in machine.items() if _at(now, key) != value}
    options = Change(news, stage).options(judge.step.name)
    taken = judge.cost(changes)
    return None if taken is None else _of(taken, *options)


def _of(taken: StageCost, *options: str) -> Remedy:
    return Remedy(options, taken.memory / GIB, taken.host / GIB)


def _other_machine(judge: _Judge) -> Remedy | None:
    """The smallest of the machine files here that the stage fits."""
    for path in MACHINE_FILES:
        if path.exists() and (taken := judge.on(path)) is not None:
            return _of(taken, f"--machine {path}")
    return None


def _smaller(judge: _Judge) -> Remedy | None:
    """The largest smaller base of the same family on the hub, with what it needs to fit."""
    model = judge.context.flows.get(judge.step.inputs.get("model", ""))
    if not isinstance(model, Model):
        return None
    for step in judge.models:
        name = getattr(getattr(step.config, "source", None), "id", "")
        family = SIZE.split(name)[0]
        smaller = [
            (shape.parameters, other, shape) for other, shape in HUB.items()
            if SIZE.split(other)[0] == family and shape.parameters < model.shape.parameters
        ]  # fmt: skip
        if HUB.get(name) != model.shape:
            continue
        for _, other, shape in sorted(smaller, key=lambda each: -each[0]):
            flows = {
                key: replace(flow, shape=shape)
                if isinstance(flow, Model) and flow.shape == model.shape else flow
                for key, flow in judge.context.flows.items()
            }  # fmt: skip
            small = judge.among(flows)
            changes = [] if small.fits([]) else _cheapest(small, list(_same_model(small)))
            if changes is not None and (taken := small.cost(changes)) is not None:
                own = _remedy(small, changes)
                options = () if own is None else own.options
                return _of(taken, f"--set stages.{step.name}.source.id={other}", *options)
    return None


def _put(fields: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for name in path:
        if fields.get(name) is None:
            fields[name] = {}
        fields = fields[name]
    fields[last] = value


def _at(fields: Mapping[str, Any], key: str) -> Any:
    value: Any = fields
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
