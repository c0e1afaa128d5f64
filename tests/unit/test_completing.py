"""What a shell offers for a half-typed word, asked as bash asks."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from factory.cli import app

RECIPE = """
extends: parent.yaml
name: mine
stages:
  student: {kind: sft, model: base, traces: kept}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "parent.yaml").write_text("stages: {base: {}, sums: {}}", encoding="utf-8")
    (tmp_path / "broken.yaml").write_text("stages: {", encoding="utf-8")
    sealed = tmp_path / "elsewhere" / "student-0123456789ab"
    sealed.mkdir(parents=True)
    (sealed / "manifest.json").write_text("{}", encoding="utf-8")
    (tmp_path / "elsewhere" / "student-ba9876543210.run").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("factory pru", ["prune"]),
        ("factory build quick", ["quickstart"]),
        ("factory plan mi", ["mine.yaml"]),
        ("factory build distill/qwen3", ["distill/qwen3-0.6b"]),
        ("factory build mine.yaml --until s", ["student", "sums"]),
        ("factory build broken.yaml --until s", []),
        ("factory build smoke --machine gp", ["gpu", "gpu24"]),
        ("factory eval embedded --suite of", ["offline"]),
        ("factory eval embedded --suite offline --protocol qu", ["quick"]),
        ("factory show --store elsewhere st", ["student", "student-0123456789ab"]),
        ("factory build else", ["elsewhere/"]),
        ("factory build nowhere/", []),
    ],
)
def test_names_are_offered(folder: Path, line: str, offered: list[str]) -> None:
    words = line.split(" ")
    asked_by_bash = {
        "_FACTORY_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1),
    }  # fmt: skip
    result = CliRunner(env=asked_by_bash).invoke(app, [], prog_name="factory")
    assert result.output.split() == offered
