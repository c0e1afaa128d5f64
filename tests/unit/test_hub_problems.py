"""Problems of hub data sets: pinned, read by column, only those whose reference grades."""

import json
from pathlib import Path
from typing import Any

import pytest

from factory.core.artifacts import Inputs
from factory.core.context import Context
from factory.core.errors import DataError, RecipeError
from factory.core.jsonl import read_records
from factory.core.machine import Machine
from factory.core.records import Problem
from factory.problems.hub import HubSource, supply
from factory.stages.problems import STAGE, ProblemsConfig
from factory.trainers.watch import group_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def source(**changes: Any) -> dict[str, Any]:
    fields = {"id": "org/sums", "revision": COMMIT, "question": "problem", "reference": "answer"}
    return {"type": "hub", **fields, **changes}


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What the stand-in of the hub holds, to be filled by the test."""
    import datasets

    rows_of_hub: list[dict[str, str]] = []

    def load_dataset(name: str, config: str | None, *, split: str, revision: str) -> Any:
        assert (name, config, split, revision) == ("org/sums", None, "train", COMMIT)
        return datasets.Dataset.from_list(rows_of_hub)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return rows_of_hub


def sums(count: int) -> list[dict[str, str]]:
    return [{"problem": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(count)]


def make(folder: Path, **changes: Any) -> tuple[dict[str, float], list[Problem], list[Problem]]:
    data = {"kind": "problems", "sources": [source(**changes)]}
    folder.mkdir(exist_ok=True)
    config = ProblemsConfig.model_validate_json(json.dumps(data))
    metrics = STAGE.run(config, Inputs(), folder, Context(7, Machine(), folder))
    splits = [list(read_records(folder / f"{s}.jsonl", Problem)) for s in ("train", "held_out")]
    return metrics, splits[0], splits[1]


def test_columns_become_problems_of_both_splits(rows: list, tmp_path: Path) -> None:
    rows += sums(30)
    metrics, train, held_out = make(tmp_path, held_out=10, licence="MIT")
    assert (metrics["sums.train"], metrics["sums.held_out"]) == (20, 10)
    assert {p.prompt for p in train + held_out} == {row["problem"] for row in rows}
    assert {(p.kind, p.source, p.licence) for p in train} == {("math", "sums", "MIT")}
    assert [p.prompt for p in held_out] != [row["problem"] for row in rows[:10]], "not shuffled"


def test_a_column_of_difficulty_is_kept_as_the_level(rows: list, tmp_path: Path) -> None:
    rows += [{**row, "difficulty": 5.5} for row in sums(3)]
    _, train, _ = make(tmp_path / "with", level="difficulty")
    assert {problem.data["level"] for problem in train} == {5.5}
    assert {group_of(problem) for problem in train} == {"level 5.5"}
    _, train, _ = make(tmp_path / "without")
    assert [problem.data for problem in train] == [{}] * 3


def test_a_row_whose_reference_does_not_grade_is_left_out(rows: list, tmp_path: Path) -> None:
    rows += [*sums(30), {"problem": "Prove it.", "answer": ""}]
    _, train, _ = make(tmp_path)
    assert len(train) == 30


def test_too_many_such_rows_stop_the_stage_with_the_first_of_them(rows: list) -> None:
    rows += [*sums(8), {"problem": "Prove it.", "answer": ""}]
    stream = supply(HubSource.model_validate(source()), 0)
    with pytest.raises(DataError, match=r"org/sums: 1 of 9 references .* at most 5% of 9 may"):
        list(stream.problems)


def test_a_missing_column_is_named_with_those_there_are(rows: list) -> None:
    rows += sums(2)
    with pytest.raises(DataError, match="no column solution; there are problem, answer"):
        supply(HubSource.model_validate(source(reference="solution")), 0)


def test_a_data_set_that_cannot_be_had_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(*_: Any, **__: Any) -> Any:
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=f"org/sums at {COMMIT}: cannot be read: offline"):
        supply(HubSource.model_validate(source()), 0)


def test_an_open_revision_is_not_read() -> None:
    with pytest.raises(RecipeError, match="org/sums: its revision is not filled in"):
        supply(HubSource.model_validate(source(revision=None)), 0)


@pytest.mark.parametrize("revision", ["main", "0123456", COMMIT.upper(), COMMIT + "0"])
def test_a_branch_or_a_short_commit_is_refused(revision: str) -> None:
    with pytest.raises(ValueError, match="revision"):
        HubSource.model_validate(source(revision=revision))
