"""`factory why`: the source of a value is the line that states it, and all that hangs on it."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from factory.building.why import why
from factory.cli import app
from factory.core.errors import RecipeError
from factory.core.shipped import shipped

PARENT = """\
name: parent
claims:
  - {text: it learns, benchmark: sums, of: [scored], against: [before]}
stages:
  base: {kind: model, source: {type: tiny, architecture: llama}}
  sums:
    kind: problems
    sources: [{type: reasoning_gym, family: chain_sum, train: 4, held_out: 2}]
  traces: {kind: generate, model: base, problems: sums, samples: 3}
  student:
    kind: sft
    model: base
    traces: traces
    learning_rate: 1e-5
  before: {kind: evaluate, model: base, benchmarks: [{name: sums, problems: sums}], samples: 2}
  scored: {like: before, model: student}
"""
CHILD = """\
extends: parent.yaml
name: child
stages:
  base: {source: {type: embedded}}
  student:
    epochs: 2
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "parent.yaml").write_text(PARENT, encoding="utf-8")
    (tmp_path / "child.yaml").write_text(CHILD, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return Path("child.yaml")


@pytest.mark.parametrize(
    ("setting", "value", "source"),
    [
        ("stages.student.epochs", 2, "child.yaml:6"),
        ("stages.student.learning_rate", 1e-5, "parent.yaml:14"),
        ("stages.student.batch", None, "default"),
        ("stages.traces.samples", 3, "parent.yaml:9"),
        ("stages.sums.sources.0.train", 4, "parent.yaml:8"),
        ("stages.scored.samples", 2, "parent.yaml:15, by like: before"),
        ("stages.scored.model", "student", "parent.yaml:16"),
        # The child's other type replaced all that the parent said of the source.
        ("stages.base.source.name", "smollm2-135m-instruct", "default"),
    ],
)
def test_the_source_is_the_line_that_states_the_value(
    setting: str, value: Any, source: str, child: Path
) -> None:
    reason = why(child, setting)
    assert reason.source == source
    assert value is None or reason.value == value


def test_an_option_comes_before_every_file(child: Path) -> None:
    given = ["stages.student.epochs=3", "stages.traces.samples=5"]
    assert why(child, "stages.student.epochs", given).source == "--set stages.student.epochs=3"
    assert why(child, "stages.student.epochs", given).value == 3


def test_what_hangs_on_a_setting_is_all_that_is_behind_its_stage(child: Path) -> None:
    reason = why(child, "stages.traces.samples")
    assert reason.remade == ("traces", "student", "scored") and reason.stages == 6
    assert reason.claims == ("it learns",)
    assert why(child, "stages.scored.samples").claims == ("it learns",)
    assert why(child, "stages.student.epochs").about


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("seed", "must look like stages.STAGE.SETTING"),
        ("stages.studnet.epochs", "no stage named 'studnet' .did you mean student"),
        ("stages.student.epoch", "no such setting: epoch .did you mean epochs"),
        ("stages.student.epochs.3", "nothing is set below '3'"),
        ("stages.sums.sources.7", "nothing is set below '7'"),
    ],
)
def test_a_slip_is_answered_with_what_is_near(setting: str, message: str, child: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        why(child, setting)


def test_the_terminal_says_what_the_document_says(child: Path) -> None:
    words = ["why", "stages.student.learning_rate", str(child)]
    shown = CliRunner().invoke(app, words).stdout
    document = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert document["source"] in shown and document["about"] in shown
    assert "next: factory plan child.yaml --set stages.student.learning_rate=VALUE" in shown


def test_every_setting_of_a_shipped_stage_has_its_line() -> None:
    path = shipped("recipes") / "quickstart.yaml"
    stage, seen = "", 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        key, colon, _ = line.strip().partition(":")
        depth = len(line) - len(line.lstrip())
        if depth == 2 and line.endswith(":"):
            stage = key
        if depth == 4 and colon and stage and key.isidentifier() and key not in ("kind", "like"):
            source = why(path, f"stages.{stage}.{key}").source
            assert source.rpartition(":")[2] == str(number)
            seen += 1
    assert seen > 50
