"""`factory diff`: settings with their reasons, versions, data, and scores on the same problems."""

import json
from pathlib import Path

import pytest
from report_example import Build, jsonl
from test_report_browser import answers
from typer.testing import CliRunner

from factory.cli import app
from factory.core.errors import RecipeError
from factory.report.build import Build as MadeBuild
from factory.report.build import build
from factory.report.difference import Difference, difference, open_report, setting
from factory.report.records import Report
from factory.report.render import report_of, write

CONFIG = {"learning_rate": 1e-5, "beta": 0.1, "rewards": [{"name": "accuracy", "weight": 1.0}]}


def report_build(
    root: Path,
    outcomes: str = "w" * 12,
    *,
    config: dict | None = None,
    content: str = "one",
    benchmark: str = "sums",
    first: int = 0,
    extra: bool = False,
) -> MadeBuild:
    """base -> rl, evaluated once: a letter an answer."""
    made = Build(root)
    made.step("sums", "problems", files={"train.jsonl": ""}, metrics={"train": 3.0, "extra": 1.0})
    made.step("base", "model")
    made.step(
        "rl", "grpo", {"model": "base", "problems": "sums"}, config=config or CONFIG,
        files={"telemetry.jsonl": '{"step": 1}\n', "model.txt": content},
    )  # fmt: skip
    score, samples = answers(benchmark, outcomes, first=first)
    made.step(
        "eval_rl", "evaluate", {"model": "rl"},
        files={"scores.jsonl": jsonl([score]), "samples.jsonl": jsonl(samples)},
    )  # fmt: skip
    if extra:
        made.step("more", "problems", metrics={"train": 7.0})
    return build("r", "", made.steps)


def report(root: Path, *given, **settings) -> Report:
    """Its facts."""
    return report_of(report_build(root, *given, **settings))


def test_a_build_differs_from_itself_in_nothing(tmp_path):
    single = report(tmp_path)
    result = difference(single, single)
    assert result.settings == result.versions == ()
    assert {row.relation for row in result.data} == {"same content"}
    # The same bytes are no second measurement: nothing is tested, nothing corrected for.
    (row,) = result.scores
    assert (row.difference, row.p_value, row.reading) == (None, None, "the same answers")


def test_a_setting_that_differs_is_told_with_its_docstring(tmp_path):
    # A key of an earlier or later version counts only where it is not at its default.
    other = {
        "learning_rate": 3e-6,
        "rewards": [{"name": "accuracy", "weight": 0.5}],
        "steps_of_nothing": 1,
        "kl": 0.001,
    }
    a = report(tmp_path / "a", config={**CONFIG, "epsilon": 10.0})
    b = report(tmp_path / "b", config={**other, "beta": 0.1, "epsilon": 10.0})
    result = difference(a, b).settings
    assert [(item.stages, item.path, item.a, item.b) for item in result] == [
        (("rl",), "learning_rate", 1e-5, 3e-6),
        (("rl",), "rewards.0.weight", 1.0, 0.5),
        (("rl",), "steps_of_nothing", "absent", 1),
    ]
    field = setting("grpo", "learning_rate")
    assert result[0].reason == " ".join(field.description.split())
    assert result[2].reason == ""


def test_the_reason_of_a_setting_inside_another_is_that_of_the_inner_one():
    assert "greedy" in setting("evaluate", "sampling.temperature").description
    assert setting("evaluate", "benchmarks.0.sampling.temperature").description == (
        setting("evaluate", "sampling.temperature").description
    )
    assert "R1" in setting("evaluate", "sampling").description
    assert setting("evaluate", "no.such.path") is None and setting("nothing", "x") is None


def test_stages_in_which_a_setting_differs_alike_share_a_row(tmp_path):
    def both(root: Path, rate: float) -> Report:
        made = Build(root)
        for name in ("one", "two"):
            made.step(name, "sft", config={"learning_rate": rate})
        return report_of(build("r", "", made.steps))

    (row,) = difference(both(tmp_path / "a", 1e-4), both(tmp_path / "b", 2e-5)).settings
    assert (row.stages, row.path) == (("one", "two"), "learning_rate")


def test_seeds_and_versions_that_differ_are_told(tmp_path):
    first = report(tmp_path)
    made = first.stages[2].made.model_copy(update={"seed": 5})
    stages = (*first.stages[:2], first.stages[2].model_copy(update={"made": made}), first.stages[3])
    packages = {**first.packages, "torch": ("2.14.0",)}
    other = first.model_copy(update={"stages": stages, "packages": packages, "commits": ("abc",)})
    result = difference(first, other)
    assert [(r.stages, r.path, r.a, r.b) for r in result.settings] == [(("rl",), "seed", 1002, 5)]
    assert [(r.kind, r.name, r.a, r.b) for r in result.versions] == [
        ("package", "torch", ("2.13.0",), ("2.14.0",)),
        ("code", "commit", first.commits, ("abc",)),
    ]


