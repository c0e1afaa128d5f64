"""A stage is a row of a table: a config type, the kind it produces, a version, and `run`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from factory.artifacts import Inputs
from factory.context import Context, Metrics
from factory.machine import Machine
from factory.records import ArtifactKind, Record


class StageConfig(Record):
    """Base of the stages' configs; each adds `kind: Literal[...]`, the union's discriminator."""

    seed: int | None = Field(default=None, ge=0, lt=2**31)
    """Instead of the recipe's: several stages with all else equal show how much is chance."""


def nothing_external(config: Any) -> tuple[Path, ...]:
    return ()


def nothing_missing(config: Any) -> list[str]:
    return []


def nothing_to_object(config: Any) -> list[str]:
    return []


def never_served(config: Any) -> bool:
    return False


SAMPLING_MEMORY = ("block", "rows", "engine_memory_gib", "gpu_memory_fraction")
"""Machine settings that bound the memory of a stage that samples and does not train."""
ON_CPU_ALONE, ON_GPU_ALONE = (
    {"engine_memory_gib"}, {"gpu_memory_fraction", "gpu_memory_fraction_rl"},
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """`run(config, inputs, out, context)` fills the empty folder `out` and returns flat metrics."""

    config: type[StageConfig]
    produces: ArtifactKind
    version: int
    """Raise it when the same config and inputs should give different content."""
    run: Callable[[Any, Inputs, Path, Context], Metrics]
    memory_settings: tuple[str, ...]
    """Machine settings that the stage reads and that take less memory when lowered, the most
    helpful first; () where there is none."""
    packages: tuple[str, ...] = ()
    """Distributions whose version changes the numbers, hence part of the fingerprint."""
    preload: tuple[str, ...] = ()
    """Modules that `run` imports and that are slow to: the fork server loads them once."""
    trains: bool = False
    """Trains a model, by the machine's launcher with all its ranks."""
    is_single: bool = False
    """Trains in one process, whatever the machine's launcher."""
    external_files: Callable[[Any], tuple[Path, ...]] = nothing_external
    """Files outside the store that decide what is made, hence part of the fingerprint."""
    check: Callable[[Any], list[str]] = nothing_to_object
    """Problems of a config that its types cannot express, found before anything runs."""
    missing: Callable[[Any], list[str]] = nothing_missing
    """What a recipe leaves open, e.g. `source.revision: the commit of ...`: it plans and rehearses
    without, and is not built."""
    is_served: Callable[[Any], bool] = never_served
    """Whether the model is on a server: it can be asked, and has no weights here."""

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
