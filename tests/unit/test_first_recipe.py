"""The first recipe of a user, and the commits that it leaves open."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
import yaml
from typer.testing import CliRunner

from factory.building.drafting import draft
from factory.building.pinning import OpenRevision, _with_revision, open_revisions, pinned
from factory.building.plan import make_plan
from factory.building.recipe import load_recipe
from factory.building.rehearse import rehearsal
from factory.cli import app
from factory.core.errors import DataError, EngineError, RecipeError
from factory.core.shipped import shipped
from factory.models.tiny import Architecture, save_tiny_model
from factory.models.transformers4 import with_old_keys
from factory.problems.local import LocalSource, supply
from factory.publish.earlier import read_config
from factory.sampling.ends import answer_end
from factory.text.chat import PromptConfig
from factory.text.templates import open_tokenizer
from factory.text.visible import visible

ROWS = [
    {
        "prompt": f"What is {n} + 1?",
        "completion": f"<think>\nOne up.\n</think>\n\n\\boxed{{{n + 1}}}",
        "answer": str(n + 1),
    }
    for n in range(40)
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "traces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def factory(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, result.output


def test_init_writes_a_recipe_that_plans_and_says_what_it_guessed(folder: Path) -> None:
    code, said = factory("init", "mine", "--traces", "traces.jsonl")
    assert code == 0, said
    assert "columns: {question: prompt, completion: completion, reference: answer}" in said
    assert "held: 4 questions of traces.jsonl, never trained on" in said
    assert said.endswith("next: factory build mine.yaml\n")
    plan = make_plan(load_recipe(folder / "mine.yaml"))
    assert [step.name for step in plan] == [
        "base", "held", "traces", "kept", "student", "eval_base", "eval_student",
    ]  # fmt: skip
    text = (folder / "mine.yaml").read_text()
    assert 'prefill: "<think>\\n"' in text and "# Written by: factory init mine" in text
    before = os.stat(folder / "mine.yaml").st_mtime_ns
    code, said = factory("init", "mine", "--traces", "traces.jsonl")
    assert code == 2 and "exists already" in said
    assert os.stat(folder / "mine.yaml").st_mtime_ns == before


def test_a_file_of_questions_measures_and_a_student_without_turns_is_given_some(
    folder: Path,
) -> None:
    (folder / "q.jsonl").write_text('{"problem": "What is 2 + 2?", "answer": 4}\n')
    save_tiny_model(folder / "bare", "llama")
    (folder / "bare" / "chat_template.jinja").unlink()
    written = draft("mine", traces="traces.jsonl", student="bare", questions="q.jsonl")
    (folder / "mine.yaml").write_text(written.text)
    recipe = load_recipe(folder / "mine.yaml")
    held = recipe.stages["held"].model_dump()["sources"][0]
    assert held["held_out"] is None and held["columns"]["reference"] == "answer"
    assert recipe.stages["base"].model_dump()["turns"] == "chatml"


@pytest.mark.parametrize(
    ("name", "traces", "student", "kind", "message"),
    [
        ("Mine!", "traces.jsonl", "embedded", RecipeError, "a name is small letters"),
        ("mine", "none.jsonl", "embedded", DataError, "no such file"),
        ("mine", "traces.jsonl", "nowhere", RecipeError, "no such folder"),
    ],
)
def test_what_cannot_be_begun_says_why(
    folder: Path, name: str, traces: str, student: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        draft(name, traces=traces, student=student)


def test_hub_sources_leave_revisions_open_that_pin_names_and_writes(folder: Path) -> None:
    sources = ("--traces", "hub:open-r1/OpenR1-Math-220k", "--student", "hub:Qwen/Qwen3-0.6B-Base")
    code, said = factory("init", "r1", *sources)
    assert code == 0 and "preset openr1_math" in said
    rehearsed = rehearsal(load_recipe(folder / "r1.yaml")).stages["traces"].model_dump()
    assert rehearsed["source"]["type"] == "local"
    path = folder / "r1.yaml"
    gaps = open_revisions(path)
    assert gaps == [
        OpenRevision("stages.base.source", "Qwen/Qwen3-0.6B-Base", "model", path),
        OpenRevision("stages.traces.source", "open-r1/OpenR1-Math-220k", "dataset", path),
    ]
    code, said = factory("pin", "r1.yaml", "--check")
    assert code == 3 and said.count("open: ") == 2
    text = path.read_text()
    for gap in gaps:
        text = _with_revision(text, gap, "ab" * 20)
    path.write_text(text)
    assert open_revisions(path) == [] and text.count("ab" * 20) == 2
    recipe = load_recipe(path)
    assert recipe.stages["traces"].model_dump()["source"]["revision"] == "ab" * 20
    assert factory("pin", "r1.yaml", "--check")[0] == 0


@pytest.mark.parametrize(
    ("stated", "source"),
    [
        ("HuggingFaceH4/MATH-500", ("problem", "answer", "test")),
        ("math-ai/aime25", ("problem", "answer", "test")),
        ("me/own:task:gold", ("task", "gold", "train")),
        ("me/own:task:gold:dev", ("task", "gold", "dev")),
    ],
)
def test_questions_of_the_hub_are_all_held_out(folder: Path, stated: str, source: tuple) -> None:
    code, said = factory(
        "init", "mine", "--traces", "traces.jsonl", "--questions", f"hub:{stated}"
    )  # fmt: skip
    assert code == 0 and f"held: all of {stated.split(':')[0]}" in said
    held = load_recipe(folder / "mine.yaml").stages["held"].model_dump()["sources"][0]
    assert (held["question"], held["reference"], held["split"]) == source
    assert (held["train"], held["held_out"]) == (0, None)
    assert any("held" in gap.label for gap in open_revisions(folder / "mine.yaml"))


@pytest.mark.parametrize("stated", ["me/own", "me/own:task", "me/own:task:", "me/own:a:b:c:d"])
def test_questions_of_an_unknown_set_need_its_columns(folder: Path, stated: str) -> None:
    code, said = factory("init", "mine", "--traces", "traces.jsonl", "--questions", f"hub:{stated}")
    assert code == 2 and "hub:me/own:QUESTION:REFERENCE[:SPLIT]" in "".join(said.split("\n"))
    assert not (folder / "mine.yaml").exists()


def test_pin_without_a_hub_lists_what_stays_open_and_changes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "name: a\nstages: # kept\n  base:\n    kind: model\n"
    text += "    source:\n      type: hub\n      id: a/b\n"
    (folder / "a.yaml").write_text(text)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, said = factory("pin", "a.yaml")
    assert code == 2 and "stages.base.source: a/b main" in said
    assert (folder / "a.yaml").read_text() == text
    new = _with_revision(text, open_revisions(folder / "a.yaml")[0], "cd" * 20)
    assert f"      id: a/b\n      revision: {'cd' * 20}\n" in new and "# kept" in new


HOSTILE = (
    "a\nseed: 2\n", "a\r\nname: other", "a\u2028stages: {}\u2029", "a\x85seed: 2",
    "\x1b[2J\u202e\U000e0041", "a: b # c", "- a", "&a *b !!binary x", "'\"{}[],`|>%@", "<think>",
    "$(touch x) `touch x`", "~", "null",
)  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_of_a_file_or_a_column_writes_a_line_of_the_recipe(folder: Path, name: str) -> None:
    rows = [{"prompt": row["prompt"], name: row["completion"], "answer": "1"} for row in ROWS]
    path = folder / f"{name}.jsonl"
    for held in (ROWS, rows):
        path.write_text("".join(json.dumps(row) + "\n" for row in held), encoding="utf-8")
        try:
            written = draft(
                "mine", traces=path.name, student="embedded", machine=name, command=f"init {name}"
            )
        except DataError:
            assert held is rows  # no column that can be told
            continue
        recipe = yaml.safe_load(written.text)
        assert list(recipe) == ["name", "seed", "stages"]
        assert (recipe["name"], recipe["seed"], list(recipe["stages"])) == (
            "mine", 1, list(written.stages),
        )  # fmt: skip
        assert recipe["stages"]["traces"]["source"]["path"] == path.name
        assert visible(written.text) == written.text
        assert all(
            line.startswith("#") for line in written.text.partition("\nname:")[0].split("\n")
        )
        assert not any("\n" in line or visible(line) != line for line in written.said)


@pytest.mark.parametrize("commit", ["main", "cd" * 20 + "\nname: other", "CD" * 20, "", None])
def test_what_the_hub_calls_a_commit_must_be_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, commit: str | None
) -> None:
    text = "name: a\nstages:\n  base:\n    kind: model\n    source: {type: hub, id: a/b}\n"
    (folder / "a.yaml").write_text(text)
    answer = SimpleNamespace(sha=commit)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda self, name: answer)
    with pytest.raises(EngineError, match="is no commit"):
        pinned(open_revisions(folder / "a.yaml"))
    assert (folder / "a.yaml").read_text() == text


@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_a_student_of_every_family_is_taught_the_end_of_its_own_turns(
    tmp_path: Path, architecture: Architecture
) -> None:
    folder = save_tiny_model(tmp_path / "student", architecture)
    tokenizer = open_tokenizer(folder)
    ends = {"gemma2": "<end_of_turn>", "phi3": "<|end|>"}
    taught = tokenizer.convert_ids_to_tokens(answer_end(tokenizer, PromptConfig()))
    assert taught == ends.get(architecture, "<|im_end|>")
    trained = (taught == tokenizer.eos_token, architecture in ends)
    assert trained in ((True, False), (False, True))
    fields = with_old_keys(
        json.loads((folder / "config.json").read_text(encoding="utf-8")), read_config(folder)
    )
    assert fields["rope_theta"] == 10000.0 and fields["torch_dtype"] == "float32"
    written = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_pin_writes_what_a_parent_leaves_open_into_the_parent(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "{type: hub, id: %s}"
    parent = "name: p\nstages:\n"
    for name in ("teacher", "base"):
        parent += f"  {name}: {{kind: model, source: {source % f'up/{name}'}}}\n"
    child = f"extends: p.yaml\nname: c\nstages:\n  base: {{source: {source % 'own/base'}}}\n"
    (folder / "p.yaml").write_text(parent)
    (folder / "c.yaml").write_text(child)
    assert factory("plan", "c.yaml")[1].endswith("next: factory pin c.yaml\n")
    answer = SimpleNamespace(sha="ab" * 20)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda self, name: answer)
    code, said = factory("pin", "c.yaml")
    assert code == 0 and said.count("-> " + "ab" * 20) == 2, said
    written = (folder / "p.yaml").read_text()
    assert written == parent.replace("up/teacher", f"up/teacher, revision: {'ab' * 20}"), (
        "the parent's base is not what is built: it stays as it is"
    )
    assert f"own/base, revision: {'ab' * 20}" in (folder / "c.yaml").read_text()
    assert factory("plan", "c.yaml")[1].endswith("next: factory build c.yaml\n")


def test_pin_takes_a_shipped_name_and_a_suite(folder: Path) -> None:
    code, said = factory("pin", "distill/qwen3-0.6b", "--check")
    assert code == 3 and said.count("open: ") == 5
    assert "Qwen2.5-Math-1.5B" not in said, "the recipe takes another student"
    suite = shipped("evals/suites") / "r1.yaml"
    code, said = factory("pin", str(suite), "--check")
    assert code == 3 and said.count("open: problems.") == 3


def test_a_worked_solution_beside_its_answer_is_read_as_thoughts(folder: Path) -> None:
    rows = [{"problem": f"{n} + 1?", "solution": "One up.", "answer": str(n + 1)} for n in range(9)]
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, said = factory("init", "worked", "--traces", "t.jsonl")
    assert code == 0 and "columns: {question: problem, reasoning: solution, answer: answer}" in said
    assert "usable 100.0 %" in said


def test_init_refuses_a_machine_file_that_is_not_there(folder: Path) -> None:
    code, said = factory("init", "mine", "--traces", "traces.jsonl", "--machine", "1x81")
    assert code == 2 and "1x81: no such file" in said and not (folder / "mine.yaml").exists()


def test_questions_of_traces_in_messages_measure_by_the_answers_that_they_state(
    folder: Path,
) -> None:
    def turns(row: dict[str, str]) -> dict[str, object]:
        said = {"user": row["prompt"], "assistant": row["completion"]}
        return {"messages": [{"role": role, "content": text} for role, text in said.items()]}

    rows = [turns(row) for row in ROWS]
    rows[3]["messages"][1]["content"] = "<think>\nOne up.\n</think>\n\nI cannot say."  # type: ignore
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, said = factory("init", "mine", "--traces", "m.jsonl")
    assert code == 0 and "held: 4 questions of m.jsonl by their own answers" in said
    recipe = load_recipe(folder / "mine.yaml")
    assert [*recipe.stages][-2:] == ["eval_base", "eval_student"]
    (source,) = recipe.stages["held"].model_dump()["sources"]
    problems = list(supply(LocalSource.model_validate(source), 1).problems)
    assert len(problems) == 39, "the row without an answer is left out"
    assert {(p.prompt, p.reference) for p in problems} == {
        (f"What is {n} + 1?", str(n + 1)) for n in range(40) if n != 3
    }
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:10]))
    assert "too few to hold some out" in factory("init", "few", "--traces", "m.jsonl")[1]
