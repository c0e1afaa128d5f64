"""The examples as their users run them: installed or named on the command line, killed, priced."""

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from building import ROOT, Build

from factory.building.recipe import load_recipe
from factory.core.artifacts import open_artifact
from factory.core.registry import DOORS, open_doors

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SHORT = ROOT / "examples" / "short.py"
PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "few-words"
version = "1.0"
[tool.setuptools]
py-modules = ["few_words"]
[project.entry-points."model_factory.rewards"]
few_words = "few_words:few_words"
"""
RECIPE = """
name: examples
stages:
  questions:
    kind: problems
    sources: [{type: tickets, most: 9, train: 12, held_out: 3}]
  cold:
    kind: written
    source: {type: forum, path: FOLDER/forum.csv}
    unlike: questions
  short: {kind: short, traces: cold, most_tokens: 30}
"""
FORUM = "title,body,accepted\nWhat is 3 + 4?,Seven.,7\nWhat is 5 * 6?,Thirty.,30\n"


def plugins(*paths: Path) -> list[str]:
    return [word for path in paths for word in ("--plugin", str(path))]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "forum.csv").write_text(FORUM)
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("FOLDER", str(tmp_path)))
    return path


def run(*arguments: str, folder: Path, installed: str = "") -> str:
    """What a `factory` command prints that ends well."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", "from factory.cli import main; main()", *arguments],
        capture_output=True, text=True, cwd=folder, stdin=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "200", "PYTHONPATH": installed},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def content(store: Path) -> dict[str, str]:
    return {
        path.name: open_artifact(path).manifest.content
        for path in store.iterdir()
        if (path / "manifest.json").is_file()
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_imports_the_public_names_alone(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            assert all(alias.name in sys.stdlib_module_names for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            top = str(node.module).partition(".")[0]
            assert node.module == "factory.plugins" or names == ["factory.plugins"] or (
                top in sys.stdlib_module_names
            )  # fmt: skip


@pytest.mark.usefixtures("fresh_doors")
def test_there_is_an_example_of_every_door() -> None:
    from factory.core.plugin_files import load_plugins, rows_of

    open_doors()
    rows = {id(row) for file in load_plugins(EXAMPLES) for row in rows_of(file)}
    filled = {name for name, door in DOORS.items() if any(id(row) in rows for row in door.rows())}
    assert filled == set(DOORS)
    assert len(rows) == len(EXAMPLES)


def test_one_is_installed_and_the_others_are_named(tmp_path: Path, recipe: Path) -> None:
    project, installed = tmp_path / "project", tmp_path / "installed"
    project.mkdir()
    (project / "pyproject.toml").write_text(PROJECT)
    text = (ROOT / "examples" / "few_words.py").read_text()
    (project / "few_words.py").write_text(text)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target",
         str(installed), "--no-build-isolation", str(project)],
        check=True, capture_output=True,
    )  # fmt: skip
    resolved = dict(load_recipe(ROOT / "recipes" / "smoke.yaml").resolved)
    stages = {name: dict(fields) for name, fields in resolved["stages"].items()}
    stages["zero"]["rewards"] = [{"name": "accuracy"}, {"name": "few_words"}]
    full = tmp_path / "whole.json"
    full.write_text(json.dumps({**resolved, "stages": stages}))
    others = plugins(*(path for path in EXAMPLES if path.stem != "few_words"))
    listed = run("plugins", *others, folder=tmp_path, installed=str(installed))
    assert "few_words" in listed and "short" in listed and "tickets" in listed
    run("plan", str(full), *others, folder=ROOT, installed=str(installed))
    run("plan", str(recipe), *others, folder=tmp_path, installed=str(installed))
    with pytest.raises(AssertionError, match="no reward 'few_words'"):
        run("plan", str(full), *others, folder=ROOT)


def test_a_users_stage_is_built_rehearsed_priced_and_shown(tmp_path: Path, recipe: Path) -> None:
    named = plugins(*EXAMPLES)
    store = tmp_path / "store"
    text = Build(store, *named, recipe=recipe, is_warm=True).succeed()
    assert "short: made in" in text and "kept 2" in text
    report = (store / "reports" / "examples" / "report.md").read_text()
    assert "| short | short |" in report
    text = Build(store, *named, recipe=recipe, is_warm=True).succeed()
    assert "3 stages, 3 reused" in text
    for verb, words in (("rehearse", "short: made in"), ("plan", "short\tshort")):
        arguments = ["--cost"] if verb == "plan" else []
        text = Build(tmp_path / verb, *named, *arguments, verb=verb, recipe=recipe).succeed()
        assert words in text, text
    (row,) = [line for line in text.splitlines() if line.startswith("short\t")]
    assert row.split()[2:5:2] == ["0.0", "0.5"], row  # seconds, GiB


def test_a_users_stage_that_is_killed_goes_on_to_the_same_bytes(
    tmp_path: Path, recipe: Path
) -> None:
    """Its rows are kept in `context.scratch` one by one; the second run takes up where the first
    was killed."""
    slow = tmp_path / "slow.py"
    slow.write_text(
        SHORT.read_text()
        .replace(
            "    kept = [trace for trace in traces if trace",
            "    import json, time\n"
            "    done = context.scratch / 'done.jsonl'\n"
            "    before = len(done.read_text().splitlines()) if done.exists() else 0\n"
            "    print('began at', before, flush=True)\n"
            "    for number in range(before, 4):\n"
            "        with done.open('a') as file:\n"
            "            file.write(json.dumps(number) + '\\n')\n"
            "        time.sleep(0 if before else 3)\n"
            "    kept = [trace for trace in traces if trace",
        )
    )  # fmt: skip
    named = plugins(ROOT / "examples" / "tickets.py", ROOT / "examples" / "forum.py", slow)
    quiet, killed = tmp_path / "quiet", tmp_path / "killed"
    first = Build(killed, *named, recipe=recipe)
    deadline = time.monotonic() + 200
    while not list(killed.glob("short-*.run/scratch/done.jsonl")):
        assert time.monotonic() < deadline and first.process.poll() is None, first.output()
        time.sleep(0.05)
    first.kill(whole_group=True)
    assert not [name for name in content(killed) if name.startswith("short")]
    text = Build(killed, *named, recipe=recipe).succeed()
    assert "3 stages, 2 reused" in text
    (log,) = killed.glob("short-*.run/log.txt")
    assert "began at 1" in log.read_text()
    Build(quiet, *named, recipe=recipe).succeed()
    assert content(killed) == content(quiet)
