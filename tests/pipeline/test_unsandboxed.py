"""`build --unsandboxed`: what it stamps."""

from pathlib import Path

from building import sealed
from typer.testing import CliRunner

from factory.cli import app
from factory.core.jsonl import read_records
from factory.core.records import Trace

RECIPE = """
name: programs
stages:
  base: {kind: model, source: {type: tiny, architecture: llama}}
  tests:
    kind: problems
    sources: [{type: local, path: PROBLEMS, train: 1}]
  traces:
    kind: generate
    model: base
    problems: tests
    samples: 1
    prompt: {prefill: "<think> </think> <answer> print(3) #"}
    sampling: {max_new_tokens: 2}
"""
PROBLEM = (
    '{"prompt": "Print 3.", "reference": "", "kind": "code", '
    '"data": {"tests": [{"stdin": "", "expected_stdout": "3"}]}}\n'
)


def test_a_build_without_the_sandbox_says_so_in_manifest_and_report(tmp_path: Path) -> None:
    recipe, problems, machine = (tmp_path / n for n in ("r.yaml", "p.jsonl", "m.yaml"))
    recipe.write_text(RECIPE.replace("PROBLEMS", str(problems)), encoding="utf-8")
    problems.write_text(PROBLEM, encoding="utf-8")
    machine.write_text("{device: cpu, engine: transformers, threads: 1, matmul: float32}\n")
    store = tmp_path / "store"
    arguments = ["build", str(recipe), "--machine", str(machine), "--store", str(store), "--plain"]
    result = CliRunner().invoke(app, [*arguments, "--unsandboxed"])
    assert result.exit_code == 0, result.output
    made = sealed(store)
    assert made["traces"].manifest.machine["unsandboxed"] is True
    assert list(read_records(made["traces"].file("traces.jsonl"), Trace))
    page = (store / "reports" / "programs" / "report.md").read_text(encoding="utf-8")
    assert (
        "unsandboxed: made while models' programs ran without isolation: base, tests, traces"
        in page
    )
