"""The door of benchmarks: a function that gives the problems of one, by name.

@benchmark("tickets_50", version=1, licence="CC0-1.0")
def tickets_50() -> Iterator[Problem]: ...
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any, TypeVar

from factory.core.errors import PluginError
from factory.core.plugin_files import guarded
from factory.core.records import Problem
from factory.core.registry import Door, Row

Function = Callable[[], Iterable[Problem]]
F = TypeVar("F", bound=Function)
MOST_PROBLEMS = 100_000
"""Of one benchmark: a function that gives more is taken for one that never ends."""


@dataclass(frozen=True)
class Benchmark:
    """Problems that are asked under one name, and never trained on."""

    function: Function
    """Gives the same problems at every call."""
    licence: str
    """Of problems that state none."""


BENCHMARKS: Door[Benchmark] = Door("benchmarks", "benchmark", ["factory.problems.benchmarks"])


def benchmark(name: str, *, version: int, licence: str) -> Callable[[F], F]:
    """Register a function as a benchmark; raise `version` when it should ask something else.

    Scores carry the version: those of two versions are not compared.
    """

    def registered(function: F) -> F:
        BENCHMARKS.register(name, Benchmark(function, licence), version=version)
        return function

    return registered


def benchmark_problems(name: str) -> tuple[Problem, ...]:
    """The problems of a benchmark, in its order.

    PluginError, naming benchmark and fault, where it does not give such problems; RecipeError or
    DataError where data of the factory's own is not installed.
    """
    return _problems(BENCHMARKS.row(name))


@cache
def _problems(row: Row[Benchmark]) -> tuple[Problem, ...]:
    problems = _given(row)
    if row.origin.kind != "factory":
        _check(row, problems)
    licence = row.value.licence
    return tuple(p if p.licence else p.model_copy(update={"licence": licence}) for p in problems)


def _given(row: Row[Benchmark]) -> list[Any]:
    def read() -> list[Any]:
        return list(islice(row.value.function(), MOST_PROBLEMS + 1))

    return guarded(read, f"benchmark {row.name}", row.origin, list)()


def _check(row: Row[Benchmark], problems: list[Any]) -> None:
    """PluginError where these are no problems to ask, or others at the next call."""
    wrong = next((item for item in problems if not isinstance(item, Problem)), None)
    ids = {problem.id for problem in problems if isinstance(problem, Problem)}
    if wrong is not None:
        fault = f"gave {wrong!r}, Problems one after the other are wanted"
    elif not problems:
        fault = "gave no problems"
    elif len(problems) > MOST_PROBLEMS:
        fault = f"gave more than {MOST_PROBLEMS} problems: end it, with itertools.islice for one"
    elif len(ids) < len(problems):
        fault = "gave two problems of one id; give each an id of its own"
    elif _given(row) != problems:
        fault = "gave other problems when it was called again; seed what is random in it"
    else:
        return
    raise PluginError(f"{row.origin}: benchmark {row.name}: {fault}")
