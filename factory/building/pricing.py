"""What every step of a plan will take: reused ones nothing, the others by formula.

An estimate is kept in the run folder of its stage before the stage starts, so that the report can
hold it against the truth. What it says of memory decides whether a build starts (`fit.py`).
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from factory.building.launch.peaks import processor_peaks
from factory.building.plan import Step, missing
from factory.building.pruning import unneeded
from factory.core.artifacts import Artifact, check_files, find, folder_name, open_artifact
from factory.core.errors import ArtifactError, EngineError, FactoryError, RecipeError
from factory.core.files import note, read_file, write_file
from factory.core.machine import Machine
from factory.core.records import Record
from factory.cost.context import GIB, CostContext, Flow, Model
from factory.cost.flows import sealed_answers, sealed_questions, sealed_texts
from factory.cost.formulas import Speed, accelerator, processor
from factory.cost.memory import ROOM
from factory.cost.roofline import Peaks
from factory.cost.shapes import Unpriced, shape_of_folder
from factory.stages import Stage

FILE = "estimate.json"


class Estimate(Record):
    """What a stage was expected to take."""

    seconds: float
    tokens: int
    """Completion tokens drawn, or tokens trained on."""
    memory_gib: float
    disk_gib: float
    scratch_gib: float
    is_drawn: bool
    """Whether a model writes, so that lengths of completions matter."""
    is_assumed: bool
    """Whether these were assumed, not taken from an earlier run."""
    busy: float | None = None
    """Share of an engine's row-steps that draw a token, simulated; None where nothing is drawn."""
    tail: float | None = None
    """Share of its steps after the last request was given a row."""


@dataclass(frozen=True)
class Row:
    """A step with its estimate; none where it is reused, or for what is `missing`."""

    step: Step
    artifact: Artifact | None
    estimate: Estimate | None
    missing: str = ""
    context: CostContext | None = None
    """What it was estimated by."""


@dataclass(frozen=True)
class Bill:
    """The estimates of a plan."""

    rows: tuple[Row, ...]
    machine: Machine
    speed: Speed
    on_gpu: bool
    is_busy: bool
    """Whether other work made the measured speed too low."""
    device_gib: float
    seconds: float
    """Of the machine, with as many stages side by side as it takes."""
    price: float | None
    """Of all, in the machine file's currency."""

    @property
    def room_gib(self) -> float:
        """What a stage may take of a device; a processor's own memory as it is."""
        return self.device_gib * (ROOM if self.on_gpu else 1.0)

    @property
    def misfits(self) -> list[Row]:
        """The rows that take more."""
        priced = [(row, row.estimate) for row in self.rows if row.estimate is not None]
        return [row for row, estimate in priced if estimate.memory_gib > self.room_gib]

    @property
    def missing(self) -> list[str]:
        return [f"{row.step.name}: {row.missing}" for row in self.rows if row.missing]


def bill(
    plan: Sequence[Step],
    store: Path,
    machine: Machine,
    announce: Callable[[], None] | None = None,
) -> Bill:
    """The estimates of a plan's steps; EngineError where the device's speed is not known.

    `announce` is called before the processor is measured. ArtifactError where an artifact that
    would be reused is not what was sealed.
    """
    skipped = unneeded(plan, store)
    made = [(step, find(store, step.fingerprint)) for step in plan if step.name not in skipped]
    wanted = {step.name for step, artifact in made if artifact is None}
    site = _site(machine, store, *_earlier(store, plan, wanted), announce)
    rows = []
    for step, artifact in made:
        try:
            row, flow = _row(step, artifact, site)
        except (Unpriced, FactoryError) as gap:
            if artifact is not None and isinstance(gap, ArtifactError):
                raise
            if artifact is None and isinstance(gap, RecipeError):
                raise RecipeError(f"stages.{step.name}: {gap}") from gap
            rows.append(Row(step, artifact, None, str(gap)))
        else:
            rows.append(row)
            site.flows[step.name] = flow
    seconds = wall_seconds(rows, machine.parallel)
    price = machine.price_per_hour
    return Bill(
        tuple(rows),
        machine,
        site.speed,
        site.on_gpu,
        site.is_busy,
        site.device_bytes / GIB,
        seconds,
        None if price is None else price * seconds / 3600,
    )


