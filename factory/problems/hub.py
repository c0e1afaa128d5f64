"""Problems from a data set of the hub, at a pinned revision."""

import random
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from factory.core.errors import DataError, RecipeError
from factory.core.records import COMMIT, AddedLater, Problem, ProblemKind
from factory.core.seeds import derive
from factory.grading import GradeItem, GradingPool
from factory.problems.references import NO_ANSWER, final_answer, is_solution
from factory.problems.sizes import QUESTION_CHARACTERS, hub_rows
from factory.problems.source import (
    SOURCES,
    Fields,
    ProblemSource,
    Source,
    SourceSize,
    no_files,
    no_graders,
    of_splits,
)
from factory.problems.splits import Supply, problem_id
from factory.text.chat import completion_text

CHECKED_AT_ONCE = 256
"""References a call to the graders' pool: enough to keep its processes busy."""


class HubSource(ProblemSource):
    """Questions of a hub data set, read by column."""

    type: Literal["hub"]
    id: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """Owner and name of the data set."""
    revision: str | None = Field(default=None, pattern=COMMIT)
    """The commit's 40 hex digits. A recipe may leave it open; it must be filled in to be built."""
    config: str | None = None
    """The data set's configuration (subset), where it has several."""
    split: str = "train"
    """Of the data set."""
    question: str
    """Column that holds the question."""
    reference: str
    """Column that holds the right answer."""
    level: Annotated[str | None, AddedLater()] = None
    """Column that holds the difficulty; `grpo` with a watch tells accuracy by it."""
    kind: ProblemKind = "math"
    """Of all its problems: by which rule answers are graded."""
    licence: str = ""
    """As the hub writes it."""
    train: int | None = Field(default=None, ge=0, le=10**8)
    """How many; None takes all that remain."""
    held_out: int | None = Field(default=0, ge=0, le=10**8)
    """How many, drawn at random; None takes all (then `train` must be 0)."""
    max_refused_share: float = Field(default=0.05, ge=0, le=1)
    """Share of rows whose reference its own grader may refuse, before the stage stops; ours."""

    @model_validator(mode="after")
    def _one_split_takes_the_rest(self) -> "HubSource":
        if self.held_out is None and self.train != 0:
            raise ValueError("held_out: null takes every problem, so train must be 0")
        return self


def supply(source: HubSource, seed: int, *, processes: int = 1) -> Supply:
    """The data set's problems, shuffled if they are split.

    Rows without text, and rows whose reference does not grade as correct, are left out: such a
    problem could reward nothing. DataError where they are more than `max_refused_share`, where a
    column is missing, or where the data set cannot be had.
    """
    named = [source.question, source.reference, *([source.level] if source.level else [])]
    rows = data_set_rows(
        source.id, source.revision, config=source.config, split=source.split, columns=named
    )
    label = source.id.rpartition("/")[2]
    order = list(range(len(rows)))
    if source.held_out and source.train != 0:
        random.Random(derive(seed, source.id)).shuffle(order)
    problems = [_problem(rows[number], source, label) for number in order]
    return Supply(
        label,
        _usable(problems, source, processes=processes),
        source.held_out,
        source.train,
        is_exact=True,
    )


def data_set_rows(
    data_set: str,
    revision: str | None,
    *,
    config: str | None,
    split: str,
    columns: Sequence[str],
) -> Any:
    """A hub data set at a pinned revision, as `datasets` loads it.

    RecipeError where the revision is not filled in, DataError where the data set cannot be had or
    lacks one of the columns.
    """
    from datasets import load_dataset

    if revision is None:
        raise RecipeError(f"data set {data_set}: its revision is not filled in")
    try:
        rows = load_dataset(data_set, config, split=split, revision=revision)
    except (OSError, ValueError) as error:
        raise DataError(f"data set {data_set} at {revision}: cannot be read: {error}") from error
    missing = [name for name in columns if name not in rows.features]
    if missing:
        raise DataError(
            f"data set {data_set}: no column {' and no column '.join(missing)}; "
            f"there are {', '.join(rows.features)}"
        )
    return rows


def held_table(rows: list[dict[str, Any]]) -> Any:
    """Rows as a data set of `datasets`, held in memory."""
    from datasets import Dataset

    return Dataset.from_list(rows)


def _problem(row: dict[str, Any], source: HubSource, label: str) -> Problem:
    question, reference = (str(row[name] or "") for name in (source.question, source.reference))
    return Problem(
        id=problem_id(label, question),
        prompt=question,
        reference=final_answer(reference) if source.kind == "math" else reference,
        kind=source.kind,
        source=label,
        licence=source.licence,
        data={} if source.level is None else {"level": row[source.level]},
    )


def _usable(problems: list[Problem], source: HubSource, *, processes: int) -> Iterator[Problem]:
    """Problems whose reference grades as correct, graded ahead in killable processes."""
    if source.kind in ("code", "open"):
        yield from (problem for problem in problems if problem.prompt.strip())
        return
    refused: list[str] = []
    with GradingPool(processes) as pool:
        for start in range(0, len(problems), CHECKED_AT_ONCE):
            batch = problems[start : start + CHECKED_AT_ONCE]
            texts = [completion_text("", problem.reference) for problem in batch]
            items = [GradeItem(p, text) for p, text in zip(batch, texts, strict=True)]
            for problem, verdict in zip(batch, pool.grade(items), strict=True):
                is_told = problem.kind == "math" and is_solution(problem.reference)
                if problem.prompt.strip() and verdict.is_correct and not is_told:
                    yield problem
                else:
                    why = NO_ANSWER if is_told else verdict.explanation
                    refused.append(f"{problem.reference!r}: {why}")
            if len(refused) > source.max_refused_share * len(problems):
                raise DataError(
                    f"data set {source.id}: {len(refused)} of {start + len(batch)} references do "
                    f"not grade as correct, at most {source.max_refused_share:.0%} of "
                    f"{len(problems)} may; the first: {refused[0]}"
                )


def size(source: HubSource, seed: int) -> SourceSize:
    label = source.id.rpartition("/")[2]
    return of_splits(source, label, QUESTION_CHARACTERS, count=lambda: hub_rows(source.id))


def missing(source: HubSource) -> list[str]:
    """The commit of the data set, where the recipe leaves it open."""
    if source.revision is not None:
        return []
    return [f"revision: the commit of huggingface.co/datasets/{source.id} to read"]


def not_at_hand(fields: Fields) -> None:
    return None


SOURCES.register(
    "hub",
    Source(
        config=HubSource,
        function=None,
        supply=lambda source, seed, processes: supply(source, seed, processes=processes),
        size=size,
        small=not_at_hand,
        files=no_files,
        graders=no_graders,
        missing=missing,
        licence="",
    ),
    version=2,
)
