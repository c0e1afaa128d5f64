"""Canaries in an RL run: silent with sound graders, loud with one that takes everything."""

import json
from pathlib import Path

import pytest
from test_grpo_stage import config, make_inputs, run_stage

from factory.core.records import Verdict
from factory.grading import GradingPool

CANARIES = {"canaries": 5, "steps": 2, "rewards": ({"name": "accuracy"}, {"name": "format"})}


def messages(events: list[dict]) -> list[str]:
    return [row["text"] for row in events if row["event"] == "note" and "ALARM" in row["text"]]


def test_an_alarm_is_raised_only_where_a_grader_is_fooled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = make_inputs(tmp_path / "artifacts")
    out, metrics, events = run_stage(config(**CANARIES), inputs, tmp_path / "sound")
    rows = [json.loads(line) for line in (out / "telemetry.jsonl").read_text().splitlines()]
    assert {row["canary_accuracy"] for row in rows if "canary_accuracy" in row} == {0.0}
    assert (messages(events), metrics["canary_alarms"]) == ([], 0.0)

    fooled = Verdict(outcome="correct", answer="7", explanation="taken")
    monkeypatch.setattr(GradingPool, "grade", lambda self, items: [fooled for _ in items])
    _, metrics, events = run_stage(config(**CANARIES), inputs, tmp_path / "fooled")
    assert len(messages(events)) == metrics["canary_alarms"] == 1.0
    assert "100% of the answers to canary problems" in messages(events)[0]
