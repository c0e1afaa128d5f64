"""Sources of problems, their splits, and that every reference grades as correct."""

import io
import json
import random
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest
from building import MACHINE
from pydantic import TypeAdapter, ValidationError
from typer.testing import CliRunner

from factory.cli import app
from factory.core.artifacts import Inputs
from factory.core.context import Context
from factory.core.errors import DataError, EngineError, RecipeError
from factory.core.jsonl import read_records
from factory.core.machine import Machine
from factory.core.records import Problem
from factory.problems.reasoning_gym import ReasoningGymSource, families, settings_fault
from factory.problems.references import reference_verdict
from factory.problems.source import AnySource
from factory.problems.splits import Supply, problem_id, question_key, split
from factory.stages.problems import STAGE, ProblemsConfig, external_files

CHAIN = {
    "type": "reasoning_gym",
    "family": "chain_sum",
    "settings": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
}


def make(tmp_path: Path, *sources: dict, seed: int = 7) -> tuple[dict, list, list]:
    config = ProblemsConfig.model_validate_json(
        json.dumps({"kind": "problems", "sources": sources})
    )
    tmp_path.mkdir(exist_ok=True)
    context = Context(seed, Machine(), tmp_path)
    metrics = STAGE.run(config, Inputs(), tmp_path, context)
    splits = [list(read_records(tmp_path / f"{s}.jsonl", Problem)) for s in ("train", "held_out")]
    return metrics, *splits


def write_lines(path: Path, *rows: dict | str) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def row(question: str, **fields) -> dict:
    return {"prompt": question, "reference": "7", **fields}


def test_no_question_is_in_both_splits_and_none_occurs_twice(tmp_path):
    metrics, train, held_out = make(tmp_path, {**CHAIN, "train": 60, "held_out": 40})
    keys = [question_key(problem.prompt) for problem in (*train, *held_out)]
    assert (len(train), len(held_out)) == (60, 40)
    assert len(set(keys)) == len({p.id for p in (*train, *held_out)}) == 100
    assert metrics["chain_sum.train"] == 60 and metrics["held_out"] == 40
    assert metrics["duplicates"] == metrics["chain_sum.duplicates"] > 0


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    source = {**CHAIN, "train": 20, "held_out": 10}
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        make(tmp_path / name, source, seed=seed)
    read = [(tmp_path / name / "train.jsonl").read_bytes() for name in "abc"]
    assert read[0] == read[1] != read[2]


def test_a_seed_of_its_own_fixes_a_source_whatever_the_recipes_seed(tmp_path):
    source = {**CHAIN, "held_out": 10, "seed": 5}
    make(tmp_path / "a", source, seed=1)
    make(tmp_path / "b", source, seed=2)
    read = [(tmp_path / name / "held_out.jsonl").read_bytes() for name in "ab"]
    assert read[0] == read[1]


def test_held_out_questions_of_every_source_are_kept_out_of_training(tmp_path):
    _, _, held_out = make(tmp_path / "a", {**CHAIN, "held_out": 30, "seed": 5})
    repeated = [row(f"  {p.prompt.upper()}", reference=p.reference) for p in held_out]
    path = write_lines(tmp_path / "mine.jsonl", *repeated, row("another question"))
    metrics, train, _ = make(
        tmp_path / "b",
        {"type": "local", "path": str(path)},
        {**CHAIN, "held_out": 30, "seed": 5},
    )
    assert [problem.prompt for problem in train] == ["another question"]
    assert metrics["mine.duplicates"] == 30


def test_asking_for_more_questions_than_exist_says_how_many_there_are(tmp_path):
    # Sums and differences of two digits: 2 operators times 10 * 10 questions.
    with pytest.raises(DataError, match="chain_sum: found 200 of 1000 train questions"):
        make(tmp_path, {**CHAIN, "train": 1000})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "chain_sums"}, "'chain_sums': .* allowed: .*chain_sum"),
        ({"family": "composite"}, "no such family"),
        ({"settings": {"min_term": 2}}, "chain_sum: unknown setting 'min_term'; .*min_terms"),
        ({"settings": {"seed": 2}}, "unknown setting 'seed'"),
        ({"settings": {"min_terms": 5, "max_terms": 2}}, "min_terms is 5, above max_terms"),
        ({"settings": {"min_terms": 50}}, "min_terms is 50, above max_terms"),
        ({"settings": {"min_terms": "two"}}, "min_terms is 'two'; it takes one like 2"),
        ({"settings": {"min_terms": True}}, "min_terms is True"),
        ({"settings": {"allow_negation": 1}}, "allow_negation is 1; it takes one like False"),
    ],
)
def test_a_wrong_family_or_setting_is_refused_with_its_recipe(change, message):
    with pytest.raises(ValidationError, match=message):
        ReasoningGymSource.model_validate({**CHAIN, **change, "train": 2})


