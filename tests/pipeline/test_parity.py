"""The same tasks through our sampler and through lm-eval's own `hf` backend: equal to the digit.

Greedy, CPU, a tiny model with random weights; half of the references are what it says. In float64,
so that two tokens that are about as likely are told apart alike.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from test_harness import Bench, model, problems, write_task

from factory.core.artifacts import Artifact, Inputs
from factory.core.context import stderr_context
from factory.core.jsonl import read_records
from factory.core.machine import Machine
from factory.core.records import EvalSample
from factory.stages import evaluate
from factory.stages.evaluate import BenchmarkConfig, EvaluateConfig

__all__ = ["Bench", "model", "problems"]
"""Fixtures of the harness's tests."""

pytestmark = pytest.mark.usefixtures("float64")
GENERATION = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{{{test: {{data}}}}}}
test_split: test
doc_to_text: "{{{{{{{{q}}}}}}}}"
doc_to_target: a
generation_kwargs: {{{{until: [{until}], do_sample: false, max_gen_toks: 24}}}}
metric_list:
  - {{{{metric: exact_match, aggregation: mean, higher_is_better: true}}}}
filter_list:
  - name: whole
    filter: [{{{{function: take_first}}}}]
  - name: head
    filter: [{{{{function: regex, regex_pattern: "^(.)"}}}}, {{{{function: take_first}}}}]
metadata: {{{{version: 1}}}}
"""
CHOICES = """
task: colours
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}} is"
doc_to_choice: ["red", "pale blue", "a"]
doc_to_target: label
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1}}
"""
QUESTIONS = ["Name a town.", "2 + 3 =", "Which bird\nsings?", "The end", "x", "Why not now?"]


def theirs(path: Path, evals: Path, task: str) -> dict[str, Any]:
    """lm-eval's results with its own backend and nothing of ours."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    backend = HFLM(pretrained=str(path), device="cpu", dtype="float32", batch_size=2)
    manager = TaskManager(include_path=str(evals), include_defaults=False)
    result = simple_evaluate(
        model=backend, tasks=[task], task_manager=manager, bootstrap_iters=0, log_samples=True
    )
    assert result is not None
    return dict(result)


def ours(root: Path, model: Artifact, task: str) -> tuple[dict[str, Any], list[EvalSample]]:
    """harness.json's results of the evaluate stage with the transformers engine, and samples."""
    out, scratch = root / "out", root / "scratch"
    out.mkdir()
    scratch.mkdir()
    machine = Machine(device="cpu", dtype="float32", engine="transformers", threads=1, block=4)
    config = EvaluateConfig(
        kind="evaluate", model="tiny", benchmarks=(BenchmarkConfig(name=task, task=task, raw=True),)
    )
    evaluate.run(config, Inputs({"model": model}), out, stderr_context(7, scratch, machine))
    results = json.loads((out / "harness.json").read_text())["results"][f"{task}.greedy"]
    return results, list(read_records(out / "samples.jsonl", EvalSample))


def numbers(results: dict[str, Any]) -> dict[str, float]:
    outcome = {name: value for name, value in results.items() if isinstance(value, float)}
    return {name: value for name, value in outcome.items() if "stderr" not in name}


def said(results: dict[str, Any], task: str) -> list[str]:
    rows = [row for row in results["samples"][task] if row["filter"] == "whole"]
    return [row["resps"][0][0] for row in sorted(rows, key=lambda row: row["doc_id"])]


@pytest.mark.parametrize("until", ['"\\n"', '"zzz"'], ids=["line", "length"])
def test_a_task_of_generation(
    until: str, tmp_path: Path, model: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    yaml = GENERATION.format(name="towns", until=until)
    write_task(tmp_path / "draft", yaml, [{"q": q, "a": "?"} for q in QUESTIONS])
    texts = said(theirs(model.path, tmp_path / "draft", "towns"), "towns")
    assert len(set(texts)) > 1
    # Every other reference is what the model says; its first character alone is never one.
    rows: list[dict[str, object]] = [
        {"q": q, "a": text if i % 2 else "?"}
        for i, (q, text) in enumerate(zip(QUESTIONS, texts, strict=True))
    ]
    write_task(tmp_path / "evals", yaml, rows)
    expected = theirs(model.path, tmp_path / "evals", "towns")
    monkeypatch.setattr(evaluate, "EVALS", tmp_path / "evals")
    results, samples = ours(tmp_path, model, "towns")
    assert numbers(results) == numbers(expected["results"]["towns"])
    assert numbers(results)["exact_match,whole"] == 0.5
    stop = until.strip('"').replace("\\n", "\n")
    assert [s.trace.completion.split(stop)[0] for s in samples] == texts


def test_a_task_of_likelihoods(
    tmp_path: Path, model: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[dict[str, object]] = [{"q": q, "label": i % 3} for i, q in enumerate(QUESTIONS)]
    write_task(tmp_path / "evals", CHOICES, rows)
    expected = theirs(model.path, tmp_path / "evals", "colours")
    monkeypatch.setattr(evaluate, "EVALS", tmp_path / "evals")
    results, _ = ours(tmp_path, model, "colours")
    assert numbers(results) == numbers(expected["results"]["colours"])
    assert {"acc,none", "acc_norm,none"} <= numbers(results).keys()
