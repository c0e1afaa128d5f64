"""Rows of plug-in sources, read in a process that is killed where it hangs."""

import json
from collections.abc import Iterator
from typing import Any, TypeVar

from factory.core.data_file import WITH_PATHS
from factory.core.errors import DataError, EngineError
from factory.core.jsonl import parse_record
from factory.core.plugin_files import loaded_plugins
from factory.core.records import GRADERS, Problem, Record
from factory.core.registry import DOORS
from factory.grading import GradeItem, GradingPool
from factory.grading.process import LineProcess
from factory.problems.references import NO_ANSWER, is_solution
from factory.text.chat import completion_text

R = TypeVar("R", bound=Record)

SECONDS = 300.0
"""Wall clock of one row: the first may have to read a large file."""
MOST_ROWS = 2_000_000
"""Rows of a source that is not declared to be endless."""
UNGRADED = ("code", "open")
"""Kinds whose references are not graded before they are used."""


def checked_problems(
    name: str,
    config: Record,
    *,
    seed: int,
    graders: tuple[str, ...],
    is_endless: bool,
    licence: str,
) -> Iterator[Problem]:
    """The problems of a plug-in's source; DataError names the row of one that cannot be used.

    It needs a question and a reference that its own grader takes. `licence` is of those that state
    none.
    """
    where = _where("sources", name)
    rows = foreign_rows(
        "sources", name, config, Problem, graders=graders, seed=seed, is_endless=is_endless
    )
    with GradingPool() as pool:
        for number, problem in enumerate(rows, start=1):
            row = f"{where}, row {number}"
            if not problem.prompt.strip():
                raise DataError(f"{row}: its question is empty")
            check_reference(problem, row, pool)
            yield problem if problem.licence else problem.model_copy(update={"licence": licence})


def check_reference(problem: Problem, row: str, pool: GradingPool) -> None:
    """DataError, beginning with `row`, where a problem's grader does not take its reference."""
    if problem.kind in UNGRADED:
        return
    if problem.kind == "math" and is_solution(problem.reference):
        raise DataError(f"{row}: its reference {problem.reference!r}: {NO_ANSWER}")
    (verdict,) = pool.grade([GradeItem(problem, completion_text("", problem.reference))])
    if not verdict.is_correct:
        raise DataError(
            f"{row}: its reference {problem.reference!r} does not grade as correct "
            f"({verdict.outcome}: {verdict.explanation}); mend it or its kind ({problem.kind})"
        )


def foreign_rows(
    door: str,
    name: str,
    config: Record,
    record: type[R],
    *,
    graders: tuple[str, ...],
    seed: int | None = None,
    is_endless: bool = False,
) -> Iterator[R]:
    """What the function of a row gives, one after the other, as records with a `kind`.

    EngineError, with row, function and number, where it raises, gives something else, takes
    longer than five minutes for one, or does not end. DataError for a plug-in's kind that is not
    declared in `graders`: the fingerprints of all that reads the rows count that grader.
    """
    where = _where(door, name)
    files = json.dumps([file.model_dump() for file in loaded_plugins()])
    process = LineProcess("factory.problems.child", [files], purpose="plug-in")
    try:
        process.wait_until_ready()
        request: dict[str, Any] = {"door": door, "name": name, "seed": seed}
        request["config"] = config.model_dump(mode="json", context=WITH_PATHS)
        number = 0
        while True:
            process.send(json.dumps(request).encode() if number == 0 else b"{}", seconds=SECONDS)
            line, failure = process.receive()
            number += 1
            answer = {"error": failure} if line is None else json.loads(line)
            if "error" in answer:
                raise EngineError(f"{where}, row {number}: {answer['error']}")
            if "row" not in answer:
                return
            if number > MOST_ROWS and not is_endless:
                raise EngineError(f"{where}: still no end after {MOST_ROWS:,} rows")
            row = parse_record(answer["row"], record, f"{where}, row {number}")
            kind = getattr(row, "kind")  # noqa: B009
            if kind not in graders and GRADERS.row(kind).origin.kind != "factory":
                raise DataError(
                    f"{where}, row {number}: its kind {kind} is a plug-in's, which the source has "
                    f'to declare: graders=("{kind}",)'
                )
            yield row
    finally:
        process.kill()


def _where(door: str, name: str) -> str:
    row = DOORS[door].row(name)
    function = getattr(row.value.function, "__name__", "its function")
    return f"{DOORS[door].noun} {name} of {row.origin}, {function}"
