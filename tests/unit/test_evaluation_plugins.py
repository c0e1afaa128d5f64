"""Measures and benchmarks of a user's: what they add, and what is told where one goes wrong."""

from pathlib import Path

import pytest
from report_example import r1_build
from test_claims import sample

from factory.building.plan import make_plan, used_plugins
from factory.building.pricing import bill
from factory.building.recipe import load_recipe, recipe_from
from factory.core import plugin_files
from factory.core.errors import PluginError
from factory.core.machine import DevicePeaks, Machine
from factory.core.plugin_files import load_plugins
from factory.core.records import EvalSample
from factory.core.registry import DOORS, open_doors
from factory.evaluation.asked import problems_by_id
from factory.evaluation.claim import Claim
from factory.evaluation.claims import measured
from factory.evaluation.measure import MEASURES
from factory.problems.benchmark import BENCHMARKS, benchmark_problems
from factory.report.build import build
from factory.report.render import render_html, render_markdown
from factory.report.sections.claims import claim_rows
from factory.stages.evaluate import BenchmarkConfig

ROOT = Path(__file__).resolve().parents[2]
HEDGES = ROOT / "examples" / "hedges.py"
MEASURE = """
from factory.plugins import EvalSample, measure

@measure("mine", version=3, bounds=(0.0, 1.0))
def mine(sample: EvalSample) -> float | None:
    {body}
"""


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test loads anew, and leaves the doors as they were."""
    monkeypatch.setattr(plugin_files, "_loaded", {})
    monkeypatch.setattr(plugin_files, "_texts", {})
    open_doors()
    for door in list(DOORS.values()):
        monkeypatch.setattr(door, "table", dict(door.table))


def plugin(folder: Path, text: str) -> Path:
    path = folder / "mine.py"
    path.write_text(text, encoding="utf-8")
    return path


def thought(problem: str, reasoning: str | None) -> EvalSample:
    row = sample(problem, "")
    trace = row.trace.model_copy(update={"reasoning": reasoning})
    return row.model_copy(update={"trace": trace})


def test_the_example_counts_words_that_hedge_and_leaves_out_who_does_not_think() -> None:
    load_plugins([HEDGES])
    samples = [
        thought("p", "Maybe 3, perhaps not."),
        thought("p", "it is three now"),
        thought("q", None),
    ]
    assert measured(samples, "hedges") == {"p": pytest.approx((2 / 4 + 0 / 4) / 2, abs=1e-12)}


def test_a_largest_value_stands_for_a_problem_where_the_measure_says_so(tmp_path: Path) -> None:
    text = MEASURE.format(body="return len(sample.trace.completion) / 10")
    load_plugins([plugin(tmp_path, text.replace("1.0)", '1.0), of_problem="largest"'))])
    samples = [sample("p", "ab"), sample("p", "abcd"), sample("q", "a")]
    assert measured(samples, "mine") == {"p": 0.4, "q": 0.1}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 1 / 0", "ZeroDivisionError: division by zero"),
        ("return sample.nothing", "AttributeError"),
        ("return float('nan')", "gave nan, a finite number or None is wanted"),
        ("return -float('inf')", "gave -inf, a finite number"),
        ("return True", "gave True"),
        ("return '0.5'", "gave '0.5'"),
        ("return 1.0000001", "outside its bounds 0 to 1"),
        ("yield 0.5", "a finite number or None is wanted"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("while True: pass", "TimeoutError: still at work after 1 s"),
    ],
)
def test_what_a_measure_does_wrong_names_it_and_the_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str
) -> None:
    monkeypatch.setattr(plugin_files, "CALL_SECONDS", 1)
    load_plugins([plugin(tmp_path, MEASURE.format(body=body))])
    with pytest.raises(PluginError, match=message) as caught:
        measured([sample("p7", "x")], "mine")
    assert str(caught.value).startswith("file ")
    assert "mine.py: measure mine, problem p7: " in str(caught.value)


def test_a_claim_by_an_unknown_measure_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"no measure 'hedge'.*there are accuracy, .*--plugin FILE"
    ):
        Claim(text="t", measure="hedge", of=("a",), against=("b",), benchmark="c")


def test_a_measure_changes_no_fingerprint_and_the_report_names_it(tmp_path: Path) -> None:
    load_plugins([HEDGES])
    recipe = load_recipe(ROOT / "recipes" / "smoke.yaml")
    before = {step.name: step.fingerprint for step in make_plan(recipe)}
    first, *_, last = [name for name in before if name.startswith("eval_")]
    claim = {"text": "t", "measure": "hedges", "of": [last], "against": [first]}
    claim["benchmark"] = "sums"
    claimed = recipe_from({**recipe.resolved, "claims": [claim]}, "test")
    assert {step.name: step.fingerprint for step in make_plan(claimed)} == before

    steps = r1_build(tmp_path, problems=8)
    names = [step.name for step in steps if step.stage == "evaluate"]
    shown = Claim(
        text="surer <b>", measure="hedges", against_measure="accuracy", of=(names[-1],),
        against=(names[0],), benchmark="chain_sum", expect="lower",
    )  # fmt: skip
    report = build("r", "", steps, [shown])
    origin = MEASURES.row("hedges").origin
    note = f"(hedges: version 1 of file hedges.py, sha256 {origin.sha256[:12]})"
    assert claim_rows(report)[0].text == f"surer <b> {note}"
    assert note in render_html(report) and note in render_markdown(report)
    assert str(ROOT) not in render_html(report)


TICKETS = ROOT / "examples" / "tickets_50.py"
BENCHMARK = """
from random import random
from factory.plugins import Problem, benchmark

