"""Plans: order, references and fingerprints."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel

from factory.building.plan import Step, _fingerprint, checked_plan, make_plan, outlooks
from factory.building.recipe import Recipe, load_recipe
from factory.core.errors import ArtifactError, RecipeError
from factory.core.records import AddedLater, Record
from factory.problems.source import SOURCES
from factory.rewards import REWARDS
from factory.stages import STAGES, StageConfig
from factory.stages.stage import light_stage

ROOT = Path(__file__).resolve().parents[2]
R1_SMALL = ROOT / "recipes" / "r1-small.yaml"


def prints(recipe: Recipe) -> dict[str, str]:
    return {step.name: step.fingerprint for step in make_plan(recipe)}


def from_data(folder: Path, data: dict[str, Any]) -> Recipe:
    path = folder / "recipe.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return load_recipe(path)


def resolved() -> dict[str, Any]:
    return json.loads(json.dumps(load_recipe(R1_SMALL).resolved))


def descendants(plan: tuple[Step, ...], name: str) -> set[str]:
    results = {name}
    for step in plan:
        if results & set(step.inputs.values()):
            results.add(step.name)
    return results


def test_every_input_comes_before_what_needs_it() -> None:
    plan = make_plan(load_recipe(R1_SMALL))
    seen: set[str] = set()
    for step in plan:
        assert set(step.inputs.values()) <= seen
        seen.add(step.name)


def test_until_keeps_a_stage_and_what_it_needs() -> None:
    plan = make_plan(load_recipe(R1_SMALL), until="zero_kept")
    assert [step.name for step in plan] == ["base", "sums", "zero", "zero_traces", "zero_kept"]


def test_an_unknown_until_is_named() -> None:
    with pytest.raises(RecipeError, match="--until nowhere: no such stage; there are base"):
        make_plan(load_recipe(R1_SMALL), until="nowhere")


def test_the_resolved_recipe_gives_the_same_fingerprints(tmp_path: Path) -> None:
    assert prints(from_data(tmp_path, resolved())) == prints(load_recipe(R1_SMALL))


def test_key_order_does_not_change_a_fingerprint(tmp_path: Path) -> None:
    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(value[key]) for key in reversed(value)}
        return [turned(item) for item in value] if isinstance(value, list) else value

    assert prints(from_data(tmp_path, turned(resolved()))) == prints(load_recipe(R1_SMALL))


def test_stage_names_do_not_change_a_fingerprint(tmp_path: Path) -> None:
    text = json.dumps(resolved())
    for name in ("base", "cold", "few_shot_kept"):
        text = text.replace(f'"{name}"', f'"{name}-renamed"')
    before = set(prints(load_recipe(R1_SMALL)).values())
    assert set(prints(from_data(tmp_path, json.loads(text))).values()) == before


def test_the_recipes_name_does_not_change_a_fingerprint_and_its_seed_changes_all() -> None:
    plain = prints(load_recipe(R1_SMALL))
    assert prints(load_recipe(R1_SMALL, ["name=other", "description=x"])) == plain
    seeded = prints(load_recipe(R1_SMALL, ["seed=8"]))
    assert all(seeded[name] != plain[name] for name in plain)


@pytest.mark.parametrize("stage", ["zero", "cold", "reasoning", "student"])
def test_a_learning_rate_changes_its_stage_and_its_descendants_only(stage: str) -> None:
    # `student` is like `teacher`: a change of the student's own rate must leave the teacher alone.
    recipe = load_recipe(R1_SMALL)
    before = prints(recipe)
    after = prints(load_recipe(R1_SMALL, [f"stages.{stage}.learning_rate=3.3e-6"]))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == descendants(make_plan(recipe), stage)
    assert changed != set(before)


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path, value


def changed_config(config: BaseModel, path: tuple[str | int, ...], value: Any) -> BaseModel:
    """The config with one leaf replaced, without validation: what it says, not whether it may."""
    key, *rest = path
    if isinstance(config, BaseModel):
        inner = getattr(config, str(key))
        new = changed_config(inner, tuple(rest), value) if rest else value
        return config.model_copy(update={str(key): new})
    if isinstance(config, tuple):
        new = changed_config(config[key], tuple(rest), value) if rest else value
        return (*config[:key], new, *config[key + 1 :])  # type: ignore[return-value]
    new = changed_config(config[key], tuple(rest), value) if rest else value
    return {**config, key: new}  # type: ignore[return-value]


def another(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            # A reward's name must be one, and so must a source's.
            if value in SOURCES:
                return "code_templates"
            return "overlong" if value in REWARDS else value + "x"
        case _:
            return "something"


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_every_field_of_every_config_is_noticed() -> None:
    noticed = 0
    for step in make_plan(load_recipe(R1_SMALL)):
        inputs = {path: "0" * 64 for path in step.inputs}
        before = _fingerprint(step.config, step.stage, step.seed, inputs)
        for path, value in leaves(step.config.model_dump(mode="json")):
            # A stage's own seed counts as the step's seed, a file by its content.
            told_otherwise = path[-1] == "path" or path in (("source",), ("seed",))
            if ".".join(map(str, path)) in step.inputs or told_otherwise:
                continue
            config = changed_config(step.config, path, another(value))
            after = _fingerprint(config, step.stage, step.seed, inputs)  # type: ignore[arg-type]
            assert after != before, (step.name, path)
            noticed += 1
        for path in inputs:
            other = {**inputs, path: "1" * 64}
            assert _fingerprint(step.config, step.stage, step.seed, other) != before
    assert noticed > 300


def test_a_setting_that_came_later_counts_only_where_it_is_used() -> None:
    class Inner(Record):
        old: int = 1
        new: Annotated[int, AddedLater()] = 0

    class Settings(StageConfig):
        kind: Literal["test"] = "test"
        new: Annotated[Inner | None, AddedLater()] = None
        inner: Inner = Inner()
        many: tuple[Inner, ...] = ()

    stage = light_stage(
        Settings, produces="model", version=1, run=lambda *_: {}, estimate=STAGES["mix"].estimate
    )

    def print_of(**settings: Any) -> str:
        return _fingerprint(Settings(**settings), stage, 0, {})

    class Before(StageConfig):
        class Inner(Record):
            old: int = 1

        kind: Literal["test"] = "test"
        inner: Inner = Inner()
        many: tuple[Inner, ...] = ()

    before = Before(many=(Before.Inner(old=3),))
    assert print_of(many=(Inner(old=3),)) == _fingerprint(before, stage, 0, {})
    given = [
        {}, {"new": Inner()}, {"inner": Inner(new=1)}, {"many": (Inner(),)},
        {"many": (Inner(), Inner(new=1))}, {"many": (Inner(new=1), Inner())},
    ]  # fmt: skip
    assert len({print_of(**settings) for settings in given}) == len(given)


def test_a_package_version_and_a_stage_version_are_noticed(monkeypatch) -> None:
    import dataclasses

    import factory.building.plan as module

    before = prints(load_recipe(R1_SMALL))
    monkeypatch.setattr(module, "_installed", lambda package: "99")
    after = prints(load_recipe(R1_SMALL))
    assert before["base"] != after["base"]
    monkeypatch.undo()
    select = dataclasses.replace(module.STAGES["select"], version=99)
    monkeypatch.setitem(
        module.STAGES.table,
        "select",
        dataclasses.replace(module.STAGES.row("select"), value=select),
    )
    raised = prints(load_recipe(R1_SMALL))
    assert before["few_shot_traces"] == raised["few_shot_traces"]
    assert before["few_shot_kept"] != raised["few_shot_kept"]


def local_problems(folder: Path, name: str) -> Recipe:
    source = {"type": "local", "path": str(folder / name), "train": None}
    return from_data(
        folder, {"name": "a", "stages": {"own": {"kind": "problems", "sources": [source]}}}
    )


def test_the_content_of_a_local_file_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text('{"prompt": "1+1", "reference": "2"}\n', encoding="utf-8")
    first = prints(local_problems(tmp_path, "own.jsonl"))
    file.write_text('{"prompt": "1+2", "reference": "3"}\n', encoding="utf-8")
    assert prints(local_problems(tmp_path, "own.jsonl")) != first


def test_a_missing_local_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none\.jsonl: cannot be read: No such file"):
        prints(local_problems(tmp_path, "none.jsonl"))


def test_a_file_sought_from_another_folder_is_told_with_its_stage_and_that_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    with pytest.raises(ArtifactError) as caught:
        prints(local_problems(Path("data"), "own.jsonl"))
    said = "stages.own: data/own.jsonl: cannot be read: No such file or directory "
    assert str(caught.value) == f"{said}beside the recipe and in {tmp_path}"


def test_what_needs_weights_refuses_a_model_on_a_server(tmp_path: Path) -> None:
    requests = {"kind": "generate", "model": "base", "problems": "sums"}
    data = resolved()
    data["stages"]["base"] = {
        "kind": "model",
        "source": {"type": "endpoint", "url": "http://127.0.0.1:8000/v1", "name": "m"},
    }
    with pytest.raises(RecipeError) as caught:
        make_plan(from_data(tmp_path, data))
    refused = {line.split(": ")[1] for line in str(caught.value).splitlines()}
    assert "stages.zero.model" in refused
    assert not any(
        position.startswith(("stages.eval", "stages.zero_traces")) for position in refused
    )
    assert all(
        "is on a server; its weights are needed" in line for line in str(caught.value).splitlines()
    )
    kept = {"base": data["stages"]["base"], "sums": data["stages"]["sums"], "asked": requests}
    assert (
        make_plan(from_data(tmp_path, {**data, "stages": kept, "claims": []}))[-1].name == "asked"
    )


def test_files_that_cannot_be_read_are_named_with_their_stages_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd.jsonl").write_text('{"frage": "x", "loesung": "y"}\n')
    (tmp_path / "named.jsonl").write_text('{"problem": "1 + 1?", "answer": 2}\n')
    models = "".join(
        f"  {n}: {{kind: model, source: {{type: local, path: no_{n}}}}}\n" for n in "ab"
    )
    path = tmp_path / "r.yaml"
    path.write_text(f"name: r\nstages:\n{models}", encoding="utf-8")
    with pytest.raises(ArtifactError) as raised:
        make_plan(load_recipe(path))
    assert [line.partition(":")[0] for line in str(raised.value).splitlines()] == [
        "stages.a", "stages.b",
    ]  # fmt: skip
    local = "{kind: problems, sources: [{type: local, path: %s, held_out: 1, train: 0}]}"
    stages = f"  odd: {local % 'odd.jsonl'}\n  named: {local % 'named.jsonl'}\n"
    stages += "  written: {kind: written, path: odd.jsonl}\n"
    path.write_text(f"name: r\nstages:\n{stages}", encoding="utf-8")
    with pytest.raises(RecipeError) as refused:
        checked_plan(load_recipe(path))
    first, second = str(refused.value).splitlines()
    assert first.startswith("stages.odd: odd.jsonl: no column for question and reference; it has")
    assert second.startswith("stages.written: odd.jsonl: its columns are frage, loesung")
    path.write_text(f"name: r\nstages:\n  named: {local % 'named.jsonl'}\n", encoding="utf-8")
    assert outlooks(checked_plan(load_recipe(path))) == {
        "named": ["named.jsonl: columns: {question: problem, reference: answer}"]
    }
