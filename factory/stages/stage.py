"""A stage is one row: all that the factory knows of a kind of stage stands in it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from factory.core.artifacts import Artifact, Inputs
from factory.core.blocks import Block
from factory.core.context import Context, Metrics
from factory.core.errors import PluginError
from factory.core.machine import Machine
from factory.core.plugin_files import guarded
from factory.core.records import OWN_LICENCE, ArtifactKind, Record
from factory.core.registry import Door, current_origin, modules_of
from factory.cost.context import CostContext, Flow, StageCost
from factory.problems.source import Fields, as_it_stands, no_files, nothing_missing


class StageConfig(Record):
    """Base of the stages' configs; each adds `kind: Literal[...]`, the union's discriminator."""

    seed: int | None = Field(default=None, ge=0, lt=2**31)
    """Instead of the recipe's: several stages with all else equal show how much is chance."""

    def outlook(self) -> list[str]:
        """What `factory plan` says of the stage beforehand, e.g. how it reads a file."""
        return []


@dataclass(frozen=True)
class Origin:
    """Something from outside that a stage brought in: weights or data."""

    what: str
    """A hub id, or the name of a file or a folder."""
    licence: str
    """As its source states it; empty where nothing does."""


@dataclass(frozen=True)
class Shows:
    """What a report shows of a stage, besides its cost, its lineage and its curves."""

    section: str
    """The section of the report; `stages` is for kinds that fit in no other."""
    blocks: Callable[[Artifact], Sequence[Block]]
    """From what it sealed; tables with the header of another stage's become one table where the
    section merges them."""


SAMPLING_MEMORY = ("block", "rows", "engine_memory_gib", "gpu_memory_fraction")
"""Machine settings that bound the memory of a stage that samples and does not train."""
ON_CPU_ALONE, ON_GPU_ALONE = (
    {"engine_memory_gib"}, {"gpu_memory_fraction", "gpu_memory_fraction_rl"},
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """A kind of stage. No field has a default: what is forgotten fails at import."""

    kind: str
    """Its name in a recipe."""
    config: type[StageConfig]
    produces: ArtifactKind
    version: int
    """Raise it when the same config and inputs should give different content."""
    run: Callable[[Any, Inputs, Path, Context], Metrics]
    """`run(config, inputs, out, context)` fills the empty folder `out`; returns flat metrics."""
    packages: tuple[str, ...]
    """Distributions whose version changes the numbers, hence part of the fingerprint."""
    preload: tuple[str, ...]
    """Modules that `run` imports and that are slow to: the fork server loads them once."""
    trains: bool
    """Trains a model, by the machine's launcher with all its ranks."""
    is_single: bool
    """Trains in one process, whatever the machine's launcher."""
    external_files: Callable[[Any], tuple[Path, ...]]
    """Files outside the store that decide what is made, hence part of the fingerprint."""
    uses: Callable[[Any], set[tuple[str, str]]]
    """(door, name) of rows that decide what is made and that no field of the config names, such as
    the graders of the problems that it reads from a file."""
    check: Callable[[Any], list[str]]
    """Problems of a config that its types cannot express, before anything runs."""
    missing: Callable[[Any], list[str]]
    """What a recipe leaves open, e.g. `source.revision: the commit of ...`: it plans and rehearses
    without, and is not built."""
    is_served: Callable[[Any], bool]
    """Whether the model is on a server: it can be asked, and has no weights here."""
    memory_settings: tuple[str, ...]
    """Machine settings that the stage reads and that take less memory when lowered, the most
    helpful first; () where there is none."""
    estimate: Callable[[Any, CostContext], tuple[StageCost, Flow]]
    """What a run takes, and what it hands on; Unpriced where it cannot be said."""
    completions: Callable[[Artifact], float] | None
    """How many completions a finished run drew, by what it sealed: their mean length is
    what the next run of the stage is estimated with. None where the stage draws none."""
    tokens: Literal["none", "sampled", "learned"]
    """What its metric `completion_tokens` counts."""
    small: Callable[[Fields], Fields]
    """Its config for a rehearsal: the same settings, at a size that takes seconds."""
    visible: tuple[str, ...] | None
    """Settings that show in what it makes to those who read it, so that one rehearsed stage may
    stand for another that differs in the rest; None: all of them."""
    origins: Callable[[Artifact], list[Origin]]
    """What the artifact brought in from outside, for licences; empty where all comes from its
    inputs."""
    unseen: Callable[[Mapping[str, Any]], str]
    """By its config as JSON: what its weights were trained on that no artifact holds, with
    `{name}` for the stage; empty where there is nothing of it."""
    shows: Shows | None

    @property
    def in_ranks(self) -> bool:
        return self.trains and not self.is_single

    def memory_advice(self, machine: Machine | None) -> str:
        """What a user whose stage ran out of memory on this machine can do about it.

        Settings that are at their least, or count on another device, are left out; None leaves out
        none.
        """
        settings = [
            name
            for name in self.memory_settings
            if machine is None or _can_be_lowered(name, machine)
        ]
        if machine is not None and machine.parallel > 1:
            settings.append("parallel")
        if not settings:
            return (
                "no machine setting lowers what this stage needs: take a machine with more "
                "memory, or make the stage smaller in the recipe"
            )
        *others, last = settings
        named = f"{', '.join(others)} or {last}" if others else last
        return f"lower {named} in the machine file and start again (it resumes)"


def _can_be_lowered(name: str, machine: Machine) -> bool:
    """Whether a setting counts for the machine's device and engine and is above its least."""
    if name in (ON_CPU_ALONE if machine.may_take_gpu() else ON_GPU_ALONE):
        return False
    if name == "rows" and machine.engine == "transformers":
        return False  # vLLM's alone
    value = machine.thread_count() if name == "threads" else getattr(machine, name)
    return isinstance(value, float) or value > 1


GIVES: Mapping[str, type] = {
    "external_files": tuple, "uses": set, "check": list, "missing": list, "is_served": bool,
    "small": dict, "origins": list, "unseen": str,
}  # fmt: skip
"""What the functions of a row return that are called while a recipe is planned or published."""
STAGES: Door[Stage] = Door("stages", "kind of stage", modules_of("factory.stages"))
"""Each kind is a file or folder of `factory/stages/`, which registers its row."""


def register(stage: Stage) -> Stage:
    """Open the factory to a kind of stage: recipes name it by its `kind`.

    What a plug-in's does wrong while a recipe is planned is a PluginError with stage and field.
    """
    if not isinstance(stage, Stage):
        raise PluginError(f"register takes a Stage, found {stage!r}: use light_stage(...)")
    origin = current_origin()
    guards = {
        name: guarded(getattr(stage, name), f"stage {stage.kind}: {name}", origin, gives)
        for name, gives in GIVES.items()
    }
    guards["estimate"] = guarded(
        lambda config, cost: _is_priced(stage.estimate(config, cost)),
        f"stage {stage.kind}: estimate", origin, tuple,
    )  # fmt: skip
    own = stage if origin.kind == "factory" else replace(stage, **guards)
    STAGES.register(stage.kind, own, version=stage.version)
    return stage


def _is_priced(value: Any) -> tuple[StageCost, Flow]:
    if not (isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], StageCost)):
        raise TypeError(f"gave {value!r}, a StageCost and what the stage hands on are wanted")
    return value


