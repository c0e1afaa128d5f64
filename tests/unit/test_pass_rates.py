"""How often each problem was solved, and the problems in a window of that."""

from pathlib import Path

import pytest
from fine_tuning import sealed, trace
from pydantic import ValidationError

from factory.core.artifacts import Inputs
from factory.core.context import Context
from factory.core.errors import DataError
from factory.core.jsonl import read_records, write_records
from factory.core.machine import Machine
from factory.core.records import Problem, Trace, Verdict
from factory.stages.grpo.config import GrpoConfig
from factory.stages.grpo.train import planned_questions
from factory.stages.pass_rates import STAGE, PassRate, PassRatesConfig, shown
from factory.stages.select import SelectConfig, select

RIGHTS = {"never": 0, "rare": 1, "half": 2, "often": 3, "always": 4}
"""Of four answers each."""


def problem(name: str) -> Problem:
    return Problem(id=name, prompt=f"{name}?", reference="4", kind="math", source="sums")


def answers(name: str, right: int, of: int = 4, outcome: str = "wrong") -> list[Trace]:
    outcomes = ["correct"] * right + [outcome] * (of - right)
    return [
        trace(0).model_copy(
            update={
                "problem_id": name,
                "sample": sample,
                "verdict": Verdict(outcome=outcome, answer=None, explanation=""),
            }
        )
        for sample, outcome in enumerate(outcomes)
    ]


def run(tmp_path: Path, *, more: list[Trace] = [], **settings):  # noqa: B006 - is not changed
    (tmp_path / "problems").mkdir()
    names = [*RIGHTS, "unasked"]
    write_records(tmp_path / "problems" / "train.jsonl", map(problem, names))
    write_records(tmp_path / "problems" / "held_out.jsonl", [problem("held")])
    (tmp_path / "traces").mkdir()
    rows = [row for name, right in RIGHTS.items() for row in answers(name, right)]
    write_records(tmp_path / "traces" / "traces.jsonl", [*rows, *more])
    inputs = Inputs(
        problems=sealed(tmp_path / "problems", "problems"),
        traces=sealed(tmp_path / "traces", "traces"),
    )
    config = PassRatesConfig(kind="pass_rates", problems="p", traces="t", **settings)
    out = tmp_path / "out"
    out.mkdir()
    metrics = STAGE.run(config, inputs, out, Context(3, Machine(), tmp_path))
    return metrics, [p.id for p in read_records(out / "train.jsonl", Problem)], out


def test_problems_in_the_window_are_kept_and_every_rate_is_in_the_table(tmp_path: Path) -> None:
    metrics, kept, out = run(tmp_path, lowest=0.25, highest=0.75)
    assert kept == ["rare", "half", "often"]
    assert [p.id for p in read_records(out / "held_out.jsonl", Problem)] == ["held"]
    rates = {row.problem_id: row.rate for row in read_records(out / "pass_rates.jsonl", PassRate)}
    assert rates == {"never": 0.0, "rare": 0.25, "half": 0.5, "often": 0.75, "always": 1.0}
    assert metrics == {
        "kept": 3, "too_hard": 1, "too_easy": 1, "unsampled": 1, "train": 3, "held_out": 1,
        "mean_pass_rate": 0.5,
    }  # fmt: skip


def test_the_whole_range_keeps_the_ends_too(tmp_path: Path) -> None:
    assert run(tmp_path)[1] == list(RIGHTS)


def test_a_curriculum_lists_by_rate_and_unsampled_ones_last(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    easy = run(tmp_path / "a", order="easy_first", unsampled="keep")[1]
    assert easy == ["always", "often", "half", "rare", "never", "unasked"]
    hard = run(tmp_path / "b", order="hard_first", unsampled="keep")[1]
    assert hard == ["never", "rare", "half", "often", "always", "unasked"]


def test_answers_that_no_grader_decided_do_not_count(tmp_path: Path) -> None:
    more = answers("unasked", 1, of=3, outcome="ungradable")
    _, kept, out = run(tmp_path, more=more, lowest=0.9)
    assert kept == ["always", "unasked"]
    rates = {row.problem_id: row for row in read_records(out / "pass_rates.jsonl", PassRate)}
    assert (rates["unasked"].samples, rates["unasked"].correct) == (1, 1)
    (tmp_path / "again").mkdir()
    assert run(tmp_path / "again", more=more, lowest=0.9, least_samples=2)[1] == ["always"]


def test_an_empty_window_is_refused_with_what_is_outside_of_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"between 0.6 and 0.7 .*3 too hard, 2 too easy"):
        run(tmp_path, lowest=0.6, highest=0.7)
    with pytest.raises(ValidationError, match="is above highest"):
        PassRatesConfig(kind="pass_rates", problems="p", traces="t", lowest=0.5, highest=0.2)


def test_selection_takes_traces_of_these_problems_only() -> None:
    rows = [*answers("half", 1, of=1), *answers("always", 1, of=1)]
    config = SelectConfig(kind="select", traces="t", require_well_formed=False, among="rates")
    assert select(rows, config, among={"half"})[0] == [None, "not_among"]


def test_listed_questions_are_asked_in_their_order_pass_after_pass() -> None:
    settings = {"kind": "grpo", "model": "m", "problems": "p", "steps": 3, "prompts": 4}
    rewards = [{"name": "accuracy"}]
    listed, mixed = (
        GrpoConfig.model_validate(
            {**settings, "rewards": rewards, "updates_per_rollout": 1, "order": order},
            strict=False,
        )
        for order in ("listed", "shuffled")
    )
    assert planned_questions(listed, 5, 0, 7) == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    assert sorted(planned_questions(mixed, 5, 0, 7)[:5]) == [0, 1, 2, 3, 4]


def test_the_report_shows_how_often_problems_are_solved(tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / "out").rename(tmp_path / "made")
    text, table = shown(sealed(tmp_path / "made", "problems"))
    assert [row[1] for row in table.rows] == ["1", "0", "1", "0", "0", "1", "0", "1", "0", "1"]
    assert text.text == "problems: ."
