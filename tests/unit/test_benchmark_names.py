"""One name a benchmark, licence and data set, wherever data files and documents speak of it."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest

from factory.building import suite
from factory.building.recipe import Recipe, load_recipe
from factory.building.suite import evaluation_recipe, load_protocol, load_suite
from factory.evaluation.published import load_published
from factory.problems.bundled import BundleName
from factory.problems.sizes import HUB_ROWS
from factory.publish import licences
from factory.stages.evaluate import TEMPLATE

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *(p for p in (ROOT / "docs").glob("*.md") if p.stem != "log")]
TASKS = sorted(path for path in (ROOT / "evals").glob("*.yaml") if path.stem != "published")


@cache
def recipes() -> dict[str, Recipe]:
    """All recipes, and each suite as the recipe that `factory eval` makes of it."""
    paths = [p for p in (ROOT / "recipes").rglob("*.yaml") if p.parent.name != "machines"]
    loaded = {str(path.relative_to(ROOT)): load_recipe(path) for path in paths}
    base = {"base": {"kind": "model", "source": {"type": "tiny", "architecture": "llama"}}}
    for path in (suite.EVALS / "suites").glob("*.yaml"):
        requested = load_suite(path.stem)
        protocol = load_protocol(requested.protocol)
        loaded[f"evals/suites/{path.name}"] = evaluation_recipe(
            base, requested, protocol, name="suite"
        )
    return loaded


def benchmarks() -> Iterator[tuple[str, dict[str, Any], Recipe]]:
    for where, recipe in recipes().items():
        for config in recipe.stages.values():
            if config.kind == "evaluate":
                for benchmark in config.model_dump()["benchmarks"]:
                    yield where, benchmark, recipe


def sources(recipe: Recipe, stage: str) -> list[dict[str, Any]]:
    return recipe.stages[stage].model_dump()["sources"]


def names() -> dict[str, set[str]]:
    """Where each name of a benchmark stands."""
    results: dict[str, set[str]] = {}

    def add(where: str, *given: str) -> None:
        for name in given:
            results.setdefault(name, set()).add(where)

    for where, benchmark, _ in benchmarks():
        add(where, benchmark["name"])
    for where, recipe in recipes().items():
        add(where, *(claim.benchmark for claim in recipe.header.claims))
    for path in (suite.EVALS / "suites").glob("*.yaml"):
        add(path.name, *(missing.name for missing in load_suite(path.stem).not_run))
    for path in (suite.EVALS / "protocols").glob("*.yaml"):
        add(path.name, *load_protocol(path.stem).samples_by)
    for path in TASKS:
        add(path.name, *settings(path, "task"))
    add("published.yaml", *load_published().benchmarks)
    add("bundled.py", *get_args(BundleName))
    return results


def settings(path: Path, key: str) -> list[str]:
    """Values of a key of a task file, which has tags of lm-eval's that our reader refuses."""
    return re.findall(rf"^ *{key}: (\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE)


def letters_and_digits(name: str) -> str:
    return re.sub(r"[\W_]", "", name.casefold())


def test_the_names_are_found() -> None:
    result = names()
    assert {"math_500", "aime24", "gsm8k_100", "gpqa_diamond", "humaneval_164"} <= result.keys()
    assert any(where.startswith("recipes/distill/") for where in result["math_500"])
    assert "evals/suites/r1.yaml" in result["math_500"]


def test_no_name_has_two_spellings() -> None:
    spellings: dict[str, set[str]] = {}
    for name in names():
        spellings.setdefault(letters_and_digits(name), set()).add(name)
    assert [group for group in spellings.values() if len(group) > 1] == []


def test_a_name_that_means_a_published_benchmark_is_the_published_name() -> None:
    published = load_published()
    meant = {name: published.benchmark_key(name) for name in names()}
    assert {name: key for name, key in meant.items() if key not in (None, name)} == {}
    folded = [
        {letters_and_digits(key), letters_and_digits(benchmark.title)}
        for key, benchmark in published.benchmarks.items()
    ]
    assert len(set.union(*folded)) == sum(map(len, folded)), "one name means two benchmarks"


def test_problems_of_a_published_benchmark_are_asked_under_its_name() -> None:
    """Data sets carry the benchmark's name in their own (aime_2024, MATH-500)."""
    published = load_published()
    seen = set()
    for where, benchmark, recipe in benchmarks():
        if benchmark["problems"] is None:
            continue
        labels = [
            source["id"].rpartition("/")[2]
            for source in sources(recipe, benchmark["problems"])
            if source["type"] == "hub"
        ]
        if benchmark["source"] is not None:
            labels = [label for label in labels if label == benchmark["source"]]
        for label in labels if len(labels) == 1 else ():
            key = published.benchmark_key(label)
            assert key in (None, benchmark["name"]), where
            seen.add(key)
    assert {"aime24", "math_500"} <= seen


def test_the_source_of_a_benchmark_is_one_of_its_problems() -> None:
    for where, benchmark, recipe in benchmarks():
        if benchmark["source"] is None:
            continue
        labels = set()
        for source in sources(recipe, benchmark["problems"]):
            if source["type"] == "hub":
                labels.add(source["id"].rpartition("/")[2])
            elif "family" in source:
                labels.add(f"{source['type']}/{source['family']}")
            else:
                labels.add(Path(source.get("path") or source["name"]).name)
        assert benchmark["source"] in labels, f"{where}: {benchmark['name']}"


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_a_task_file_is_named_after_its_task_and_bundle(path: Path) -> None:
    assert settings(path, "task") == [path.stem]
    if path.stem != TEMPLATE:
        assert settings(path, "bundle") == [path.stem]
        assert path.stem in get_args(BundleName)


def test_protocols_speak_of_benchmarks_that_there_are() -> None:
    requests = {benchmark["name"] for _, benchmark, _ in benchmarks()}
    expected = requests | load_published().benchmarks.keys() | set(get_args(BundleName))
    for path in (suite.EVALS / "protocols").glob("*.yaml"):
        assert load_protocol(path.stem).samples_by.keys() <= expected, path.name


def test_documents_spell_names_as_the_data_files_do() -> None:
    expected = {letters_and_digits(name): name for name in names()}
    for path in DOCUMENTS:
        for name in re.findall(r"`([\w-]+)`", path.read_text(encoding="utf-8")):
            assert expected.get(letters_and_digits(name), name) == name, path.name


def test_licences_are_spelled_as_the_table_of_licences_does() -> None:
    table = {letters_and_digits(name): name for name in (*licences.FREE, *licences.LLAMA)}
    given = {
        value
        for recipe in recipes().values()
        for config in recipe.stages.values()
        for value in _values(config.model_dump(), "licence")
    }
    assert given > {"mit", "apache-2.0"}
    spelled = {value: licences._tidy(value) for value in given}
    for value, name in spelled.items():
        assert table.get(letters_and_digits(value), name) == name


def test_data_sets_that_are_read_whole_have_their_number_of_rows() -> None:
    wanted = {
        source["id"]
        for recipe in recipes().values()
        for config in recipe.stages.values()
        if config.kind == "problems"
        for source in config.model_dump()["sources"]
        if source["type"] == "hub" and None in (source["train"], source["held_out"])
    }
    assert "HuggingFaceH4/MATH-500" in wanted
    assert wanted <= HUB_ROWS.keys()


def _values(data: Any, key: str) -> Iterator[str]:
    """Every text under this key, however deep."""
    if isinstance(data, dict):
        for name, value in data.items():
            if name == key and isinstance(value, str):
                yield value
            yield from _values(value, key)
    elif isinstance(data, list | tuple):
        for value in data:
            yield from _values(value, key)
