"""The documents: what they name exists, their examples load, and the generated page is current."""

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from typer.testing import CliRunner

from factory.building.plan import make_plan
from factory.building.recipe import Header, load_recipe, recipe_from
from factory.cli import app
from factory.core.errors import RecipeError
from factory.core.machine import Machine
from factory.core.records import Consumes
from factory.core.registry import DOORS
from factory.core.yaml12 import load_mapping
from factory.stages import STAGES
from factory.ui.reference import anchor, nested_records, reference, settings_of

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
    ]
)
REFERENCE = ROOT / "docs" / "reference.md"
PICTURE = ROOT / "docs" / "images" / "report.png"
PROGRAM = typer.main.get_group(app)
RENEW = "docs/reference.md is not what the code says: run factory reference --out docs/reference.md"


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def blocks(path: Path, language: str) -> list[str]:
    """Fenced blocks of a language, also those that stand in a list."""
    pattern = rf"^( *)```{language}\n(.*?)^\1```"
    return [match[2] for match in re.finditer(pattern, text_of(path), re.M | re.S)]


def spans(text: str) -> list[str]:
    """What stands between backticks outside blocks, on one line each."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", without_blocks(text))]


@cache
def headings(path: Path) -> list[str]:
    titles = re.findall(r"^#+ (.+)$", without_blocks(text_of(path)), re.M)
    return [anchor(title.replace("`", "")) for title in titles]


def links(path: Path) -> Iterator[str]:
    """Targets of links and pictures that lie in the repository."""
    for target in re.findall(r"\]\(([^)\s]+)\)", without_blocks(text_of(path))):
        if not re.match(r"[a-z]+:", target):
            yield target


def test_the_readme_is_read_in_a_minute_and_shows_a_report_near_its_top() -> None:
    lines = text_of(ROOT / "README.md").splitlines()
    assert len(lines) <= 150
    assert any("(docs/images/report.png)" in line for line in lines[:15])
    assert PICTURE.stat().st_size <= 300_000
    assert PICTURE.read_bytes().startswith(b"\x89PNG")


def test_the_readme_says_what_never_ran_before_anything_that_needs_a_gpu() -> None:
    before = text_of(ROOT / "README.md").split("\n## Status")[0]
    assert not re.search(r"gpu\.yaml|node8|\[gpu\]|GPUs and clusters|recipes/r1\.yaml", before)


def test_the_recipe_language_is_told_without_tables_of_settings() -> None:
    lines = text_of(ROOT / "docs" / "recipes.md").splitlines()
    assert len(lines) < 250
    assert [line for line in lines if re.match(r"\| *(setting|key|default)\b", line)] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading_of_it(path: Path) -> None:
    for link in links(path):
        file, _, heading = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        if heading:
            assert heading in headings(target), link


def test_a_link_to_a_heading_that_is_not_there_is_noticed() -> None:
    assert "resume" in headings(ROOT / "docs" / "architecture.md")
    assert "resumes" not in headings(ROOT / "docs" / "architecture.md")


# --- The reference ---------------------------------------------------------------------------


def test_the_reference_is_what_the_code_says() -> None:
    assert text_of(REFERENCE) == reference(PROGRAM), RENEW


def test_the_reference_does_not_depend_on_what_was_imported_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = reference(PROGRAM)
    for door in DOORS.values():
        monkeypatch.setattr(door, "table", dict(reversed(door.table.items())))
    monkeypatch.setattr("factory.ui.reference.DOORS", dict(reversed(DOORS.items())))
    assert reference(PROGRAM) == before


def test_the_command_writes_the_same_to_a_file_and_to_the_terminal(tmp_path: Path) -> None:
    runner, out = CliRunner(), tmp_path / "reference.md"
    assert runner.invoke(app, ["reference", "--out", str(out)]).exit_code == 0
    assert text_of(out) == text_of(REFERENCE)
    assert runner.invoke(app, ["reference"]).stdout == text_of(REFERENCE)
    refused = runner.invoke(app, ["reference", "--out", str(tmp_path / "none" / "here.md")])
    assert refused.exit_code == 2
    assert "No such file or directory" in refused.output


def test_no_two_headings_of_the_reference_have_one_name() -> None:
    # GitHub would number the second, and links to it would lead to the first.
    assert len(set(headings(REFERENCE))) == len(headings(REFERENCE)) > 80


def test_the_reference_has_every_kind_every_setting_and_every_command() -> None:
    text = text_of(REFERENCE)
    for kind in STAGES:
        section = text.split(f"\n### {kind}\n")[1].split("\n### ")[0]
        for name in settings_of(STAGES[kind].config):
            assert f"| `{name}` |" in section, f"{kind}.{name}"
    for name in PROGRAM.commands:
        assert f"\n### factory {name}\n" in text


def records() -> set[type[BaseModel]]:
    tops: list[type[BaseModel]] = [Header, Machine, *(STAGES[kind].config for kind in STAGES)]
    return {record for top in tops for record in (top, *nested_records(top))}


def test_every_setting_has_a_docstring() -> None:
    """But references, whose type says all, and `type`, which names the record."""
    silent = [
        f"{record.__name__}.{name}"
        for record in records()
        for name, setting in settings_of(record).items()
        if not setting.description
        and name != "type"
        and not any(isinstance(mark, Consumes) for mark in setting.metadata)
    ]
    assert silent == []


class Inner(BaseModel):
    width: float = 0.5


class Outer(BaseModel):
    inner: Inner = Inner(width=2.0)
    names: tuple[str, ...] = ()
    limit: int | None = 64


def test_a_table_tells_types_bounds_and_defaults() -> None:
    from factory.ui.reference import table

    assert table(Outer, {Inner: "kind.Inner"}).splitlines()[2:] == [
        "| `inner` | [kind.Inner](#kindinner) | `{width: 2}` |  |",
        "| `names` | list of text | none |  |",
        "| `limit` | whole number, or none | `64` |  |",
    ]


# --- Examples --------------------------------------------------------------------------------


def yaml_blocks() -> list[tuple[Path, str]]:
    return [(path, block) for path in DOCUMENTS for block in blocks(path, "yaml")]


@pytest.mark.parametrize(
    ("path", "block"),
    yaml_blocks(),
    ids=[f"{name_of(path)}-{number}" for number, (path, _) in enumerate(yaml_blocks())],
)
def test_every_yaml_block_loads(path: Path, block: str, tmp_path: Path) -> None:
    load_block(block, tmp_path)


def load_block(block: str, folder: Path) -> None:
    """A recipe, which must plan; a machine file; settings of a stage; or stages of a recipe."""
    file = folder / "block.yaml"
    file.write_text(block, encoding="utf-8")
    data = load_mapping(file)
    if "stages" in data:
        if "extends" in data:
            data["extends"] = str(ROOT / "recipes" / str(data["extends"]))
            file.write_text(yaml.safe_dump(data), encoding="utf-8")
        assert make_plan(load_recipe(file))
    elif set(data) <= set(Machine.model_fields):
        Machine.model_validate(data, strict=False)
    elif kinds := [kind for kind in STAGES if set(data) <= set(STAGES[kind].config.model_fields)]:
        fields = STAGES[kinds[0]].config.model_fields
        for name, value in data.items():
            annotation: Any = fields[name].annotation
            TypeAdapter(annotation).validate_python(value, strict=False)
    else:
        assert recipe_from({"name": "block", "stages": data}, str(file)).stages


def test_blocks_are_there_and_one_with_a_setting_that_does_not_exist_is_refused(
    tmp_path: Path,
) -> None:
    with_blocks = {name_of(path) for path, _ in yaml_blocks()}
    assert {"README.md", "docs/recipes.md"} <= with_blocks
    good = blocks(ROOT / "README.md", "yaml")[0]
    load_block(good, tmp_path)
    with pytest.raises(RecipeError, match="max_per_problems"):
        load_block(good.replace("max_per_problem:", "max_per_problems:"), tmp_path)
    with pytest.raises(RecipeError, match="epoch"):
        load_block("s: {kind: sft, model: a, traces: b, epoch: 3}", tmp_path)
    with pytest.raises(ValidationError, match="max_round"):
        load_block("dynamic_sampling: {max_round: 3}", tmp_path)


RECIPE_OF_CONTRIBUTING = """
name: mine
stages:
  base: {kind: model, source: {type: tiny, architecture: llama}}
  sums: {kind: problems, sources: [{type: reasoning_gym, family: chain_sum, train: 20}]}
  traces: {kind: generate, model: base, problems: sums}
  brief: {kind: short, traces: traces, most_tokens: 8}
  zero:
    kind: grpo
    model: base
    problems: sums
    steps: 2
    rewards: [{name: accuracy}, {name: few_words, weight: 0.2, settings: {most: 150}}]