def problem(n):
    return Problem(
        id=str(n), prompt=f"{{n}} + 1?", reference=str(n + 1), kind="exact", source="mine",
    )

@benchmark("mine", version=2, licence="mit")
def mine():
    {body}
"""


def asking(*benchmarks: dict[str, object]) -> dict[str, object]:
    tiny = {"kind": "model", "source": {"type": "tiny", "architecture": "llama"}}
    evaluation = {"kind": "evaluate", "model": "base", "benchmarks": list(benchmarks)}
    return {"name": "r", "stages": {"base": tiny, "scores": evaluation}}


def step(raw: dict[str, object]) -> tuple[list[str], str]:
    *_, last = make_plan(recipe_from(raw, "r.yaml"))
    return list(used_plugins(last.config, last.stage)), last.fingerprint


def test_the_example_asks_fifty_questions_under_its_licence() -> None:
    load_plugins([TICKETS])
    requested = benchmark_problems("tickets_50")
    assert len(requested) == 50 == len({problem.id for problem in requested})
    assert {problem.licence for problem in requested} == {"CC0-1.0"}
    first = requested[0]
    count, price = (int(word) for word in first.prompt.split() if word.rstrip(".").isdigit())
    assert first.reference == str(count * price)
    assert problems_by_id("tickets_50", None)[first.id] == first


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 1 / 0", "ZeroDivisionError: division by zero"),
        ("yield problem(1); raise KeyError('x')", "KeyError: 'x'"),
        ("return None", "TypeError: 'NoneType' object is not iterable"),
        ("return [problem(1), 'two']", "gave 'two', Problems one after the other are wanted"),
        ("return []", "gave no problems"),
        ("import time; time.sleep(60)", "TimeoutError: still at work after 1 s"),
        ("return [problem(1), problem(1)]", "two problems of one id"),
        ("return [problem(random())]", "gave other problems when it was called again; seed"),
        ("n = 0\n    while True: yield problem(n := n + 1)", "gave more than 20 problems: end it"),
    ],
)
def test_what_a_benchmark_does_wrong_is_told_when_the_recipe_is_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str
) -> None:
    monkeypatch.setattr("factory.problems.benchmark.MOST_PROBLEMS", 20)
    monkeypatch.setattr(plugin_files, "CALL_SECONDS", 1)
    path = plugin(tmp_path, BENCHMARK.format(body=body))
    load_plugins([path])
    with pytest.raises(PluginError) as caught:
        step(asking({"name": "b", "task": "mine"}))
    assert str(caught.value).startswith(f"file {path}: benchmark mine: ")
    assert message in str(caught.value)


def test_a_benchmark_is_in_the_fingerprint_with_the_graders_of_its_problems(
    tmp_path: Path,
) -> None:
    own = asking({"name": "b", "task": "gsm8k_100"})
    before = step(own)
    assert before[0] == []
    path = plugin(tmp_path, BENCHMARK.format(body="return [problem(n) for n in range(3)]"))
    load_plugins([path, ROOT / "examples" / "interval.py"])
    assert step(own) == before
    assert step(asking({"name": "b", "task": "mine"}))[0] == ["benchmarks/mine"]
    text = BENCHMARK.format(body="return [problem(3)]").replace("exact", "interval")
    BENCHMARKS.forget(BENCHMARKS.row("mine").origin)
    plugin_files._loaded.clear()
    path.write_text(text, encoding="utf-8")
    load_plugins([path])
    assert step(asking({"name": "b", "task": "mine"}))[0] == ["benchmarks/mine", "graders/interval"]


def test_a_benchmark_by_name_is_asked_with_a_prompt_and_not_raw() -> None:
    load_plugins([TICKETS])
    for task in ("tickets_50", "gsm8k_100"):
        with pytest.raises(ValueError, match="raw is for registry tasks"):
            BenchmarkConfig(name="b", task=task, raw=True)
    assert BenchmarkConfig(name="b", task="tickets_500", raw=True).is_own is False


def test_the_price_of_a_benchmark_is_known(tmp_path: Path) -> None:
    load_plugins([TICKETS])
    plan = make_plan(recipe_from(asking({"name": "b", "task": "tickets_50"}), "r.yaml"))
    machine = Machine(
        device="cpu", dtype="float32", matmul="float32", threads=2,
        peaks=DevicePeaks(gflops=100, gigabytes_per_second=20, memory_gib=24),
    )  # fmt: skip
    *_, row = bill(plan, tmp_path, machine).rows
    assert row.estimate is not None and row.estimate.tokens > 0 and not row.missing
