"""The end of a turn that training teaches: from the plan over sft and grpo to the gate."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_grpo_stage import PROBLEMS, artifact, run_stage
from test_grpo_stage import config as grpo_config
from transformers import AutoTokenizer
from typer.testing import CliRunner

from factory.building.plan import check_prompts, make_plan
from factory.building.recipe import load_recipe
from factory.cli import app
from factory.core.artifacts import Inputs, open_artifact
from factory.core.context import Context
from factory.core.errors import RecipeError
from factory.core.jsonl import write_records
from factory.core.machine import Machine
from factory.models.tiny import CHAT_TEMPLATE, byte_tokenizer, save_tiny_model
from factory.publish.folder import Target, publish, refused
from factory.publish.gate import Subject, examine_settings
from factory.publish.licences import Terms
from factory.sampling.ends import end_ids
from factory.sampling.sampler import Completion
from factory.sampling.transformers import TransformersSampler
from factory.stages.grpo import train as grpo_run
from factory.stages.grpo.trainer import FactoryGrpoTrainer
from factory.text.chat import PromptConfig
from factory.trainers.rows import tokenise
from tests import published
from tests.fine_tuning import ROWS, config, sealed, stage, trace

TEXT, TURN = 0, 2
"""<|endoftext|> and <|im_end|>."""


def set_ends(folder: Path, *, eos: str, config: Any, generation: Any = None) -> Path:
    """Give a model folder another end of text, and these ends in its two configs."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = eos
    tokenizer.save_pretrained(folder)
    for name, value in (("config.json", config), ("generation_config.json", generation)):
        path = folder / name
        if value is None:
            path.unlink(missing_ok=True)
            continue
        fields = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        path.write_text(json.dumps({**fields, "eos_token_id": value}), encoding="utf-8")
    return folder


def named(folder: Path) -> tuple[Any, Any]:
    """`eos_token_id` in config.json and in generation_config.json."""
    config, generation = (
        json.loads((folder / name).read_text(encoding="utf-8"))["eos_token_id"]
        for name in ("config.json", "generation_config.json")
    )
    return config, generation


@pytest.mark.parametrize(
    ("eos", "config_ends", "generation_ends", "ends"),
    [
        # As Qwen2.5's bases: the end of text is not the end of a turn, and nothing names both.
        ("<|endoftext|>", TEXT, TEXT, ([TEXT, TURN],) * 2),
        # As Llama 3's: a list, and the tokenizer's in the middle of it.
        ("<|im_end|>", [TEXT, TURN, 1], [TEXT, TURN, 1], ([TURN, TEXT, 1],) * 2),
        ("<|im_end|>", TURN, [TURN, TEXT, TURN], ([TURN, TEXT],) * 2),
        # Nothing changes: as trainers of before wrote it.
        ("<|im_end|>", TURN, TURN, (TURN, [TURN])),
    ],
)
def test_a_student_names_every_end_once_and_stops_at_the_one_it_was_taught(
    tmp_path: Path, eos: str, config_ends: Any, generation_ends: Any, ends: Any
) -> None:
    model = save_tiny_model(tmp_path / "model", "llama", hidden=32, layers=1)
    set_ends(model, eos=eos, config=config_ends, generation=generation_ends)
    (tmp_path / "traces").mkdir()
    traces = [trace(number) for number in range(ROWS)]
    write_records(tmp_path / "traces" / "traces.jsonl", traces)
    inputs = Inputs(model=sealed(model, "model"), traces=sealed(tmp_path / "traces", "traces"))
    stage(tmp_path, config(epochs=1), inputs)
    student, tokenizer = tmp_path / "out", AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.eos_token == eos
    rows = tokenise(traces, PromptConfig(), tokenizer)
    assert {row.completion_ids[-1] for row in rows} == {TURN}
    assert named(student) == ends
    assert sorted(end_ids(student, tokenizer)) == sorted({*ends[1]})


def test_rollouts_end_at_the_end_of_a_turn_that_a_base_does_not_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainers, samples = [], []
    make_trainer, sample = grpo_run.make_trainer, TransformersSampler.sample

    def made(*args: Any, **parts: Any) -> FactoryGrpoTrainer:
        trainers.append(make_trainer(*args, **parts))
        return trainers[-1]

    def sampled(self: TransformersSampler, *args: Any) -> list[Completion]:
        samples.extend(completions := sample(self, *args))
        return completions

    monkeypatch.setattr(grpo_run, "make_trainer", made)
    monkeypatch.setattr(TransformersSampler, "sample", sampled)

    def base(path: Path) -> None:
        save_tiny_model(path, "llama", hidden=32)
        set_ends(path, eos="<|endoftext|>", config=TEXT)

    def problems(path: Path) -> None:
        write_records(path / "train.jsonl", PROBLEMS)
        write_records(path / "held_out.jsonl", [])

    artifact(tmp_path, "base", "model", base)
    artifact(tmp_path, "sums", "problems", problems)
    inputs = Inputs(
        {"model": open_artifact(tmp_path / "base"), "problems": open_artifact(tmp_path / "sums")}
    )
    settings = grpo_config(steps=2, max_new_tokens=64, prompts=4, group=8)
    out, _, _ = run_stage(settings, inputs, tmp_path / "run")
    assert trainers[0].eos_token_ids == [TEXT, TURN]
    assert named(out) == ([TEXT, TURN], [TEXT, TURN])
    for completion in samples:
        *before, last = completion.token_ids
        assert not {TEXT, TURN} & set(before)
        assert (completion.finish_reason == "stop") == (last in (TEXT, TURN))
        assert len(completion.logprobs) == len(completion.token_ids)
    assert {item.token_ids[-1] for item in samples if item.finish_reason == "stop"} == {TEXT, TURN}


