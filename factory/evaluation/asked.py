"""The problems behind a benchmark's answers, and whether they may be shown."""

from collections.abc import Iterable

from factory.core.artifacts import Artifact
from factory.core.jsonl import read_records
from factory.core.records import Problem
from factory.problems.benchmark import BENCHMARKS, benchmark_problems

PROTECTED = "gpqa"
"""Benchmarks with this in a name: their authors ask not to reprint questions (arXiv 2311.12022), so
that no model learns them from pages like ours."""
NO_REPRINT = "not to be reprinted"
"""What the licence of a problem says that is protected likewise, whatever its name."""


def problems_by_id(task: str | None, problems: Artifact | None) -> dict[str, Problem]:
    """A benchmark's problems by id: those of its artifact, or of the row that its task names.

    None where lm-eval brings its own. RecipeError where a package with data is not installed.
    """
    rows: Iterable[Problem] = ()
    if task is not None and task in BENCHMARKS:
        rows = benchmark_problems(task)
    elif problems is not None:
        rows = read_records(problems.file("held_out.jsonl"), Problem)
    return {problem.id: problem for problem in rows}


def is_protected(names: Iterable[str], problems: Iterable[Problem] = ()) -> bool:
    """Whether no text of a benchmark may be shown: its questions, and answers that repeat them.

    `names` are those of the benchmark, its task and its problems' ids; a problem tells by its
    source and licence.
    """
    requested = list(problems)
    sources = (problem.source for problem in requested)
    return any(PROTECTED in name.casefold() for name in (*names, *sources)) or any(
        NO_REPRINT in problem.licence.casefold() for problem in requested
    )
