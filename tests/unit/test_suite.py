"""Suites and protocols: every pair plans, k is the paper's, and mistakes are told by name."""

from pathlib import Path

import pytest

from factory.building.plan import make_plan, missing
from factory.building.suite import (
    EVALS,
    Suite,
    evaluation_recipe,
    hub_source,
    load_protocol,
    load_suite,
    stage_name,
)
from factory.core.errors import RecipeError
from factory.core.records import EarlyStop
from factory.evaluation.published import load_published
from factory.problems.bundled import BUNDLES, BundledSource, supply
from factory.stages.evaluate import EvaluateConfig
from factory.ui.evaluation import evaluation_of

PROTOCOLS = sorted(path.stem for path in (EVALS / "protocols").glob("*.yaml"))
SUITES = sorted(path.stem for path in (EVALS / "suites").glob("*.yaml"))
HUB = f"deepseek-ai/DeepSeek-R1-Distill-Qwen-7B@{'0' * 40}"


def settings_of(name: str, protocol: str, store: Path) -> EvaluateConfig:
    recipe = evaluation_of([HUB], suite=name, protocol=protocol, against=None, store=store).recipe
    config = recipe.stages["eval_DeepSeek-R1-Distill-Qwen-7B"]
    assert isinstance(config, EvaluateConfig)
    return config


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_suite_plans_under_every_protocol(suite: str, protocol: str, tmp_path: Path) -> None:
    recipe = evaluation_of(
        [HUB], suite=suite, protocol=protocol, against=None, store=tmp_path
    ).recipe
    assert make_plan(recipe)[-1].kind == "evaluate"
    assert recipe.name == f"eval-{suite}-{protocol}"


def test_the_protocol_r1_is_the_papers() -> None:
    r1 = load_protocol("r1")
    assert (r1.sampling.temperature, r1.sampling.top_p, r1.sampling.max_new_tokens) == (
        0.6, 0.95, 32768,
    )  # fmt: skip
    assert (r1.prompt.system, r1.prompt.prefill, r1.greedy) == (None, "<think>\n", False)
    k = r1.samples_by
    assert (k["aime24"], k["gpqa_diamond"], k["math_500"], k["livecodebench"]) == (64, 64, 16, 8)
    assert k["codeforces"] == 16


def test_a_protocol_may_end_benchmarks_early(tmp_path: Path) -> None:
    rule = EarlyStop(half_width=0.02, least=4)
    early = load_protocol("r1").model_copy(update={"stop_at": rule})
    recipe = evaluation_recipe(
        {"m": {"kind": "model", "source": {"type": "embedded"}}},
        load_suite("offline"), early, name="e",
    )  # fmt: skip
    config = recipe.stages["eval_m"]
    assert isinstance(config, EvaluateConfig) and config.stop_at == rule
    assert settings_of("offline", "r1", tmp_path).stop_at is None


def test_a_protocol_sets_k_and_the_limit_of_each_benchmark(tmp_path: Path) -> None:
    r1 = settings_of("offline", "r1", tmp_path)
    assert {b.name: r1.samples_of(b) for b in r1.benchmarks}["aime25_25"] == 64
    assert {b.name: r1.samples_of(b) for b in r1.benchmarks}["gsm8k_100"] == 4
    assert {b.limit for b in settings_of("offline", "quick", tmp_path).benchmarks} == {20}
    assert {b.limit for b in r1.benchmarks} == {None}


def test_what_is_not_run_is_said_with_its_reason(tmp_path: Path) -> None:
    result = evaluation_of(
        ["embedded"], suite="offline", protocol=None, against=None, store=tmp_path
    )
    names = {item.name for item in result.suite.not_run}
    assert names and not names & {item["name"] for item in result.suite.benchmarks}
    for item in result.suite.not_run:
        assert f"{item.name} ({item.reason})" in result.recipe.header.description


def test_models_are_folders_commits_artifacts_or_embedded(tmp_path: Path) -> None:
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    result = evaluation_of(
        [str(folder), "embedded", HUB, "embedded"],
        suite="offline", protocol="quick", against=HUB, store=tmp_path,
    )  # fmt: skip
    assert result.models == ("my_model", "embedded", "DeepSeek-R1-Distill-Qwen-7B")
    assert result.baseline == "DeepSeek-R1-Distill-Qwen-7B"
    evaluations = [name for name in result.recipe.stages if name.startswith("eval_")]
    assert len(evaluations) == 3
    for wrong in ("a/b", "a/b@main", "nothing"):
        with pytest.raises(RecipeError, match=r"no model: neither a folder .* owner/name@commit"):
            evaluation_of([wrong], suite="offline", protocol=None, against=None, store=tmp_path)