def record(
    plan: Sequence[Step],
    store: Path,
    machine: Machine,
    announce: Callable[[], None] | None = None,
    *,
    check: Callable[[Bill], None] | None = None,
) -> Bill | None:
    """Keep the estimate of every step that is to be made, unless an attempt kept one before; first
    `check` may refuse the bill.

    Returns the plan's bill, None where no step takes long; raises as `bill` does.
    """
    if missing(plan):
        return None  # it will not be built
    skipped = unneeded(plan, store)
    plan = [step for step in plan if step.name not in skipped]
    folders = [store / f"{folder_name(step.name, step.fingerprint)}.run" for step in plan]
    unmade = [
        (step, folder / FILE)
        for step, folder in zip(plan, folders, strict=True)
        if find(store, step.fingerprint) is None
    ]
    lacking = {path for _, path in unmade if _kept(path) is None}
    if not any("torch" in step.stage.packages for step, _ in unmade):
        return None
    priced = bill(plan, store, machine, announce)
    if check is not None:
        check(priced)
    for row, folder in zip(priced.rows, folders, strict=True):
        path = folder / FILE
        if row.artifact is None and row.estimate is not None and path in lacking:
            folder.mkdir(parents=True, exist_ok=True)
            write_file(path, row.estimate.model_dump_json() + "\n")
    return priced


def recorded(artifact: Artifact) -> Estimate | None:
    """The estimate from before an artifact was made, or None if there is none."""
    return _kept(artifact.run_path / FILE)


def _kept(path: Path) -> Estimate | None:
    return read_file(path, Estimate.model_validate_json, instead="there is no estimate")


def wall_seconds(rows: Sequence[Row], parallel: int) -> float:
    """When the last step ends if each starts, in the plan's order, once its inputs are there and
    one of `parallel` places is free; steps without an estimate take no time."""
    names = {row.step.name for row in rows}  # an input that is not among them is there, or pruned
    inputs = {row.step.name: names.intersection(row.step.inputs.values()) for row in rows}
    ends: dict[str, float] = {}
    places = [0.0] * parallel
    waiting = list(rows)
    while waiting:
        able = [row for row in waiting if inputs[row.step.name] <= ends.keys()]
        places.sort()

        def start(row: Row, free: float = places[0]) -> float:
            return max([free, *(ends[name] for name in inputs[row.step.name])])

        row = min(able, key=start)
        begin = start(row)
        ends[row.step.name] = begin
        if row.estimate is not None:
            ends[row.step.name] = places[0] = begin + row.estimate.seconds
        waiting.remove(row)
    return max(ends.values(), default=0.0)


def _row(step: Step, artifact: Artifact | None, site: CostContext) -> tuple[Row, Flow]:
    if artifact is not None:
        return Row(step, artifact, None), _sealed(artifact)
    machine = site.machine
    if step.stage.trains:
        machine = machine.for_worker(in_ranks=step.stage.in_ranks)
    context = replace(
        site, machine=machine, name=step.name, inputs=step.inputs, seed=step.seed,
        trains=step.stage.trains,
    )  # fmt: skip
    taken, flow = step.stage.estimate(step.config, context)
    estimate = Estimate(
        seconds=round(taken.seconds, 1),
        tokens=round(taken.tokens),
        memory_gib=round(taken.memory / GIB, 2),
        disk_gib=round(taken.disk / GIB, 4),
        scratch_gib=round(taken.scratch / GIB, 2),
        is_drawn=taken.is_assumed is not None,
        is_assumed=bool(taken.is_assumed),
        busy=taken.filling and round(taken.filling.busy, 3),
        tail=taken.filling and round(taken.filling.tail, 3),
    )
    return Row(step, None, estimate, context=context), flow


