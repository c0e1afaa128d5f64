"""Plug-in files: what is loaded, by which bytes, and what is told where one goes wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from factory.building.plan import make_plan, used_plugins
from factory.building.recipe import load_recipe, recipe_from
from factory.core import plugin_files, registry
from factory.core.errors import DataError, EngineError, PluginError, RecipeError
from factory.core.plugin_files import keep_texts, load_plugins, load_same
from factory.core.records import Problem, Verdict
from factory.core.registry import DOORS
from factory.grading import GradeItem, GradingPool
from factory.problems.local import LocalSource, supply
from factory.rewards import REWARDS, GradedCompletion, PluginRewards, RewardConfig
from factory.text.chat import completion_text

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "few_words.py"
REWARD = """
from factory.plugins import GradedCompletion, reward

@reward("mine", version=1, bounds=(0.0, 1.0))
def mine(completion: GradedCompletion) -> float | None:
    {body}
"""


pytestmark = pytest.mark.usefixtures("fresh_doors")


def plugin(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def completion(words: int) -> GradedCompletion:
    return GradedCompletion(
        problem=Problem(id="p1", prompt="3 + 4", reference="7", kind="math", source="s"),
        verdict=Verdict(outcome="correct", answer="7", explanation=""),
        completion="...", reasoning="word " * words, answer="7", is_well_formed=True, tokens=9,
        limit=100, language="en",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def (", r"mine\.py:1: is no Python"),
        ("x = 1\n1 / 0\n", r"mine\.py:2: ZeroDivisionError"),
        ("\nimport neighbour\n", r"mine\.py:2: module 'neighbour' is not installed; .* one file"),
        ("raise SystemExit(0)", r"mine\.py:1: SystemExit"),
        ("x = '\0'", "is no Python"),
        (REWARD.format(body="return 1.0") * 2, "reward 'mine' of file .* registered already"),
        (REWARD.format(body="return 1.0").replace('"mine"', '"accuracy"'), "by the factory"),
    ],
)
def test_what_a_file_does_wrong_is_told_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    plugin(tmp_path, "X = 1\n", "neighbour.py")
    before = {name: list(door) for name, door in DOORS.items()}
    with pytest.raises(PluginError, match=message):
        load_plugins([plugin(tmp_path, text)])
    assert {name: list(door) for name, door in DOORS.items()} == before
    assert "neighbour" not in sys.modules


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.py", tmp_path):
        with pytest.raises(PluginError, match=r"--plugin .*: cannot be read"):
            load_plugins([path])


def test_a_file_that_never_ends_loading_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin_files, "LOAD_SECONDS", 1)
    with pytest.raises(PluginError, match="still loading after 1 s"):
        load_plugins([plugin(tmp_path, "while True:\n    pass\n")])


def test_a_worker_refuses_other_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = plugin(tmp_path, REWARD.format(body="return 1.0"))
    files = load_plugins([path])
    assert load_plugins([path]) == files  # once
    monkeypatch.setattr(plugin_files, "_loaded", {})
    path.write_text(REWARD.format(body="return 0.5"), encoding="utf-8")
    with pytest.raises(PluginError, match="changed while it is in use"):
        load_same(files)


def test_the_text_is_kept_by_its_hash(tmp_path: Path) -> None:
    (file,) = load_plugins([EXAMPLE])
    keep_texts(tmp_path / "plugins")
    assert (tmp_path / "plugins" / f"{file.sha256}.py").read_bytes() == EXAMPLE.read_bytes()


def test_an_unused_plugin_changes_no_fingerprint_and_a_used_one_just_its_stages(
    tmp_path: Path,
) -> None:
    recipe = ROOT / "recipes" / "smoke.yaml"
    before = {step.name: step.fingerprint for step in make_plan(load_recipe(recipe))}
    path = plugin(tmp_path, REWARD.format(body="return 1.0"))
    load_plugins([path])
    assert {step.name: step.fingerprint for step in make_plan(load_recipe(recipe))} == before

    def with_mine() -> dict[str, str]:
        raw = dict(load_recipe(recipe).resolved)
        stages = {name: dict(fields) for name, fields in raw["stages"].items()}
        stages["zero"]["rewards"] = [*stages["zero"]["rewards"], {"name": "mine"}]
        plan = make_plan(recipe_from({**raw, "stages": stages}, "test"))
        (zero,) = [step for step in plan if step.name == "zero"]
        assert list(used_plugins(zero.config, zero.stage)) == ["rewards/mine"]
        return {step.name: step.fingerprint for step in plan}

    used = with_mine()
    changed = {name for name in before if used[name] != before[name]}
    assert "zero" in changed and "base" not in changed and "cold" in changed
    # One byte more in the file: the same stages are made anew.
    for door in DOORS.values():
        door.forget(registry.Origin("file", str(path), plugin_files._loaded[str(path)].sha256))
    plugin_files._loaded.clear()
    path.write_text(path.read_text() + "#", encoding="utf-8")
    load_plugins([path])
    again = with_mine()
    assert {name for name in before if again[name] != used[name]} == changed


def test_settings_of_a_plugin_are_checked_when_the_recipe_is_read() -> None:
    load_plugins([EXAMPLE])
    assert RewardConfig(name="few_words", settings={"most": 150}).is_plugin
    for settings, message in (
        ({"most": "many"}, "valid integer"), ({"least": 1}, "Extra inputs"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            RewardConfig(name="few_words", settings=settings)
    with pytest.raises(ValueError, match="accuracy takes none"):
        RewardConfig(name="accuracy", settings={"most": 1})
    with pytest.raises(ValueError, match=r"no reward 'few_word' \(did you mean few_words"):
        RewardConfig(name="few_word")


def test_a_plugin_reward_runs_in_a_process_of_its_own() -> None:
    load_plugins([EXAMPLE])
    rewards = PluginRewards([RewardConfig(name="few_words", settings={"most": 10})])
    try:
        # 10 words cost nothing, 15 cost half, 40 all of it.
        values = [
            row["few_words"] for row in rewards.components([completion(n) for n in (10, 15, 40)])
        ]
        assert values == [0.0, -0.5, -1.0]
        general = completion(3)
        problem = general.problem.model_copy(update={"kind": "open"})
        assert rewards.components([general.model_copy(update={"problem": problem})]) == [{}]
    finally:
        rewards.close()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 1 / 0", "ZeroDivisionError"),
        ("return float('nan')", "gave nan, a finite number or None"),
        ("return 'much'", "gave 'much'"),
        ("return True", "gave True"),
        ("return 1.5", "outside its bounds 0 to 1"),
        ("import os; os._exit(7)", "process died with status 7"),
        ("while True: pass", "took longer than 1 s"),
        ("print('ready'); import sys; sys.exit(3)", "died with status 3"),
    ],
)
def test_what_a_reward_does_wrong_stops_the_stage_with_its_name_and_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str
) -> None:
    monkeypatch.setattr("factory.rewards.pool.SECONDS", 1.0)
    load_plugins([plugin(tmp_path, REWARD.format(body=body))])
    rewards = PluginRewards([RewardConfig(name="mine")])
    with pytest.raises(EngineError, match=message) as caught:
        rewards.components([completion(1)])
    assert "reward mine of file" in str(caught.value) and "p1" in str(caught.value)
    rewards.close()


INTERVAL = ROOT / "examples" / "interval.py"
ROW = {"prompt": "From 1 to 3?", "reference": "2", "kind": "interval"}


def item(answer: str, data: dict[str, int]) -> GradeItem:
    problem = Problem(id="p", prompt="?", reference="2", kind="interval", source="s", data=data)
    return GradeItem(problem, completion_text("so", answer))


def test_a_plugin_grader_decides_in_a_process_of_its_own() -> None:
    load_plugins([INTERVAL])
    bounds = {"low": 1, "high": 3}
    items = [item("2.5", bounds), item("4", bounds), item("two", bounds), item("2", {})]
    with GradingPool() as pool:
        verdicts = pool.grade(items)
    assert [v.outcome for v in verdicts] == ["correct", "wrong", "wrong", "ungradable"]
    assert "grader interval of file" in verdicts[3].explanation
    assert "KeyError: 'low'" in verdicts[3].explanation


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return None", "a Verdict is wanted"),
        ("while True: pass", "took longer than 1 s"),
        ("import os; os._exit(5)", "died with status 5"),
    ],
)
def test_a_grader_that_does_wrong_makes_its_answer_ungradable(
    tmp_path: Path, body: str, message: str
) -> None:
    head = "from factory.plugins import grader\n@grader('interval', version=1)\ndef f(p, a):\n"
    load_plugins([plugin(tmp_path, f"{head}    {body}\n")])
    with GradingPool(deadline_seconds=1.0) as pool:
        (verdict,) = pool.grade([item("2", {})])
    assert verdict.outcome == "ungradable" and message in verdict.explanation


def test_a_grader_that_rows_of_a_file_name_is_in_the_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({**ROW, "data": {"low": 1, "high": 3}}) + "\nno JSON\n")
    source = {"type": "local", "path": str(path)}
    raw = {"name": "r", "stages": {"p": {"kind": "problems", "sources": [source]}}}

    def fingerprint() -> tuple[list[str], str]:
        (step,) = make_plan(recipe_from(raw, "r.yaml"))
        return list(used_plugins(step.config, step.stage)), step.fingerprint

    # The source is a row of the factory's own whose version was raised.
    names, before = fingerprint()
    assert names == ["sources/local"]
    load_plugins([EXAMPLE])
    assert fingerprint() == (names, before)
    load_plugins([INTERVAL])
    names, after = fingerprint()
    assert names == ["graders/interval", "sources/local"] and after != before


def test_an_unknown_kind_of_problem_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps(ROW) + "\n")
    with pytest.raises(DataError, match=r"problems\.jsonl:1: kind: .*no grader 'interval'"):
        supply(LocalSource(type="local", path=str(path)), 0)


def test_a_plugin_that_imports_a_built_in_stage_first_does_not_take_it_over(tmp_path: Path) -> None:
    path = plugin(tmp_path, "from factory.stages.generate.config import GenerateConfig\n")
    code = (
        "from pathlib import Path; from factory.core.plugin_files import load_plugins; import sys\n"
        "load_plugins([Path(sys.argv[1])])\n"
        "from factory.core.registry import DOORS\n"
        "print({r.origin.kind for d in DOORS.values() for r in d.rows()})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "{'factory'}"


def test_a_recipe_alone_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "mark"
    for name in ("mine.py", "few_words.py", "conftest.py"):
        plugin(tmp_path, f"open({str(mark)!r}, 'w')\n", name)
    monkeypatch.chdir(tmp_path)
    raw = {"name": "r", "stages": {"s": {"kind": "mine"}}}
    with pytest.raises(RecipeError, match="'mine' is none of"):
        recipe_from(raw, "r.yaml")
    with pytest.raises(RecipeError):
        REWARDS.row("few_words")
    assert not mark.exists()
