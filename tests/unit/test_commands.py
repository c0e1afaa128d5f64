"""Commands that are printed to be typed next: run again, they mean what was typed."""

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from test_review import sealed
from typer.testing import CliRunner

from factory.building import pipeline
from factory.cli import app
from factory.core.artifacts import Artifact
from factory.report import writing
from factory.ui.commands import quoted

RECIPE = """
name: small
stages:
  base:
    kind: model
    source: {type: tiny, architecture: llama}
  sums:
    kind: problems
    sources: [{type: reasoning_gym, family: chain_sum, train: 4, held_out: 2}]
  traces: {kind: generate, model: base, problems: sums}
  student: {kind: sft, model: base, traces: traces}
  scored: {kind: evaluate, model: student, benchmarks: [{name: sums, problems: sums}]}
"""
SETTINGS = (
    "stages.traces.samples=2",
    "stages.sums.sources=[{type: reasoning_gym, family: chain_sum, train: 8, held_out: 2}]",
    """stages.traces.prompt={style: chat, system: "it's $HOME [red] `ls`; a\\\\b  !x *"}""",
)
MACHINE = (
    "threads: 1\nmatmul: float32\npeaks: {gflops: 1, gigabytes_per_second: 1, memory_gib: 8}\n"
)
AWKWARD = 'a store\'s $HOME [bold] ~ "quoted" & so on, longer than a line of eighty columns is'


def parsed(arguments: Sequence[str]) -> tuple[str, Mapping[str, Any]]:
    """Verb and parameters of a command line without its first word."""
    group = typer.main.get_command(app)
    verb, *rest = arguments
    context = typer.Context(group)
    return verb, group.get_command(context, verb).make_context(verb, rest).params


def line_of(output: str, label: str) -> list[str]:
    """The words of the one line that begins with this label."""
    lines = [line for line in output.splitlines() if line.startswith(label)]
    assert len(lines) == 1, output
    words = shlex.split(lines[0].removeprefix(label))
    assert words[0] == "factory"
    return words[1:]


def run(*arguments: str | Path, columns: int = 80):
    runner = CliRunner(env={"COLUMNS": str(columns)})
    return runner.invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Path]:
    """A recipe, a machine file and a store, all with awkward names."""
    monkeypatch.chdir(tmp_path)
    names = Path("my recipe [1].yaml"), Path("it's $(a) machine.yaml"), Path(AWKWARD)
    names[0].write_text(RECIPE, encoding="utf-8")
    names[1].write_text(MACHINE, encoding="utf-8")
    return names


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Artifact]:
    """What a build returns that makes nothing."""
    kinds = {"base": "model", "sums": "problems", "traces": "traces", "student": "model"}
    artifacts = {}
    for name, kind in {**kinds, "scored": "scores"}.items():
        (tmp_path / "sealed" / name).mkdir(parents=True)
        artifact = sealed(tmp_path / "sealed" / name, kind, name=name, fingerprint=name[0] * 64)
        stage = {"base": "model", "student": "sft"}.get(name, name)
        manifest = artifact.manifest.model_copy(update={"stage": stage})
        artifacts[name] = Artifact(artifact.path, manifest)
    monkeypatch.setattr(pipeline, "build", lambda *_: artifacts)
    monkeypatch.setattr(writing, "write_report", lambda *_: (Path("report.html"), ()))
    return artifacts


@pytest.mark.parametrize("columns", [20, 80])
@pytest.mark.parametrize("settings", [SETTINGS[:1], SETTINGS])
def test_plan_leads_to_the_build_of_what_was_typed(
    files: tuple[Path, Path, Path], columns: int, settings: Sequence[str]
) -> None:
    recipe, machine, store = files
    given = [part for setting in settings for part in ("--set", setting)]
    given += ["--until", "traces", "--machine", str(machine), "--store", str(store)]
    result = run("plan", recipe, *given, columns=columns)
    assert result.exit_code == 0
    words = line_of(result.stdout, "next: ")
    assert parsed(words) == parsed(["build", str(recipe), *given])
    assert run("plan", *words[1:], columns=columns).stdout == result.stdout