def test_what_only_the_family_refuses_is_told_before_the_first_stage(tmp_path):
    source = {**CHAIN, "settings": {"min_terms": -3}, "train": 2}
    with pytest.raises(RecipeError, match=r"chain_sum: settings .* refused: min_terms must be"):
        make(tmp_path, source)
    (tmp_path / "machine.yaml").write_text(MACHINE, encoding="utf-8")
    base = {"kind": "model", "source": {"type": "tiny", "architecture": "llama"}}
    stages = {"base": base, "sums": {"kind": "problems", "sources": [source]}}
    stages["traces"] = {"kind": "generate", "model": "base", "problems": "sums", "samples": 1}
    text = json.dumps({"name": "x", "stages": stages})
    (tmp_path / "recipe.json").write_text(text, encoding="utf-8")
    for verb in (["build", "--plain"], ["plan", "--cost"]):
        command = [*verb, str(tmp_path / "recipe.json"), "--store", str(tmp_path / "store")]
        done = CliRunner().invoke(app, [*command, "--machine", str(tmp_path / "machine.yaml")])
        assert done.exit_code == 2, done.output
        assert "stages.sums: family chain_sum" in done.stderr and "started" not in done.output


def test_the_table_of_families_is_that_of_the_installed_library():
    from reasoning_gym.factory import DATASETS

    def default(field):
        value = field.default if field.default is not MISSING else field.default_factory()
        if type(value) is int and field.type is float:
            return float(value)
        value = [] if isinstance(value, list | tuple) else value
        return value if type(value) in (int, float, bool, str, list) else None

    expected = {
        name: {f.name: default(f) for f in fields(config) if f.name not in ("seed", "size")}
        for name, (_, config) in sorted(DATASETS.items())
        if name != "composite"
    }
    assert families() == expected
    # Every family can be made as it comes, so none of its own defaults is refused.
    assert [name for name in expected if settings_fault(name, {})] == []


def test_local_problems_get_ids_kinds_and_splits(tmp_path):
    rows = [row(f"question {i}") for i in range(20)]
    path = write_lines(tmp_path / "mine.jsonl", *rows, row("chosen", id="x", licence="CC0-1.0"))
    source = {"type": "local", "path": str(path), "held_out": 8}
    metrics, train, held_out = make(tmp_path / "out", source)
    assert (len(train), len(held_out)) == (13, 8)
    assert {p.source for p in train} == {"mine.jsonl"} and {p.kind for p in train} == {"math"}
    assert {p.prompt for p in held_out} != {f"question {i}" for i in range(8)}
    chosen = next(p for p in (*train, *held_out) if p.prompt == "chosen")
    assert (chosen.id, chosen.licence) == ("x", "CC0-1.0")
    assert metrics["mine.held_out"] == 8


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", r"mine\.jsonl:2: "),
        ({"prompt": "q"}, r"mine\.jsonl:2: reference: "),
        ({"prompt": "q", "reference": [7]}, r"mine\.jsonl:2: reference: "),
        ({"prompt": "", "reference": "7"}, r"mine\.jsonl:2: prompt: "),
        ({"prompt": "q", "reference": "7", "kind": "maths"}, r"mine\.jsonl:2: kind: "),
        ({"prompt": "q", "reference": ""}, "problem mine-.*does not grade as correct"),
        ({"prompt": "q", "reference": "blue", "kind": "choice"}, "ungradable"),
        ({"prompt": "other", "reference": "7", "id": "one"}, "ids occur twice .* 'one'"),
    ],
)
def test_a_bad_local_row_is_named(tmp_path, bad, message):
    path = write_lines(tmp_path / "mine.jsonl", row("q1", id="one"), bad)
    with pytest.raises(DataError, match=message):
        make(tmp_path / "out", {"type": "local", "path": str(path)})


def test_a_missing_local_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read"):
        make(tmp_path, {"type": "local", "path": str(tmp_path / "none.jsonl")})


def test_gsm8k_is_held_out_and_every_reference_is_right(tmp_path):
    metrics, train, held_out = make(tmp_path, {"type": "bundled", "name": "gsm8k_100"})
    assert (len(train), len(held_out), metrics["gsm8k_100.held_out"]) == (0, 100, 100)
    assert {(p.kind, p.licence) for p in held_out} == {("math", "MIT")}
    assert all(reference_verdict(problem).is_correct for problem in held_out)


def test_external_files_are_those_of_local_sources():
    config = ProblemsConfig.model_validate_json(
        json.dumps(
            {
                "kind": "problems",
                "sources": [{**CHAIN, "train": 1}, {"type": "local", "path": "data/a.jsonl"}],
            }
        )
    )
    assert external_files(config) == (Path("data/a.jsonl"),)


@pytest.mark.parametrize(
    "source",
    [
        {**CHAIN},
        {"type": "local", "path": "x", "train": 0},
        {"type": "local", "path": "x", "held_out": None},
        {"type": "bundled", "name": "gsm8k_100", "train": 5},
        {"type": "hub", "name": "x"},
    ],
)
def test_a_source_that_asks_for_nothing_or_too_much_is_refused(source):
    with pytest.raises(ValidationError):
        ProblemsConfig.model_validate_json(json.dumps({"kind": "problems", "sources": [source]}))


