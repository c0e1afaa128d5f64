"""Recipes: every mistake is named with its path, several at once, with what was meant."""

from pathlib import Path

import pytest

from factory.building.plan import make_plan
from factory.building.recipe import Recipe, load_machine, load_recipe
from factory.core.errors import RecipeError

GOOD = """
name: small
seed: 3
stages:
  base:
    kind: model
    source: {type: tiny, architecture: llama}
  sums:
    kind: problems
    sources:
      - {type: reasoning_gym, family: chain_sum, train: 4, held_out: 2}
  traces:
    kind: generate
    model: base
    problems: sums
    samples: 2
  student:
    kind: sft
    model: base
    traces: traces
    learning_rate: 1e-4
    epochs: 1
    batch: 2
"""


def load(folder: Path, text: str, *overrides: str) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path, overrides)


def refusal(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        make_plan(load(folder, text, *overrides))
    return str(caught.value)


def test_a_good_recipe_loads(tmp_path: Path) -> None:
    recipe = load(tmp_path, GOOD)
    assert (recipe.name, recipe.header.seed) == ("small", 3)
    assert list(recipe.stages) == ["base", "sums", "traces", "student"]
    assert getattr(recipe.stages["student"], "learning_rate") == 1e-4  # noqa: B009


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("learning_rate", "learning_rat",
         ["stages.student.learning_rat: unknown key (did you mean learning_rate?)"]),
        ("architecture: llama", "architecture: llama, hiden: 64",
         ["stages.base.source.hiden: unknown key (did you mean hidden?)"]),
        ("family", "famly", ["stages.sums.sources.0.famly: unknown key (did you mean family?)"]),
        ("seed: 3", "sed: 3", ["sed: unknown key (did you mean seed?)"]),
        ("samples: 2", "samples: two", ["stages.traces.samples: ", 'found "two"']),
        ("samples: 2", "samples: 0", ["stages.traces.samples: ", "greater than or equal to 1"]),
        ("samples: 2", "samples: 2.5", ["stages.traces.samples: ", "found 2.5"]),
        ("kind: sft", "kind: sftt", ["stages.student.kind: 'sftt' is none of", "mean sft?"]),
        ("    kind: sft\n", "", ["stages.student.kind: None is none of distill, "]),
        ("    problems: sums\n", "", ["stages.traces.problems: is missing"]),
        ("model: base\n    traces", "model: bas\n    traces",
         ["stages.student.model: no stage named 'bas' (did you mean base?)"]),
        ("traces: traces", "traces: sums",
         ["stages.student.traces: 'sums' makes problems, traces is needed"]),
        ("model: base\n    problems", "model: student\n    problems",
         ["stages need each other in a circle: traces -> student -> traces"]),
        ("name: small", "name: a/b", ["name: ", 'found "a/b"']),
        ("seed: 3", "seed: -1", ["seed: ", "greater than or equal to 0"]),
        ("  base:\n", "  ../base:\n", ["stages.../base: a stage name is letters, digits"]),
    ],
)  # fmt: skip
def test_a_mistake_is_named(tmp_path: Path, old: str, new: str, expected: list[str]) -> None:
    assert GOOD.count(old) >= 1
    message = refusal(tmp_path, GOOD.replace(old, new, 1))
    assert all(part in message for part in expected), message
    # A misspelt required key is also a missing one.
    assert len(message.splitlines()) == 1 + message.count("is missing") * (
        " unknown key" in message
    )


def test_several_mistakes_are_listed_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("samples: 2", "samples: no").replace("epochs", "epoch")
    text = text.replace("family", "famly").replace("seed: 3", "seed: x")
    lines = refusal(tmp_path, text).splitlines()
    paths = ("seed", "stages.sums.sources.0", "stages.traces.samples", "stages.student.epoch")
    for path in paths:
        assert any(f"recipe.yaml: {path}" in line for line in lines), (path, lines)


@pytest.mark.parametrize("key", ["cls", "self", "_fields_set", "__class__", "a b", "kind "])
def test_a_key_of_any_name_is_one_mistake_among_others(tmp_path: Path, key: str) -> None:
    text = GOOD.replace("model: base", f'"{key}": 1\n    model: bose')
    message = refusal(tmp_path, text)
    assert f".{key}: unknown key" in message
    assert "no stage named 'bose'" in message


def test_several_bad_references_are_listed_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("model: base", "model: bose").replace("problems: sums", "problems: some")
    assert len(refusal(tmp_path, text).splitlines()) == 3


@pytest.mark.parametrize("stages", ["stages: {}", "stages: [1]", "stages: 3", ""])
def test_a_recipe_needs_stages(tmp_path: Path, stages: str) -> None:
    assert "stages: must be a mapping" in refusal(tmp_path, f"name: a\n{stages}\n")


def test_a_stage_must_be_a_mapping(tmp_path: Path) -> None:
    assert "stages.a: must be a mapping" in refusal(tmp_path, "name: a\nstages: {a: 3}\n")


def test_extends_merges_mappings_and_replaces_lists_and_variants(tmp_path: Path) -> None:
    (tmp_path / "parent.yaml").write_text(GOOD, encoding="utf-8")
    child = """
extends: parent.yaml
name: child
stages:
  base: {source: {type: local, path: somewhere}}
  traces: {samples: 5}
"""
    recipe = load(tmp_path, child)
    stages = recipe.resolved["stages"]
    assert recipe.name == "child" and recipe.header.seed == 3
    assert stages["base"]["source"] == {"type": "local", "path": "somewhere"}
    assert stages["traces"]["samples"] == 5 and stages["traces"]["model"] == "base"


