"""The index: rows of reports and stores, ranks by the paired test, a page and CSV without traps."""

import csv
import io
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
from index_example import row
from mutations import dumped, mutated
from report_example import HOSTILE, r1_build
from typer.testing import CliRunner

from factory.cli import app
from factory.core.errors import RecipeError
from factory.core.files import without_hash
from factory.evaluation.paired import holm
from factory.evaluation.statistics import clusters, paired_error
from factory.indexing.page import index_csv, index_page, main_rows
from factory.indexing.ranks import certain, ranked
from factory.indexing.rows import Entry, gather
from factory.report.build import build
from factory.report.render import write


def entry(model: str, right: list[float], *, names: list[str] | None = None, samples: int = 1):
    ids = names or [f"p{number}" for number in range(len(right))]
    shares = dict(zip(ids, right, strict=True))
    return Entry(row(model, sum(right) / len(right)), samples=samples, shares=shares)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("index") / "store"
    report = build("first", "", r1_build(root, say=HOSTILE, problems=40))
    write(report, root / "reports" / "first")
    return root


def test_a_store_and_its_report_give_each_evaluation_once(store):
    entries, faults = gather([store, store / "reports" / "first" / "report.json"])
    keys = [(e.row.evaluation, e.row.benchmark, e.row.metric) for e in entries]
    assert faults == [] and len(keys) == len(set(keys)) > 10
    report = json.loads((store / "reports/first/report.json").read_text(encoding="utf-8"))
    scores = [score for evaluation in report["evaluations"] for score in evaluation["scores"]]
    assert len(entries) == len(scores)
    student = next(e for e in entries if e.row.model == "student" and e.row.metric == "pass@1")
    assert student.row.recipe == "first" and student.row.seconds > 0 and student.shares


def test_without_a_report_the_sealed_scores_are_there_without_ranks(store, tmp_path):
    entries, _ = gather([store])
    folder = tmp_path / "bare"
    folder.mkdir()
    for path in store.glob("eval*"):
        (folder / path.name).symlink_to(path)
    bare, faults = gather([folder])
    assert faults == [] and {e.row.model for e in bare} and len(bare) == len(entries)
    assert all(e.row.rank is None and not e.shares for e in ranked(bare))


def test_only_differences_that_hold_make_ranks():
    # strong 36 of 40, weak 4 of 40; middle is 2 problems off strong, which no test shows.
    strong, middle, weak = [1.0] * 36 + [0.0] * 4, [1.0] * 34 + [0.0] * 6, [1.0] * 4 + [0.0] * 36
    made = ranked([entry("weak", weak), entry("strong", strong), entry("middle", middle)])
    assert [(e.row.model, e.row.rank, e.row.compared) for e in made] == [
        ("weak", 3, 3), ("strong", 1, 3), ("middle", 1, 3),
    ]  # fmt: skip
    alike = ranked([entry("strong", strong), entry("middle", middle)])
    assert [e.row.rank for e in alike] == [None, None]


def test_models_that_answered_other_problems_have_no_common_ranks():
    strong, weak = [1.0] * 36 + [0.0] * 4, [0.0] * 40
    other = entry("other", strong, names=[f"q{number}" for number in range(40)])
    made = ranked([entry("weak", weak), other])
    assert [(e.row.rank, e.row.compared) for e in made] == [(None, 1), (None, 1)]


@pytest.mark.parametrize("with_clusters", [False, True])
def test_all_pairs_at_once_are_the_paired_test_one_by_one(with_clusters):
    random.seed(3)
    names = [f"text{number // 2}#{number % 2}" for number in range(30)]
    names = names if with_clusters else [name.replace("#", "-") for name in names]
    entries = [
        entry(str(level), [float(random.random() < level) for _ in names], names=names, samples=2)
        for level in (0.1, 0.3, 0.6, 0.9)
    ]
    from scipy.special import stdtr

    values = [np.array([e.shares[name] for name in sorted(names)]) for e in entries]
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    p_values = []
    for i, j in pairs:
        apart = values[i] - values[j]
        error, degrees = paired_error(apart, samples=2, groups=clusters(sorted(names)))
        p_values.append(2 * float(stdtr(degrees, -abs(apart.mean()) / error)))
    expected = np.zeros((4, 4), dtype=bool)
    for (i, j), p_value in zip(pairs, holm(p_values), strict=True):
        if p_value < 0.05:
            better = (i, j) if values[i].mean() > values[j].mean() else (j, i)
            expected[better] = True
    assert (certain(entries) == expected).all() and expected.any() and not expected[1, 0]