def numbered(label: str, numbers: list[int], **fields) -> Supply:
    problems = (
        Problem(id=f"{label}{n}", prompt=f"q{n}", reference="7", kind="math", source=label)
        for n in numbers
    )
    return Supply(label, problems, **{"held_out": 0, "train": None, **fields})


def test_a_finite_supply_that_is_too_small_says_so():
    with pytest.raises(DataError, match=r"a: found 2 of 3 train questions .*1 repeated"):
        split([numbered("a", [1, 2, 2], train=3)])


def test_an_endless_supply_is_given_up_after_many_repeats():
    draws = iter(random.Random(0).choices(range(5), k=100_000))
    supply = replace(numbered("a", []), is_endless=True, train=6)
    supply.problems = (
        Problem(id=f"{n}", prompt=f"q{n}", reference="7", kind="math", source="a") for n in draws
    )
    with pytest.raises(DataError, match="found 5 of 6"):
        split([supply])
    assert sum(1 for _ in draws) > 90_000


NO_REFERENCE = {"boxnet", "rush_hour"}
"""Families that give no right answer, only a check of one."""


def test_a_family_that_follows_the_hash_seed_needs_a_fixed_one(tmp_path, monkeypatch):
    source = {"type": "reasoning_gym", "family": "ransom_note", "held_out": 2}
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    with pytest.raises(EngineError, match=r"ransom_note .* PYTHONHASHSEED=0"):
        make(tmp_path, source)


def test_every_reasoning_gym_family_makes_problems_whose_reference_is_correct(monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    from reasoning_gym.factory import DATASETS

    from factory.problems.reasoning_gym import supply

    families = sorted(set(DATASETS) - {"composite"})
    assert len(families) == 105
    without = set()
    for family in families:
        source = TypeAdapter(AnySource).validate_python(
            {"type": "reasoning_gym", "family": family, "held_out": 2, "seed": 3}
        )
        made = supply(source, 0).problems
        for _ in range(2):
            problem = Problem.model_validate_json(next(made).model_dump_json())
            if problem.reference:
                assert reference_verdict(problem).is_correct, family
            else:
                without.add(family)
    assert without == NO_REFERENCE


ALIKE = [
    ("What is 2²?", "What is 22?", True),
    ("What is x₁ + 1?", "What is x1 + 1?", True),
    ("How many a are in Aa?", "How many A are in Aa?", True),
    ("Is \u211d countable?", "Is R countable?", True),
    ("Is A before b?", "is a before b?", True),
    ("What is \uff12 + 2?", "what is 2 + 2?", True),
    ("What is 3 + 4?", "What  is\n3 + 4? ", False),
    ("Le caf\u00e9 co\u00fbte 7.", "Le cafe\u0301 cou\u0302te 7.", False),
]
"""(question, one that reads nearly so, whether it is another question)."""


def collected(tmp_path: Path, *sources: dict[str, Any]) -> tuple[dict[str, float], list[str]]:
    """Metrics and notes of a stage over these sources."""
    config = ProblemsConfig.model_validate_json(
        json.dumps({"kind": "problems", "sources": list(sources)})
    )
    stream = io.StringIO()
    metrics = STAGE.run(config, Inputs(), tmp_path, Context(7, Machine(), tmp_path, stream))
    events = map(json.loads, stream.getvalue().splitlines())
    return metrics, [event["text"] for event in events if event["event"] == "note"]


@pytest.mark.parametrize(("first", "second", "is_other"), ALIKE)
def test_different_questions_of_a_file_stay_different(
    tmp_path: Path, first: str, second: str, is_other: bool
) -> None:
    rows = [row(first), row(second), row(first), row(second)]
    path = write_lines(tmp_path / "own.jsonl", *rows)
    metrics, notes = collected(tmp_path, {"type": "local", "path": str(path)})
    assert (metrics["train"], metrics["duplicates"]) == (1 + is_other, 3 - is_other)
    problems = list(read_records(tmp_path / "train.jsonl", Problem))
    assert problems[0].id == problem_id("own", first) and notes == []
    assert len({problem.id for problem in problems}) == len(problems)


@pytest.mark.parametrize(("first", "second", "is_told"), ALIKE)
def test_a_question_like_one_that_is_held_out_is_left_out_and_named(
    tmp_path: Path, first: str, second: str, is_told: bool
) -> None:
    held = write_lines(tmp_path / "held.jsonl", row(first))
    path = write_lines(tmp_path / "own.jsonl", row(second))
    sources = ({"type": "local", "path": str(held), "train": 0, "held_out": None},
               {"type": "local", "path": str(path)})  # fmt: skip
    metrics, notes = collected(tmp_path, *sources)
    assert (metrics["train"], metrics["duplicates"]) == (0, 1)
    note_text = "1 questions are left out as repeated, though"
    assert [note_text in note and f"{second!r} for {first!r}" in note for note in notes] == (
        [True] if is_told else []
    )
