"""The command line: what it says about bad input, in a line or two, with exit status 2."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from factory.cli import app

ROOT = Path(__file__).resolve().parents[2]
VERBS = ("build", "plan", "report", "show", "ls", "chat", "compare", "review", "doctor")
RECIPE = """
name: small
stages:
  base:
    kind: model
    source: {type: tiny, architecture: llama}
"""


def factory(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def check_refusal(result: Result, *expected: str) -> None:
    assert result.exit_code == 2, result.output
    message = result.stderr
    assert all(part in message for part in expected), message
    assert message.startswith("error: ") and "Traceback" not in message
    assert len(message.splitlines()) <= 2


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_answers_within_half_a_second(verb: str) -> None:
    arguments = ["factory", *([verb] if verb else []), "--help"]
    code = f"import sys; sys.argv = {arguments!r}; from factory.cli import main; main()"
    seconds = []
    for _ in range(3):
        start = _processor_seconds()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        seconds.append(_processor_seconds() - start)
        assert done.returncode == 0 and "Usage" in done.stdout
    assert min(seconds) < 0.5, seconds


def _processor_seconds() -> float:
    """Processor time of finished children: what a wait would be on an idle machine."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("verb", ["build", "plan", "report"])
@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (RECIPE.replace("kind: model", "kind: modl").encode(), "stages.base.kind: 'modl'"),
        (RECIPE.replace("source", "sauce").encode(), "stages.base.sauce: unknown key"),
        ((RECIPE + "name: twice\n").encode(), "recipe.yaml:7: key 'name' stands twice"),
        (b"name: \xff\n", "recipe.yaml:1: not UTF-8"),
        (b"extends: none.yaml\n", "none.yaml: cannot be read"),
    ],
)
def test_a_bad_recipe_is_told_by_every_verb_that_reads_one(
    tmp_path: Path, verb: str, raw: bytes, expected: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(raw)
    check_refusal(factory(verb, path, "--store", tmp_path / "store"), expected)
    assert not (tmp_path / "store").exists()


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    check_refusal(factory("plan", tmp_path / "none.yaml"), "none.yaml: no such file")


def test_a_bad_set_and_a_bad_until_are_named(recipe: Path) -> None:
    check_refusal(factory("plan", recipe, "--set", "stages.bas.x=1"), "did you mean base?")
    check_refusal(factory("plan", recipe, "--until", "bas"), "--until bas: no such stage")


def test_a_bad_machine_file_is_named(recipe: Path, tmp_path: Path) -> None:
    machine = tmp_path / "machine.yaml"
    machine.write_text("treads: 1\n", encoding="utf-8")
    result = factory("build", recipe, "--machine", machine, "--store", tmp_path / "store")
    check_refusal(result, "machine.yaml: treads: unknown key (did you mean threads?)")


def test_a_store_that_cannot_be_written_is_named(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for verb in ("build", "report"):
        result = factory(verb, recipe, "--store", tmp_path / "file" / "store")
        check_refusal(result, str(tmp_path / "file"))


def test_a_local_model_without_safetensors_is_refused_by_the_plan(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}", encoding="utf-8")
    path = tmp_path / "recipe.yaml"
    source = f"{{type: local, path: {folder}}}"
    path.write_text(RECIPE.replace("{type: tiny, architecture: llama}", source), encoding="utf-8")
    check_refusal(factory("plan", path), "no *.safetensors file")


def test_a_disk_that_fills_up_during_a_build_is_one_clear_line(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "store/base/manifest.json")

    monkeypatch.setattr("factory.building.pipeline.build", full)
    result = factory("build", recipe, "--store", tmp_path / "store")
    check_refusal(result, "store/base/manifest.json: No space left on device")


def test_a_bug_is_not_dressed_up_as_a_users_mistake(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("factory.building.pipeline.build", broken)
    result = factory("build", recipe, "--store", tmp_path / "store")
    assert isinstance(result.exception, KeyError)


def test_ctrl_c_says_how_to_go_on(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("factory.building.pipeline.build", stopped)
    recipe = recipe.rename(tmp_path / "my recipe.yaml")
    result = factory("build", recipe, "--store", tmp_path / "store")
    assert result.exit_code == 130
    assert f"go on with: factory build '{recipe}' --store {tmp_path / 'store'}" in result.output


def test_an_unknown_artifact_and_an_empty_store(tmp_path: Path) -> None:
    check_refusal(factory("show", "nothing", "--store", tmp_path), "nothing: no such artifact")
    assert factory("ls", "--store", tmp_path).exit_code == 0


def test_a_file_that_was_typed_and_is_not_there_is_told_in_a_line(tmp_path: Path) -> None:
    check_refusal(factory("grade", tmp_path / "none.jsonl"), "none.jsonl: No such file")


def test_a_plan_looks_at_its_machine_file(recipe: Path, tmp_path: Path) -> None:
    done = factory("plan", recipe, "--machine", "nothing", "--store", tmp_path)
    check_refusal(done, "nothing: no such file")


def test_a_report_on_a_store_that_is_not_there_makes_none(recipe: Path, tmp_path: Path) -> None:
    store = tmp_path / "none"
    check_refusal(factory("report", recipe, "--store", store), "is made to report on")
    assert not store.exists()


def test_a_plan_computes_nothing_and_says_what_would_be_made(recipe: Path, tmp_path: Path) -> None:
    result = factory("plan", recipe, "--store", tmp_path / "store")
    assert result.exit_code == 0
    assert "0 of 1 stages are reused, 1 to make." in result.output
    assert not (tmp_path / "store").exists()


def test_a_folder_that_was_not_sealed_is_not_listed(tmp_path: Path) -> None:
    # A build killed between writing the manifest and renaming the folder.
    (tmp_path / "base-0123456789ab.partial").mkdir()
    (tmp_path / "base-0123456789ab.partial" / "manifest.json").write_text("{", encoding="utf-8")
    assert factory("ls", "--store", tmp_path).exit_code == 0
    check_refusal(factory("show", "base", "--store", tmp_path), "base: no such artifact")
