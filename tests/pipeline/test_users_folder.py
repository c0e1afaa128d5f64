"""The user's folder is data: no verb and no process below it runs a Python file that lies there."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pytest
from tempting import tempting

from factory.building.launch import local
from factory.core.machine import Machine, environment
from factory.models.tiny import save_tiny_model

# `matmul` and `threads` are open, so a first build measures the processor.
MACHINE = "{device: cpu, engine: transformers, block: 4, micro_batch: 2}\n"
RECIPE = """
name: tempted
seed: 1
stages:
  base: {kind: model, source: {type: tiny, architecture: llama}}
  sums:
    kind: problems
    sources:
      - type: reasoning_gym
        family: chain_sum
        settings: {min_terms: 2, max_terms: 2, min_digits: 1, max_digits: 1}
        train: 4
        held_out: 2
"""
SUITE = """
description: one question
protocol: one
benchmarks: [{name: gsm8k_100, task: gsm8k_100}]
"""
PROTOCOL = """
description: one short answer
prompt: {style: reflect}
sampling: {temperature: 1.0, top_p: 1.0, max_new_tokens: 4}
samples: 1
greedy: false
limit: 1
"""
# The console script that pip writes lies elsewhere too. `factory eval` finds its suites here.
SCRIPT = """
import pathlib, sys
import factory.building.suite
factory.building.suite.EVALS = pathlib.Path(__file__).with_name("evals")
from factory.cli import main
if __name__ == "__main__":
    sys.exit(main())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with a recipe, a machine file and stored answers; beside it a script."""
    root = tmp_path_factory.mktemp("home")
    folder = root / "user"
    tempting(folder)
    for name, text in (("suites", SUITE), ("protocols", PROTOCOL)):
        (root / "evals" / name).mkdir(parents=True)
        (root / "evals" / name / "one.yaml").write_text(text, encoding="utf-8")
    (root / "factory-script.py").write_text(SCRIPT, encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (folder / "machine.yaml").write_text(MACHINE, encoding="utf-8")
    row = {"id": "a", "kind": "math", "prompt": "1/2 + 1/2?", "reference": "1", "response": "$1$"}
    save_tiny_model(folder / "tiny", "llama", hidden=32, layers=1)
    (folder / "answers.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    return folder


def run_in(
    folder: Path, command: Sequence[str], settings: Mapping[str, str] = MappingProxyType({})
) -> subprocess.CompletedProcess[str]:
    """A command as from a shell in the folder, without what pytest has put into the environment."""
    folder.with_name(f"{folder.name}-ran").unlink(missing_ok=True)
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    return subprocess.run(
        command, cwd=folder, env={**kept, "COLUMNS": "200", **settings}, text=True, check=False,
        stdin=subprocess.DEVNULL, capture_output=True,
    )  # fmt: skip


def files_that_ran(folder: Path) -> list[str]:
    ran = folder.with_name(f"{folder.name}-ran")
    return sorted(set(ran.read_text(encoding="utf-8").split())) if ran.exists() else []


def test_the_trap_works(tmp_path: Path) -> None:
    tempting(tmp_path / "user")
    run_in(tmp_path / "user", [sys.executable, "-c", "import torch, factory"])
    assert files_that_ran(tmp_path / "user") == ["factory", "torch"]


@pytest.mark.parametrize(
    "arguments",
    [
        "plan recipe.yaml",
        "build recipe.yaml --plain --machine machine.yaml --store made",
        "eval tiny --suite one --protocol one --plain --machine machine.yaml --store made",
        "grade answers.jsonl --processes 1",
        "doctor",
    ],
)
def test_a_verb_runs_none_of_the_users_files(folder: Path, arguments: str) -> None:
    script = str(folder.with_name("factory-script.py"))
    done = run_in(folder, [sys.executable, script, *arguments.split()])
    assert files_that_ran(folder) == [], done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 0 or arguments == "doctor", done.stdout + done.stderr


def test_a_launched_rank_runs_none_of_the_users_files(folder: Path) -> None:
    """accelerate and the rank that it starts, on a job that is not there."""
    machine = Machine(device="cpu", launcher="accelerate", processes=1)
    command = local._accelerate(machine, folder / "missing.json")
    done = run_in(folder, command, environment(machine))
    assert files_that_ran(folder) == []
    assert "missing.json" in done.stderr


def test_what_libraries_start_runs_none_of_the_users_files(folder: Path) -> None:
    """`python -m` and `python -c` below a worker, as torch, vLLM and multiprocessing call them."""
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import torch'])"
    run_in(folder, [sys.executable, "-P", "-c", code], environment(Machine(device="cpu")))
    assert files_that_ran(folder) == []