def test_a_changed_or_unknown_report_is_said_and_hides_no_other(store, tmp_path):
    target = store / "reports" / "first" / "report.json"
    changed = tmp_path / "changed.json"
    changed.write_text(target.read_text().replace('"recipe": "first"', '"recipe": "other"'))
    torn = tmp_path / "torn.json"
    torn.write_text('{"recipe": "x", "evaluations"')
    old = tmp_path / "old.json"
    old.write_text('{"version": 0}\n')
    entries, faults = gather([changed, torn, old, target])
    assert len(faults) == 3 and all("left out" in fault for fault in faults)
    assert {e.row.recipe for e in entries} == {"first"}
    with pytest.raises(RecipeError, match="no such store"):
        gather([tmp_path / "nowhere"])


def test_the_page_shows_a_row_a_model_and_benchmark_and_runs_no_text(store):
    rows = [e.row for e in ranked(gather([store])[0])]
    page = index_page(HOSTILE, [*rows, row(HOSTILE, parameters=10.0), row("b", parameters=1e9)], [])
    assert page.count("<script") == 2 and "<img" not in page and "<iframe" not in page
    assert "⟨U+202E⟩" in page and "pass@1_lenient" not in page.partition("<tbody")[2]
    assert "Score against parameters" in page and "1 B" in page


def test_a_benchmark_with_metrics_of_its_own_keeps_its_first():
    rows = [row("a", metric="exact"), row("a", metric="f1"), row("a", benchmark="b")]
    assert {(r.benchmark, r.metric) for r in main_rows(rows)} == {
        ("sums", "exact"),
        ("b", "pass@1"),
    }


def test_a_model_measured_twice_has_a_history():
    twice = [row("a", created="2026-11-29"), row("a", 0.7, evaluation="later")]
    assert "a on sums" in index_page("x", twice, [])
    assert "History" not in index_page("x", twice[:1], [])


def test_no_text_of_the_csv_is_a_formula():
    text = index_csv([row("=1+1"), row("a\u202eb", created="@x")])
    first, second = csv.DictReader(io.StringIO(text))
    assert (first["model"], first["value"]) == ("'=1+1", "0.5")
    assert (second["model"], second["created"]) == ("a⟨U+202E⟩b", "'@x")


def test_the_command_writes_page_csv_and_json(store, tmp_path):
    run = CliRunner()
    page, table = tmp_path / "i.html", tmp_path / "i.csv"
    done = run.invoke(app, ["index", str(store), "--out", str(page)])
    assert done.exit_code == 0 and page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert run.invoke(app, ["index", str(store), "--out", str(table)]).exit_code == 0
    content = json.loads(run.invoke(app, ["index", str(store), "--json"]).stdout)
    assert (
        content["schema"] == 1 and len(content["rows"]) == len(table.read_text().splitlines()) - 1
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    done = run.invoke(app, ["index", str(empty)])
    assert done.exit_code == 2


def test_any_json_in_a_report_is_a_row_or_a_line_that_says_what_is_left_out(store, tmp_path):
    text, _ = without_hash((store / "reports/first/report.json").read_bytes())
    report = json.loads(text)
    report = {name: report[name] for name in ("recipe", "stages", "tallies", "evaluations")}
    for evaluation in report["evaluations"]:
        evaluation["scores"] = evaluation["scores"][:2]
    draw, path, left_out = random.Random(5), tmp_path / "report.json", 0
    for _ in range(50):
        path.write_text(dumped(mutated(report, draw)))
        entries, faults = gather([path])
        rows = [entry.row for entry in ranked(entries)]
        assert index_page("t", rows, faults) and index_csv(rows)
        left_out += bool(faults)
    assert 5 < left_out < 48


@pytest.mark.parametrize("value", [-0.1, 1.5, "NaN", "Infinity", "1" * 400])
def test_shares_that_are_none_give_no_ranks(store, tmp_path, value):
    text, _ = without_hash((store / "reports/first/report.json").read_bytes())
    report = json.loads(text)
    shares = report["tallies"][0]["shares"]
    shares[next(iter(shares))] = "VALUE"
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report).replace('"VALUE"', str(value)))
    entries, faults = gather([path])
    assert entries == [] and len(faults) == 1


def test_a_pipe_in_the_place_of_a_report_is_not_waited_for(tmp_path):
    folder = tmp_path / "reports" / "first"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "report.json")
    assert gather([tmp_path])[1][0].endswith("not a regular file: '" + f"{folder}/report.json'")