def light_stage(
    config: type[StageConfig],
    *,
    produces: ArtifactKind,
    version: int,
    run: Callable[[Any, Inputs, Path, Context], Metrics],
    estimate: Callable[[Any, CostContext], tuple[StageCost, Flow]],
    **fields: Any,
) -> Stage:
    """The row of a stage that loads no model and reads nothing from outside; `fields` overrules.

    Its kind is that of the config's `kind: Literal[...]`.
    """
    (kind,) = get_args(config.model_fields["kind"].annotation)
    defaults: dict[str, Any] = {
        "packages": (), "preload": (), "trains": False, "is_single": False,
        "external_files": no_files,
        "uses": no_rows, "check": no_objection, "missing": nothing_missing,
        "is_served": never_served, "memory_settings": (), "completions": None,
        "tokens": "none", "small": as_it_stands, "visible": None, "origins": no_origins,
        "unseen": nothing_unseen, "shows": None,
    }  # fmt: skip
    return Stage(
        kind=kind, config=config, produces=produces, version=version, run=run, estimate=estimate,
        **{**defaults, **fields},
    )  # fmt: skip


def sampling_stage(
    config: type[StageConfig],
    *,
    packages: Sequence[str] = ("torch", "transformers"),
    small: Callable[[Fields], Fields],
    **fields: Any,
) -> Stage:
    """The row of a stage that draws with a sampler and does not train."""
    drawing: dict[str, Any] = {
        "preload": ("transformers", "factory.sampling.blocks", "factory.sampling.transformers"),
        "memory_settings": SAMPLING_MEMORY, "tokens": "sampled", "completions": traces_metric,
    }  # fmt: skip
    return light_stage(config, packages=packages, small=small, **{**drawing, **fields})


def training_stage(
    config: type[StageConfig],
    *,
    packages: Sequence[str],
    preload: Sequence[str],
    memory_settings: Sequence[str],
    tokens: Literal["sampled", "learned", "none"],
    small: Callable[[Fields], Fields],
    visible: tuple[str, ...] | None,
    **fields: Any,
) -> Stage:
    """The row of a stage that trains in all ranks of the launcher."""
    return light_stage(
        config, packages=packages, preload=preload, memory_settings=memory_settings, trains=True,
        tokens=tokens, small=small, visible=visible, **fields,
    )  # fmt: skip


def no_rows(config: Any) -> set[tuple[str, str]]:
    return set()


def no_objection(config: Any) -> list[str]:
    return []


def never_served(config: Any) -> bool:
    return False


def no_origins(artifact: Artifact) -> list[Origin]:
    return []


def nothing_unseen(config: Mapping[str, Any]) -> str:
    return ""


def traces_metric(artifact: Artifact) -> float:
    """Completions of a run that counts them as its metric `traces`."""
    return artifact.manifest.metrics.get("traces", 0.0)


def file_origin(source: Mapping[str, Any]) -> Origin:
    """A file, or a hub data set, by its config; shipped files are the factory's own."""
    path = str(source.get("path") or "")
    is_shipped = path.startswith("recipes/data/")
    what = Path(path).name if path else str(source["id"])
    return Origin(what, str(source.get("licence") or (OWN_LICENCE if is_shipped else "")))