def test_data_is_same_or_other_and_why(tmp_path):
    a = report(tmp_path / "a")
    b = report(tmp_path / "b", config={**CONFIG, "beta": 0.2}, extra=True)
    c = report(tmp_path / "c", content="two")
    changed = {row.stage: row for row in difference(a, b).data}
    assert {name: row.relation for name, row in changed.items()} == {
        "sums": "same content", "base": "same content", "rl": "same content",
        "eval_rl": "same content", "more": "only in B",
    }  # fmt: skip
    assert changed["sums"].counts == {"train": (3.0, 3.0)}
    assert changed["more"].counts == {"train": (None, 7.0)}
    # Equal fingerprints are a promise of equal bytes: a broken one is called so.
    assert difference(a, c).data[2].relation == "same fingerprint, other content"
    made = c.stages[2].made.model_copy(update={"fingerprint": "f" * 64})
    renamed = c.stages[2].model_copy(update={"made": made})
    other = c.model_copy(update={"stages": (*c.stages[:2], renamed, c.stages[3])})
    assert difference(a, other).data[2].relation == "other inputs, seed or versions"
    config = renamed.model_copy(update={"config": {**renamed.config, "beta": 0.2}})
    other = c.model_copy(update={"stages": (*c.stages[:2], config, c.stages[3])})
    assert difference(a, other).data[2].relation == "other settings"
    unmade = renamed.model_copy(update={"made": None})
    other = c.model_copy(update={"stages": (*c.stages[:2], unmade, c.stages[3])})
    assert difference(a, other).data[2].relation == "not made"


def test_scores_are_compared_problem_by_problem_b_minus_a(tmp_path):
    # Of 12 problems 8 rise and 1 falls: (8 - 1) / 12. McNemar: 2 (1 + 9) / 2**9 = 0.0390625.
    a = report(tmp_path / "a", "w" * 8 + "c" + "ccw")
    b = report(tmp_path / "b", "c" * 8 + "w" + "ccw")
    (row,) = difference(a, b).scores
    assert (row.a, row.b) == (pytest.approx(3 / 12), pytest.approx(10 / 12))
    assert (row.difference.value, row.difference.n) == (pytest.approx(7 / 12), 12)
    assert row.p_value == row.p_corrected == pytest.approx(0.0390625)
    assert row.reading == "higher"
    (back,) = difference(b, a).scores
    assert (back.difference.value, back.reading) == (pytest.approx(-7 / 12), "lower")


def test_scores_that_do_not_pair_say_why(tmp_path):
    a = report(tmp_path / "a", "cwcw")
    elsewhere = report(tmp_path / "b", "cwcw", first=3)
    assert difference(a, elsewhere).scores[0].reading == "other problems: 1 in common"
    renamed = report(tmp_path / "c", "cwcw", benchmark="other")
    assert [row.reading for row in difference(a, renamed).scores] == ["only in A", "only in B"]
    row = a.evaluations[0]
    newer = row.scores[0].model_copy(update={"version": "2"})
    other = a.model_copy(update={"evaluations": (row.model_copy(update={"scores": (newer,)}),)})
    (message,) = difference(a, other).scores
    assert message.reading == "other versions of the benchmark: 1 and 2"
    assert message.difference is message.p_corrected is None and (message.a, message.b) == (
        0.5,
        0.5,
    )


def test_a_report_is_found_by_file_folder_store_and_name(tmp_path):
    made = report_build(tmp_path / "build")
    store = tmp_path / "store"
    folder = write(made, store / "reports" / "r").parent
    for run in (str(folder / "report.json"), str(folder), str(store), "r"):
        assert open_report(run, store).recipe == "r"
    with pytest.raises(RecipeError, match=r"no report.*under .*store: r$"):
        open_report("other", store)
    write(made, store / "reports" / "second")
    with pytest.raises(RecipeError, match="several reports, name one"):
        open_report(str(store), store)
    (folder / "report.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RecipeError, match="write it again with `factory report`"):
        open_report("r", store)


def test_the_command_prints_tables_and_json(tmp_path):
    store = tmp_path / "store"
    write(report_build(tmp_path / "a", "w" * 12), store / "reports" / "a")
    other = report_build(tmp_path / "b", "c" * 12, config={**CONFIG, "learning_rate": 3e-6})
    write(other, store / "reports" / "b")
    runner = CliRunner(env={"COLUMNS": "240"})
    done = runner.invoke(app, ["diff", "a", "b", "--store", str(store)])
    assert done.exit_code == 0
    assert "learning_rate" in done.output and "+100.0" in done.output and "higher" in done.output
    done = runner.invoke(app, ["diff", "a", "b", "--json", "--store", str(store)])
    result = Difference.model_validate_json(done.output)
    assert json.loads(done.output)["scores"][0]["reading"] == "higher"
    assert result.scores[0].difference.value == 1.0
    assert runner.invoke(app, ["diff", "a", "none", "--store", str(store)]).exit_code == 2