@pytest.mark.parametrize("columns", [20, 80])
def test_a_stopped_build_goes_on_with_every_option(
    files: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "build", stopped)
    recipe, machine, store = files
    given = [part for setting in SETTINGS for part in ("--set", setting)]
    given += ["--machine", str(machine), "--store", str(store), "--plain", "--unsandboxed"]
    for more in ([], ["--until", "traces"]):
        result = run("build", recipe, *given, *more, columns=columns)
        assert result.exit_code == 130
        words = line_of(result.stdout, "go on with: ")
        assert parsed(words) == parsed(["build", str(recipe), *given, *more])
        assert parsed(words)[1]["unsandboxed"] is True
    rehearsed = run("rehearse", recipe, *given[:6], "--store", store, columns=columns)
    words = line_of(rehearsed.stdout, "go on with: ")
    assert parsed(words) == parsed(["rehearse", str(recipe), *given[:6], "--store", str(store)])


@pytest.mark.parametrize(
    ("until", "verb", "name"),
    [
        ("base", "chat", "base"),
        ("sums", "show", "sums"),
        ("traces", "show", "traces"),
        ("student", "chat", "student"),
        ("scored", "show", "scored"),
        (None, "chat", "student"),
    ],
)
def test_what_follows_a_build_is_right_for_what_it_made(
    files: tuple[Path, Path, Path],
    made: dict[str, Artifact],
    until: str | None,
    verb: str,
    name: str,
) -> None:
    recipe, machine, store = files
    given = ["--machine", str(machine), "--store", str(store)]
    result = run(
        "build", recipe, *given, "--set", SETTINGS[0], *(["--until", until] if until else [])
    )
    assert result.exit_code == 0, result.output
    options = given if verb == "chat" else given[2:]
    expected = parsed([verb, made[name].path.name, *options])
    assert parsed(line_of(result.stdout, "next: ")) == expected


def test_a_recipe_without_training_leads_to_its_last_stage(
    files: tuple[Path, Path, Path], made: dict[str, Artifact]
) -> None:
    recipe, _, store = files
    recipe.write_text(RECIPE[: RECIPE.index("  student")], encoding="utf-8")
    result = run("build", recipe, "--store", store)
    words = line_of(result.stdout, "next: ")
    assert parsed(words) == parsed(["show", made["traces"].path.name, "--store", str(store)])


def test_a_name_that_looks_like_an_option_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-recipe.yaml").write_text(RECIPE, encoding="utf-8")
    given = ["--store", "-s", "--", "-recipe.yaml"]
    words = line_of(run("plan", *given).stdout, "next: ")
    assert parsed(words) == parsed(["build", *given])


def test_a_review_names_the_whole_build_that_it_needs(
    files: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, _, store = files
    more = "  reviewed: {kind: review, traces: traces, problems: sums, decisions: d.jsonl}\n"
    recipe.write_text(RECIPE + more, encoding="utf-8")
    given = ["--set", SETTINGS[2], "--store", str(store)]
    result = run("review", recipe, "--reviewer", "ada", *given)
    assert result.exit_code == 2
    words = line_of(result.stderr, "error: traces: not made yet; run ")
    assert parsed(words) == parsed(["build", str(recipe), *given, "--until", "traces"])


def test_what_a_store_shows_is_shown_of_that_store_next(
    files: tuple[Path, Path, Path], made: dict[str, Artifact]
) -> None:
    store = made["base"].path.parent
    shown = line_of(run("show", "student", "--store", store).stdout, "next: ")
    assert parsed(shown) == parsed(["chat", made["student"].path.name, "--store", str(store)])
    listed = line_of(run("ls", "--store", store).stdout, "next: ")
    assert listed[0] == "show" and (store / listed[1]).is_dir()
    assert parsed(listed) == parsed(["show", listed[1], "--store", str(store)])


@pytest.mark.parametrize(
    "word",
    [
        "",
        "a b",
        "$x `y`",
        "it's \\n",
        "a\nb\tc",
        "\x1b[2J\x7f",
        "\u202eé\u2028",
        "-\udcff\\'x7",
        "~",
    ],
)
def test_a_shell_reads_a_quoted_word_as_it_was(word: str) -> None:
    text = quoted(word)
    assert "\n" not in text and "\x1b" not in text and "\u202e" not in text
    command = f"printf '%s' {text}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    assert done.stdout == os.fsencode(word)