def _sealed(artifact: Artifact) -> Flow:
    """What a reused artifact hands on, counted."""
    kind = artifact.manifest.kind
    if kind == "problems":
        return sealed_questions(artifact)
    if kind == "traces":
        return sealed_answers(artifact)
    if kind in ("pairs", "labels"):
        return sealed_texts(artifact)
    if kind == "scores":
        return None
    check_files(artifact)
    shape = shape_of_folder(artifact.path)
    files = artifact.manifest.files
    weights = sum(
        entry.size
        for name, entry in files.items()
        if "/" not in name and name.endswith(".safetensors")
    )
    return Model(shape, max(1, round(weights / shape.parameters)))


def _site(
    machine: Machine,
    store: Path,
    lengths: Mapping[str, float],
    kept: Mapping[str, float],
    announce: Callable[[], None] | None,
) -> CostContext:
    on_gpu = machine.device == "cuda" or (
        machine.device == "auto" and Path("/dev/nvidia0").exists()
    )
    stated = machine.peaks
    if on_gpu and stated is None:
        raise EngineError(
            "machine file: what the GPU does at best is not known: state peaks: {gflops, "
            "gigabytes_per_second, memory_gib}, as recipes/machines/gpu.yaml does for an H100"
        )
    if stated is None:
        memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        measured = processor_peaks(machine, store, announce)
        peaks, is_busy = measured.peaks, measured.is_busy
    else:
        memory, is_busy = stated.memory_gib * GIB, False
        peaks = Peaks(1e9 * stated.gflops, 1e9 * stated.gigabytes_per_second)
    engine = machine.engine
    if engine == "auto":
        engine = "vllm" if find_spec("vllm") else "transformers"
    speed = accelerator(peaks) if on_gpu else processor(peaks)
    return CostContext(machine, speed, on_gpu, memory, engine, is_busy, lengths, kept)


def _earlier(
    store: Path, plan: Sequence[Step], wanted: set[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """Of the newest earlier run of a stage of the same name and kind: mean tokens of a completion,
    under the same length limit; and the share that a selection kept, by the same settings."""
    lengths: dict[str, float] = {}
    kept: dict[str, float] = {}
    steps = {step.name: step for step in plan if step.name in wanted}
    for artifact in _runs(store, steps):
        manifest = artifact.manifest
        step = steps[manifest.name]
        config = step.config.model_dump(mode="json")
        limit = _limit(config)
        if limit is not None and limit == _limit(manifest.config):
            try:
                length = _mean_length(step.stage, artifact)
            except ArtifactError as error:
                note(f"no estimate rests on it: {error}")
                continue
            if length is not None:
                lengths[step.name] = length
        if step.kind == "select" and config == manifest.config:
            kept[step.name] = _kept_share(manifest.metrics)
    return lengths, kept


def _runs(store: Path, steps: Mapping[str, Step]) -> list[Artifact]:
    """Sealed artifacts of these steps' names and kinds, oldest first."""
    runs = []
    for path in store.glob("*/manifest.json"):
        name = path.parent.name.rpartition("-")[0]
        if name not in steps or path.parent.suffix:
            continue
        try:
            artifact = open_artifact(path.parent)
        except ArtifactError:
            continue  # whoever needs it will be told; it has nothing to say here
        if artifact.name == name and artifact.manifest.stage == steps[name].kind:
            runs.append(artifact)
    return sorted(runs, key=lambda artifact: artifact.manifest.created)


def _limit(config: Mapping[str, Any]) -> int | None:
    """`max_new_tokens` of a stage, wherever its kind has it."""
    return config.get("max_new_tokens") or (config.get("sampling") or {}).get("max_new_tokens")


def _kept_share(metrics: Mapping[str, float]) -> float:
    rejected = sum(value for name, value in metrics.items() if name.startswith("rejected."))
    return metrics["kept"] / (metrics["kept"] + rejected)


def _mean_length(stage: Stage, artifact: Artifact) -> float | None:
    """Tokens of a completion of a finished run; None where none was drawn."""
    tokens = artifact.manifest.metrics.get("completion_tokens")
    if tokens is None or stage.completions is None:
        return None
    completions = stage.completions(artifact)
    return tokens / completions if completions else None
