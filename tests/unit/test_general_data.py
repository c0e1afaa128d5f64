"""Data without a rule: worked examples of kind open, and the shipped file of them."""

import json
from collections import Counter
from pathlib import Path

import pytest

from factory.core.artifacts import Inputs, seal
from factory.core.context import Context
from factory.core.errors import DataError
from factory.core.jsonl import read_records
from factory.core.machine import Machine
from factory.core.records import Trace
from factory.problems.trace_source import WorkedExample
from factory.stages.written import STAGE, WrittenConfig
from factory.text.lint import lint

ROOT = Path(__file__).resolve().parents[2]
GENERAL = ROOT / "recipes" / "data" / "general.jsonl"


def written(tmp_path: Path, path: Path) -> tuple[dict[str, float], list[Trace]]:
    (tmp_path / "problems").mkdir(parents=True)
    (tmp_path / "problems" / "held_out.jsonl").write_text("", encoding="utf-8")
    (tmp_path / "out").mkdir()
    fields = {
        "kind": "problems", "name": "p", "stage": "problems", "stage_version": 1,
        "fingerprint": "f", "config": {}, "inputs": {}, "seed": 0, "metrics": {}, "versions": {},
        "machine": {}, "commit": "", "dirty": False, "seconds": 0.0, "peak_memory_gib": 0.0,
        "created": "",
    }  # fmt: skip
    inputs = Inputs(unlike=seal(tmp_path / "problems", tmp_path / "sealed", fields))
    config = WrittenConfig(kind="written", path=str(path), unlike="p")
    metrics = STAGE.run(config, inputs, tmp_path / "out", Context(0, Machine(), tmp_path))
    return metrics, list(read_records(tmp_path / "out" / "traces.jsonl", Trace))


def test_the_shipped_file_is_labelled_clean_and_thinks_only_where_that_helps(tmp_path) -> None:
    examples = list(read_records(GENERAL, WorkedExample))
    assert 40 <= len(examples) <= 80
    assert all(e.origin.startswith("synthetic") for e in examples)
    assert len({e.question for e in examples}) == len(examples)
    thinking = Counter(e.topic for e in examples if e.reasoning)
    topics = Counter(e.topic for e in examples)
    assert set(topics) == {"factual", "translation", "writing", "self_cognition", "greeting"}
    assert thinking["greeting"] == thinking["self_cognition"] == 0
    assert thinking["factual"] == topics["factual"] and thinking["writing"] == topics["writing"]
    metrics, traces = written(tmp_path, GENERAL)
    assert metrics["traces"] == len(traces) == len(examples)
    assert all(lint(t.completion) == [] or not t.reasoning for t in traces)
    outcomes = {(t.problem_id.split("-")[0], t.verdict.outcome) for t in traces}
    assert outcomes == {
        ("factual", "correct"), ("translation", "ungradable"), ("writing", "ungradable"),
        ("self_cognition", "ungradable"), ("greeting", "ungradable"),
    }  # fmt: skip


def test_an_open_example_is_taken_as_written_and_a_gradable_one_is_still_graded(tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    row = {"question": "Hi", "reasoning": "", "answer": "Hello", "kind": "open"}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    _, (trace,) = written(tmp_path / "a", path)
    assert trace.completion == "<think>  </think> <answer> Hello </answer>"
    assert trace.problem_id.startswith("written-")
    assert "taken as written" in trace.verdict.explanation
    wrong = {**row, "kind": "exact", "reference": "Goodbye"}
    path.write_text(json.dumps(wrong) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="'Hi' is worked to 'Hello': wrong"):
        written(tmp_path / "b", path)
    broken = {**row, "answer": "Hello\nUser: hi"}
    path.write_text(json.dumps(broken) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="a made-up turn"):
        written(tmp_path / "c", path)
