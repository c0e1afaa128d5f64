"""The door of measures: a number of one graded sample, by name; claims compare their means.

@measure("hedges", version=1)
def hedges(sample: EvalSample) -> float | None: ...

Measures change what a report says of finished evaluations, and nothing that is made.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from factory.core.errors import PluginError
from factory.core.plugin_files import guarded
from factory.core.records import EvalSample
from factory.core.registry import Door

Function = Callable[[EvalSample], float | None]
F = TypeVar("F", bound=Function)


@dataclass(frozen=True)
class Measure:
    """What is measured of each sample of a problem."""

    function: Function
    """Gives a finite number within `bounds`, or None where it does not apply to the sample."""
    bounds: tuple[float, float]
    of_problem: Literal["mean", "largest"]
    """What stands for a problem: the mean over its samples, or the largest value."""

    @property
    def is_share(self) -> bool:
        """Whether its values are shares, which are shown in per cent."""
        return self.bounds == (0.0, 1.0)


MEASURES: Door[Measure] = Door("measures", "measure", ["factory.evaluation.measures"])


def measure(
    name: str,
    *,
    version: int,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    of_problem: Literal["mean", "largest"] = "mean",
) -> Callable[[F], F]:
    """Register a function as a measure; raise `version` when it should give other values.

    With bounds of 0 and 1 it is a share, shown in per cent. What it returns outside its bounds, or
    not finite, is an error.
    """

    def registered(function: F) -> F:
        MEASURES.register(name, Measure(function, bounds, of_problem), version=version)
        return function

    return registered


def value_of(name: str, sample: EvalSample) -> float | None:
    """What a measure gives a sample; PluginError, naming measure and problem, where it fails."""
    row = MEASURES.row(name)
    where = f"measure {name}, problem {sample.trace.problem_id}"
    value = guarded(row.value.function, where, row.origin, object)(sample)
    if value is None:
        return None
    low, high = row.value.bounds
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        fault = "a finite number or None is wanted"
    elif not low <= value <= high:
        fault = f"outside its bounds {low:g} to {high:g}"
    else:
        return float(value)
    raise PluginError(f"{row.origin}: {where}: gave {value!r}, {fault}")