"""


def test_the_diffs_of_contributing_are_the_examples_and_plan(tmp_path: Path) -> None:
    """Each is a file of this repository as it stands, and `git apply` makes it anywhere."""
    diffs = blocks(ROOT / "CONTRIBUTING.md", "diff")
    for diff in diffs:
        subprocess.run(["git", "apply", "-"], input=diff, text=True, cwd=tmp_path, check=True)
    files = sorted((tmp_path / "examples").glob("*.py"))
    assert {"short", "few_words"} <= {file.stem for file in files} and len(files) == len(diffs)
    for file in files:
        assert file.read_bytes() == (ROOT / "examples" / file.name).read_bytes()
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(RECIPE_OF_CONTRIBUTING, encoding="utf-8")
    plugins = [word for file in files for word in ("--plugin", str(file))]
    # In a process of its own: what a plug-in registers stays.
    words = ["plan", str(recipe), "--store", str(tmp_path), *plugins]
    start = [sys.executable, "-c", "from factory.cli import main; main()"]
    done = subprocess.run([*start, *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^4\tbrief\tshort\t", done.stdout, re.M), done.stdout


PROSE = [
    ROOT / "README.md",
    *((ROOT / "docs") / f"{n}.md" for n in ("recipes", "stages", "machines")),
]


@cache
def setting_names() -> frozenset[str]:
    every = {name for record in records() for name in record.model_fields}
    return frozenset(every | {"extends", "stages", "like", "kind"})


def keys_of(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from keys_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from keys_of(item)


def named_settings(text: str) -> Iterator[str]:
    """Keys of what stands in prose as a setting: `length_stops: {retry: N}`."""
    for span in spans(text):
        if re.match(r"[a-z_]+: ", span):
            yield from keys_of(yaml.safe_load("{" + span + "}"))


@pytest.mark.parametrize("path", PROSE, ids=name_of)
def test_every_setting_that_prose_states_exists(path: Path) -> None:
    assert sorted(set(named_settings(text_of(path))) - setting_names()) == []


def test_a_setting_that_prose_invents_is_noticed() -> None:
    names = list(
        named_settings("With `length_stop: {retry: N}` and `source: {type: hub, id: ...}`")
    )
    assert names == ["length_stop", "retry", "source", "type", "id"]
    assert sorted(set(names) - setting_names()) == ["length_stop"]


# --- Commands --------------------------------------------------------------------------------


def command_lines(path: Path) -> Iterator[str]:
    text = text_of(path)
    shell = [line for block in blocks(path, "sh") for line in block.splitlines()]
    for line in [*spans(text), *shell]:
        match = re.search(r"\bfactory ([a-z][a-z-]*\b.*)", line.partition("  #")[0])
        if match and not re.search(r"factory [a-z-]+(?: \|| is\b)", line):
            yield match[1]


def fault(line: str) -> str | None:
    """What of a command line does not exist."""
    verb, *words = line.split()
    command = PROGRAM.commands.get(verb)
    if command is None:
        return f"no command {verb}"
    options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
    given = [re.match(r"\[?(--[a-z][a-z-]*)", word) for word in words]
    missing = [match[1] for match in given if match and match[1] not in options]
    return f"{verb} has no {', '.join(missing)}" if missing else None


@pytest.mark.parametrize(
    "path", [path for path in DOCUMENTS if path.name not in ("log.md", "CHANGELOG.md")], ids=name_of
)
def test_every_command_that_a_document_names_exists(path: Path) -> None:
    faults = [(line, fault(line)) for line in command_lines(path)]
    assert [(line, what) for line, what in faults if what] == []


def test_the_page_of_commands_has_each_of_them() -> None:
    messages = {line.split()[0] for line in command_lines(ROOT / "docs" / "commands.md")}
    assert messages >= set(PROGRAM.commands)


def test_a_command_that_does_not_exist_is_noticed() -> None:
    assert fault("plan RECIPE --cost --machine FILE") is None
    assert fault("plan RECIPE --costs") == "plan has no --costs"
    assert fault("paint RECIPE") == "no command paint"
    assert list(command_lines(ROOT / "docs" / "commands.md")) != []