WORDS = "{% for m in messages %}### {{ m['role'] }}\n{{ m['content'] }} ### End\n{% endfor %}"


def local_recipe(folder: Path, template: str, **student: Any) -> Path:
    source = save_tiny_model(folder / "source", "llama", hidden=32, layers=1)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(source)
    local = {"kind": "model", "source": {"type": "local", "path": str(source)}}
    stages = {
        **published.RECIPE["stages"],
        "base": local,
        "student": {**published.RECIPE["stages"]["student"], **student},
    }
    path = folder / "recipe.json"
    path.write_text(json.dumps({**published.RECIPE, "stages": stages}), encoding="utf-8")
    return path


def test_the_plan_refuses_to_train_a_local_model_whose_turns_have_no_end(tmp_path: Path) -> None:
    plan = make_plan(load_recipe(local_recipe(tmp_path / "words", WORDS)))
    with pytest.raises(RecipeError, match=r"^stages.student.model: .*' ### End\\n'.*turns: chatml"):
        check_prompts(plan, plan)
    done = CliRunner().invoke(app, ["plan", str(tmp_path / "words" / "recipe.json")])
    assert done.exit_code == 2 and "### End" in done.output
    # What is made already is not made again, and plain text needs no turns.
    check_prompts(plan, [step for step in plan if step.name != "student"])
    zero = make_plan(load_recipe(local_recipe(tmp_path / "zero", WORDS, prompt={"style": "zero"})))
    check_prompts(zero, zero)
    right = make_plan(load_recipe(local_recipe(tmp_path / "chat", CHAT_TEMPLATE)))
    check_prompts(right, right)


def test_the_model_stage_says_that_turns_have_no_end(tmp_path: Path) -> None:
    from factory.stages.model import STAGE, ModelConfig

    local_recipe(tmp_path, WORDS)
    events = io.StringIO()
    for name, turns in (("bare", None), ("turned", "chatml")):
        (tmp_path / name).mkdir()
        settings = ModelConfig.model_validate(
            {
                "kind": "model", "turns": turns,
                "source": {"type": "local", "path": str(tmp_path / "source")},
            }
        )  # fmt: skip
        STAGE.run(settings, Inputs(), tmp_path / name, Context(1, Machine(), tmp_path, events))
    rows = map(json.loads, events.getvalue().splitlines())
    (note,) = [row["text"] for row in rows if row["event"] == "note"]
    assert "cannot be trained in a chat style" in note and "turns: chatml" in note


@pytest.fixture(scope="module")
def base_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student that ends its answers with <|im_end|>, and texts with <|endoftext|>."""
    folder = published.trained_student(tmp_path_factory.mktemp("students") / "student")
    return set_ends(folder, eos="<|endoftext|>", config=[TEXT, TURN], generation=[TEXT, TURN])


@pytest.mark.parametrize(
    ("generation", "reason"),
    [
        ([TEXT, TURN], ""),
        # Trained before the end of a turn was taught: nothing names it.
        (TEXT, "training taught the model to end with 2 (<|im_end|>): it would never stop"),
    ],
)
def test_the_gate_asks_for_the_token_that_was_taught(
    tmp_path: Path, base_like: Path, generation: Any, reason: str
) -> None:
    student = set_ends(
        shutil.copytree(base_like, tmp_path / "student"), eos="<|endoftext|>",
        config=generation, generation=generation,
    )  # fmt: skip
    _, artifacts = published.make_store(tmp_path, student)
    machine = Machine(device="cpu", engine="transformers")
    target = Target(tmp_path / "public")
    outcome = publish(artifacts["student"], target, machine, licences={}, is_trial=False)
    messages = {item.name: item.reason for item in refused(outcome.checks)}
    if reason:
        assert reason in messages["stop token"]
    else:
        assert messages == {}
        stored = json.loads((target.folder / "generation_config.json").read_text(encoding="utf-8"))
        assert stored["eos_token_id"] == [TEXT, TURN]


def test_the_gate_names_an_end_that_the_published_folder_has_lost(
    tmp_path: Path, base_like: Path
) -> None:
    student = set_ends(
        shutil.copytree(base_like, tmp_path / "student"), eos="<|im_end|>",
        config=[TURN, TEXT], generation=[TURN, TEXT],
    )  # fmt: skip
    _, artifacts = published.make_store(tmp_path, student)
    folder = shutil.copytree(student, tmp_path / "public")
    fields = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    fields["eos_token_id"] = TURN
    (folder / "generation_config.json").write_text(json.dumps(fields), encoding="utf-8")
    scores = [artifacts["eval_student"]]
    subject = Subject(
        folder, artifacts["student"], PromptConfig(), scores, Terms("mit", (), ()), (tmp_path,)
    )
    (result,) = [check for check in examine_settings(subject) if check.name == "stop token"]
    assert (
        result.status == "refused"
        and "the checkpoint also ends its answers with [0]" in result.reason
    )
