"""Names of shipped files, files that a recipe names, and the wheel that holds both."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from wheel import built_wheel, files_of_checkout

from factory.building.plan import make_plan
from factory.building.recipe import kept_recipe, load_machine, load_recipe
from factory.core.data_file import WITH_PATHS, DataFile
from factory.core.errors import RecipeError
from factory.core.shipped import named_file, shipped, shipped_names
from factory.install import read_constraints
from factory.problems.local import LocalSource

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """
name: own
stages:
  sums: {kind: problems, sources: [{type: local, path: sums.jsonl}]}
"""
ROW = json.dumps({"prompt": "1 + 1 =", "reference": "2", "kind": "math"}) + "\n"


def test_a_name_means_a_shipped_recipe_and_a_path_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_recipe(Path("quickstart")).name == "quickstart"
    assert load_recipe(Path("distill/qwen3-0.6b")).stages
    assert (
        load_machine(Path("gpu")).engine
        == load_machine(shipped("recipes/machines/gpu.yaml")).engine
    )
    (tmp_path / "quickstart").write_text(RECIPE, encoding="utf-8")
    assert load_recipe(Path("quickstart")).name == "own", "a file of that name comes first"


@pytest.mark.parametrize("name", ["../recipes/smoke", "/smoke", "smoke.yaml", "machines"])
def test_a_name_never_leaves_its_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert named_file(Path(name), shipped("recipes")) == Path(name)


def test_a_slip_is_answered_with_what_is_near(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=r"quickstat: no such file.*did you mean quickstart\?"):
        load_recipe(Path("quickstat"))
    with pytest.raises(RecipeError, match=r"gpu25: no such file.*did you mean gpu24\?"):
        load_machine(Path("gpu25"))
    (tmp_path / "mine.yaml").write_text(RECIPE, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"did you mean mine\.yaml\?"):
        load_recipe(Path("mime.yaml"))


def test_shipped_names_are_those_of_the_folder() -> None:
    names = shipped_names(shipped("recipes"))
    assert {"quickstart", "smoke", "distill/qwen3-0.6b"} <= set(names)
    assert not [name for name in names if name.startswith("machines/")]


def _plan_of(recipe: Path) -> tuple[str, str]:
    loaded = load_recipe(recipe)
    config = loaded.stages["sums"]
    job = config.model_dump(mode="json", context=WITH_PATHS)
    return make_plan(loaded)[0].fingerprint, job["sources"][0]["path"]


def test_a_file_lies_beside_its_recipe_and_a_moved_recipe_keeps_its_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prints = set()
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "sums.jsonl").write_text(ROW, encoding="utf-8")
        (folder / "own.yaml").write_text(RECIPE, encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        fingerprint, path = _plan_of(folder / "own.yaml")
        assert Path(path) == folder / "sums.jsonl"
        prints.add(fingerprint)
        monkeypatch.chdir(folder)
        prints.add(_plan_of(Path("own.yaml"))[0])
    assert len(prints) == 1


def test_a_file_is_looked_for_beside_the_parent_recipe_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "child").mkdir()
    (tmp_path / "base" / "sums.jsonl").write_text(ROW, encoding="utf-8")
    (tmp_path / "base" / "own.yaml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "child" / "own.yaml").write_text("extends: ../base/own.yaml\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path / "child")
    assert Path(_plan_of(Path("own.yaml"))[1]).samefile(tmp_path / "base" / "sums.jsonl")


def test_a_kept_recipe_goes_on_finding_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dots in the written path, read again from a third folder."""
    (tmp_path / "a" / "data").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a" / "sums.jsonl").write_text(ROW, encoding="utf-8")
    text = RECIPE.replace("sums.jsonl", "./data/../sums.jsonl")
    (tmp_path / "a" / "own.yaml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(Path("a/own.yaml"))
    prints = [step.fingerprint for step in make_plan(recipe)]
    kept = tmp_path / "elsewhere" / "recipe.json"
    text = json.dumps(kept_recipe(recipe))
    kept.write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert [step.fingerprint for step in make_plan(load_recipe(kept))] == prints
    kept.write_text(json.dumps({**json.loads(text), "folders": "a"}), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"folders: must be a list of folders"):
        load_recipe(kept)


def test_a_recipe_that_needs_no_folder_is_kept_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    recipe = load_recipe(Path("quickstart"))
    assert kept_recipe(recipe) == recipe.resolved


def test_two_different_files_of_a_name_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "own.yaml").write_text(RECIPE, encoding="utf-8")
    for folder in (tmp_path, tmp_path / "a"):
        (folder / "sums.jsonl").write_text(ROW, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        RecipeError, match=r"stages\.sums\.sources\.0.*means .*write the whole path"
    ):
        load_recipe(Path("a/own.yaml"))


def test_what_is_written_is_what_is_recorded() -> None:
    source = LocalSource.model_validate_json(
        '{"type": "local", "path": "worked_sums.jsonl"}',
        context={"folders": [shipped("recipes/data")]},
    )
    assert isinstance(source.path, DataFile) and Path(source.path).is_file()
    assert source.model_dump(mode="json")["path"] == "worked_sums.jsonl"
    assert source.model_dump(mode="json", context=WITH_PATHS)["path"] == str(source.path)


PLAN_ALL = """
from pathlib import Path
from factory.core import shipped
from factory.install import read_constraints
from factory.building.plan import make_plan
from factory.building.recipe import load_recipe
from factory.building.suite import load_suite
from factory.evaluation.published import load_published
assert str(shipped.PACKAGE).startswith({folder!r}), shipped.PACKAGE
names = shipped.shipped_names(shipped.shipped("recipes"))
for name in names:
    assert make_plan(load_recipe(Path(name))), name
load_suite("offline"), load_published()
print(len(names))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_wheel(tmp_path_factory.mktemp("wheel"))


def test_a_wheel_holds_every_file_of_the_package_its_recipes_and_its_readme(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    moved = ("recipes/", "evals/")
    wanted = [n for n in files_of_checkout() if n.startswith(("factory/", "lab/", *moved))]
    wanted = [f"factory/{n}" if n.startswith(moved) else n for n in wanted]
    assert len(wanted) > 300
    assert [name for name in [*wanted, "factory/constraints.txt"] if name not in names] == []
    assert not [name for name in names if name.startswith(("tests/", "bench/", "recipes/"))]
    (metadata,) = (name for name in names if name.endswith("/METADATA"))
    text = zipfile.ZipFile(wheel).read(metadata).decode()
    assert "Name: distill-factory\n" in text
    assert (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[0] in text


def test_a_wheel_plans_every_recipe_in_an_empty_folder(tmp_path: Path, wheel: Path) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    done = subprocess.run(
        [sys.executable, "-c", PLAN_ALL.format(folder=str(site))],
        cwd=empty,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) == len(shipped_names(shipped("recipes")))
    assert list(empty.iterdir()) == [], "planning leaves nothing behind"


def test_the_steps_of_the_dockerfile_are_shell_and_their_torch_is_the_pinned_one() -> None:
    """No image is built here: the base cannot be fetched everywhere."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    steps = [line.removeprefix("RUN ") for line in text.splitlines() if line.startswith("RUN ")]
    assert len(steps) == 3
    for step in steps:
        subprocess.run(["bash", "-n", "-c", step], check=True)
    program = steps[1].partition("$(")[2].partition(')"')[0].replace("/src/", f"{ROOT}/")
    shown = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == f"torch=={read_constraints()['torch']}+cpu"
    assert "USER factory" in text and "--network" not in text