def test_a_circle_of_extends_is_named(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("extends: recipe.yaml\n", encoding="utf-8")
    message = refusal(tmp_path, "extends: other.yaml\nname: a\n")
    assert "extends itself: recipe.yaml -> other.yaml -> recipe.yaml" in message


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("nothing.yaml", "nothing.yaml: cannot be read: No such file"),
        ("[a, b]", "extends: must be"),
    ],
)
def test_a_bad_extends_is_named(tmp_path: Path, value: str, expected: str) -> None:
    assert expected in refusal(tmp_path, f"extends: {value}\n{GOOD}")


def test_like_takes_over_another_stage(tmp_path: Path) -> None:
    more = "  second:\n    like: student\n    epochs: 2\n"
    first, second = (load(tmp_path, GOOD + more).stages[n] for n in ("student", "second"))
    assert second == first.model_copy(update={"epochs": 2})


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ("  a: {like: studnt}\n", "stages.a.like: no stage named 'studnt' (did you mean student?)"),
        ("  a: {like: b}\n  b: {like: a}\n", "stages.b.like: a -> b -> a go in a circle"),
        ("  a: {like: a}\n", "stages.a.like: a -> a go in a circle"),
        ("  a: {like: [student]}\n", "stages.a.like: must be the name of one stage"),
    ],
)
def test_a_bad_like_is_named(tmp_path: Path, stages: str, expected: str) -> None:
    assert expected in refusal(tmp_path, GOOD + stages)


def test_set_changes_numbers_texts_lists_and_defaults(tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        GOOD,
        "seed=9",
        "stages.student.learning_rate=3e-5",
        "stages.sums.sources.0.train=7",
        "stages.traces.sources=[chain_sum]",
        "stages.traces.sampling.temperature=0",
        "stages.base.source={type: tiny, architecture: qwen2}",
    )
    stages = recipe.resolved["stages"]
    assert recipe.header.seed == 9
    assert stages["student"]["learning_rate"] == 3e-5
    assert stages["sums"]["sources"][0]["train"] == 7
    assert getattr(recipe.stages["traces"], "sources") == ("chain_sum",)  # noqa: B009
    assert recipe.stages["traces"].model_dump()["sampling"]["temperature"] == 0
    assert stages["base"]["source"]["architecture"] == "qwen2"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("stages.student", "must look like stages.sft.learning_rate=1e-4"),
        ("=3", "must look like"),
        ("stages.studnt.epochs=2", "stages.studnt: no such key (did you mean student?)"),
        ("stage.student.epochs=2", "stage: no such key (did you mean stages?)"),
        ("stages.student.epoch=2", "stages.student.epoch: unknown key (did you mean epochs?)"),
        ("stages.student.epochs.a=2", "stages.student.epochs is a single value"),
        ("stages.sums.sources.4.train=2", "the list has entries 0 to 0"),
        ("stages.sums.sources.x=2", "the list has entries 0 to 0"),
        ("stages.student.epochs=[1", "--set stages.student.epochs"),
        ("stages.student.learning_rate=fast", 'found "fast"'),
    ],
)
def test_a_bad_set_is_named(tmp_path: Path, override: str, expected: str) -> None:
    assert expected in refusal(tmp_path, GOOD, override)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("treads: 2\n", "treads: unknown key (did you mean threads?)"),
        ("block: many\n", 'found "many"'),
        ("engine: tensorflow\n", "engine: "),
        ("- 1\n", "must be a mapping"),
        ("unsandboxed: true\n", "is no setting of a file; type --unsandboxed"),
    ],
)
def test_a_bad_machine_file_is_named(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "machine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"machine\.yaml") as caught:
        load_machine(path)
    assert expected in str(caught.value)


def test_a_missing_machine_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.yaml: no such file"):
        load_machine(tmp_path / "none.yaml")


CLAIMS = """
  scores:
    kind: evaluate
    model: student
    benchmarks: [{name: sums, problems: sums}]
claims:
  - {text: it learns, of: [SCORES], against: [scores], benchmark: BENCHMARK}
"""


def test_a_claim_names_evaluations_of_this_recipe(tmp_path: Path) -> None:
    text = GOOD + CLAIMS.replace("SCORES", "scores").replace("BENCHMARK", "sums")
    assert load(tmp_path, text).header.claims[0].of == ("scores",)
    message = refusal(tmp_path, text.replace("of: [scores]", "of: [score]"))
    assert "claims.0: 'score' is no evaluate stage of this recipe (did you mean scores?)" in message
    message = refusal(tmp_path, text.replace("benchmark: sums", "benchmark: world"))
    assert "claims.0: 'scores' does not ask 'world'; it asks sums" in message


def test_references_of_a_stage_with_other_mistakes_are_looked_up_too(tmp_path: Path) -> None:
    old, new = "model: base\n    traces: traces", "model: bas\n    traces: nix\n    epoch: 3"
    assert GOOD.count(old) == 1
    lines = refusal(tmp_path, GOOD.replace(old, new)).splitlines()
    assert [line.partition(": stages.student.")[2] for line in lines] == [
        "epoch: unknown key (did you mean epochs?)",
        "model: no stage named 'bas' (did you mean base?)",
        "traces: no stage named 'nix'",
    ]