def test_names_and_hub_ids() -> None:
    assert stage_name(HUB, []) == "DeepSeek-R1-Distill-Qwen-7B"
    assert stage_name("x/base/", ["base"]) == "base_2"
    assert stage_name("???", []) == "model"
    assert hub_source("a/b@main") is None
    assert hub_source(HUB) is not None


def test_a_served_model_is_named_by_its_url_and_its_name_there(tmp_path: Path) -> None:
    url = "http://127.0.0.1:8000/v1"
    result = evaluation_of(
        [f"{url}/#org/m-7b", f"{url}#org/m-7b#2026-11"],
        suite="offline", protocol="r1", against=None, store=tmp_path,
    )  # fmt: skip
    assert result.models == ("m-7b", "m-7b_2")
    plan = make_plan(result.recipe)
    models = [step for step in plan if step.kind == "model"]
    assert [step.config.model_dump()["source"]["as_of"] for step in models] == ["", "2026-11"]
    assert {step.config.model_dump()["source"]["url"] for step in models} == {url}
    assert len({step.fingerprint for step in plan if step.kind == "evaluate"}) == 2
    with pytest.raises(RecipeError, match=r"say which model of the server: .*/v1#NAME"):
        evaluation_of([url], suite="offline", protocol=None, against=None, store=tmp_path)


def test_unknown_names_and_broken_files_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        RecipeError, match=r"protocol 'r2': no such file; shipped are greedy, quick, r1"
    ):
        load_protocol("r2")
    with pytest.raises(RecipeError, match=r"suite '\.\./protocols/r1': no such file"):
        load_suite("../protocols/r1")
    monkeypatch.setattr("factory.building.suite.EVALS", tmp_path)
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "s.yaml").write_text("description: d\nprotocol: r1\nbenchmarks: []\n")
    with pytest.raises(RecipeError, match=r"s\.yaml: benchmarks: "):
        load_suite("s")


def test_a_mistake_in_a_suite_is_a_recipes_mistake() -> None:
    suite = Suite(
        description="d", protocol="quick", benchmarks=({"name": "x", "tsak": "gsm8k_100"},)
    )
    with pytest.raises(RecipeError, match=r"benchmarks\.0\.tsak: unknown key .*task"):
        evaluation_recipe(
            {"m": {"kind": "model", "source": {"type": "embedded"}}},
            suite, load_protocol("quick"), name="x",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "count", "kind"),
    [
        ("gsm8k_100", 100, "math"),
        ("aime25_25", 25, "math"),
        ("gpqa_25", 25, "choice"),
        ("humaneval_164", 164, "code"),
        ("gsm_symbolic_en", 100, "math"),
        ("gsm_symbolic_zh", 100, "math"),
        ("gsm_symbolic_de", 99, "math"),
        ("ifeval_541", 541, "instructions"),
    ],
)
def test_a_bundle_holds_what_its_name_says(name: str, count: int, kind: str) -> None:
    problems = list(supply(BundledSource(type="bundled", name=name), 0).problems)  # type: ignore[arg-type]
    assert (len(problems), {p.kind for p in problems}) == (count, {kind})
    assert len({p.id for p in problems}) == count
    assert all(p.reference and p.prompt and p.licence for p in problems)
    assert {p.source for p in problems} == {name}


def test_every_bundle_is_a_task_of_the_offline_suite() -> None:
    tasks = {benchmark.get("task") for benchmark in load_suite("offline").benchmarks}
    assert set(BUNDLES) <= tasks
    assert all((EVALS / f"{name}.yaml").is_file() for name in BUNDLES)


def test_the_suite_r1_leaves_only_commits_open_and_names_published_benchmarks(
    tmp_path: Path,
) -> None:
    result = evaluation_of([HUB], suite="r1", protocol=None, against=None, store=tmp_path)
    gaps = missing(make_plan(result.recipe))
    assert len(gaps) == 3 and all(".revision: the commit of huggingface.co/" in g for g in gaps)
    expected = load_published().benchmarks
    settings_of = {str(benchmark["name"]) for benchmark in result.suite.benchmarks}
    assert settings_of - {"aime25"} == {"aime24", "math_500"}
    # Every published benchmark is asked or has a reason.
    assert set(expected) <= settings_of | {benchmark.name for benchmark in result.suite.not_run}
