"""The distill stage on tiny models: what it leaves, that it learns, resume, what it refuses."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from test_grpo_stage import PROBLEMS, artifact, digests
from test_sft_stage import trace
from transformers import AutoModelForCausalLM

from factory.core.artifacts import Inputs
from factory.core.context import Context
from factory.core.errors import EngineError, RecipeError
from factory.core.jsonl import write_records
from factory.core.machine import Machine
from factory.models.tiny import byte_tokenizer, save_tiny_model, tiny_model
from factory.sampling.transformers import TransformersSampler
from factory.stages.distill import STAGE, trainer
from factory.stages.distill.config import DistillConfig
from factory.stages.distill.texts import plan_texts
from factory.stages.distill.trainer import load_teacher

MACHINE = Machine(device="cpu", engine="transformers", threads=1, checkpoint_steps=2, micro_batch=2)
STEPS, PROMPTS, OWN, LIMIT = 5, 4, 3, 64


def config(**settings: Any) -> DistillConfig:
    fields = {
        "kind": "distill", "model": "student", "teacher": "teacher", "problems": "sums",
        "traces": "texts", "on_policy_share": OWN / PROMPTS, "steps": STEPS, "prompts": PROMPTS,
        "max_new_tokens": LIMIT, "learning_rate": 1e-2, **settings,
    }  # fmt: skip
    return DistillConfig.model_validate(fields, strict=False)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("artifacts")

    def model(path: Path, seed: int) -> None:
        save_tiny_model(path, "llama", hidden=32, layers=1, seed=seed)

    def problems(path: Path) -> None:
        write_records(path / "train.jsonl", PROBLEMS)
        write_records(path / "held_out.jsonl", [])

    texts = [trace(number, reasoning="x" * 40 if number == 2 else "so") for number in range(3)]
    return Inputs(
        model=artifact(folder, "student", "model", lambda path: model(path, 0)),
        teacher=artifact(folder, "teacher", "model", lambda path: model(path, 1)),
        problems=artifact(folder, "sums", "problems", problems),
        traces=artifact(
            folder, "texts", "traces", lambda path: write_records(path / "traces.jsonl", texts)
        ),
    )


class Stopped(Exception):
    pass


class Events(io.StringIO):
    """The stream beside an artifact; may end the run after a step, as a kill would."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.stop_at = stop_at

    def write(self, text: str) -> int:
        row = json.loads(text)
        if row["event"] == "progress" and row["done"] == self.stop_at:
            raise Stopped
        return super().write(text)

    def rows(self, event: str) -> list[dict[str, Any]]:
        rows = map(json.loads, self.getvalue().splitlines())
        return [row for row in rows if row["event"] == event]


def stage(
    root: Path, settings: DistillConfig, inputs: Inputs, *, stop_at: int | None = None
) -> tuple[Path, dict[str, float], Events]:
    for name in ("out", "scratch"):
        (root / name).mkdir(parents=True, exist_ok=True)
    events = Events(stop_at)
    context = Context(7, MACHINE, root / "scratch", events)
    return root / "out", STAGE.run(settings, inputs, root / "out", context), events


@pytest.fixture(scope="module")
def made(inputs: Inputs, tmp_path_factory) -> tuple[Path, dict[str, float], Events]:
    torch.set_num_threads(1)
    return stage(tmp_path_factory.mktemp("made"), config(), inputs)


def test_the_student_comes_nearer_to_its_teacher(made: Any, inputs: Inputs) -> None:
    out, metrics, events = made
    rows = [json.loads(line) for line in (out / "telemetry.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert all(0 < row["completion_length"] <= LIMIT for row in rows)
    assert (metrics["steps"], metrics["completions"]) == (STEPS, STEPS * OWN)
    assert metrics["completion_tokens"] == sum(row["completion_length"] for row in rows) * OWN
    timings = [row["values"] for row in events.rows("metrics")]
    assert {"seconds/generate", "seconds/train", "parity/max"} <= timings[0].keys()
    assert "seconds/sync" in timings[1]
    assert timings[1]["parity/max"] < 1e-4
    # Forty letters and the tags around them; the others are short enough.
    assert [row["text"] for row in events.rows("note")] == [
        "distill: 1 of 3 traces are longer than 64 tokens: they are left out"
    ]
    before, after = (
        AutoModelForCausalLM.from_pretrained(folder) for folder in (inputs["model"].path, out)
    )
    assert not torch.equal(before.lm_head.weight, after.lm_head.weight)


def test_a_stopped_run_goes_on_to_the_same_bytes(made: Any, inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        stage(tmp_path, config(), inputs, stop_at=3)
    checkpoints = tmp_path / "scratch" / "trainer"
    assert [path.name for path in checkpoints.glob("checkpoint-*")] == ["checkpoint-2"]
    out, _, events = stage(tmp_path, config(), inputs)
    assert digests(out) == digests(made[0])
    assert [row["step"] for row in events.rows("metrics")] == [3, 4, 5]


def test_an_update_holds_questions_and_traces_in_whole_passes(inputs: Inputs) -> None:
    settings = config(prompts=2, on_policy_share=0.5, steps=20)
    context = Context(7, MACHINE, Path())
    texts = plan_texts(
        settings, PROBLEMS, inputs["traces"].traces(), tokenizer=byte_tokenizer(), context=context
    )
    questions, traces = texts[::2], texts[1::2]
    assert not any(text.completion_ids for text in questions)
    assert all(text.completion_ids[-1] == byte_tokenizer().eos_token_id for text in traces)
    assert len(set(questions[:5])) == len(set(questions[5:10])) == len(PROBLEMS)
    assert len(set(traces[:2])) == len(set(traces[2:4])) == 2


def test_adapters_learn_and_an_engine_that_keeps_old_weights_stops_the_run(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = {"traces": None, "on_policy_share": 1.0, "max_new_tokens": 8, "prompts": 2}
    settings = config(**alone, steps=2, lora={"rank": 2}, learning_rate=1e-1)
    out, _, _ = stage(tmp_path / "lora", settings, inputs)
    assert not (out / "adapter_model.safetensors").exists()

    class StaleSampler(TransformersSampler):
        def load_weights(self, weights: Any) -> None:
            pass

    monkeypatch.setattr(
        trainer,
        "open_sampler",
        lambda model, machine, max_length, **_: StaleSampler(model, machine, max_length=max_length),
    )
    with pytest.raises(EngineError, match="step 2: log-probs of transformers and of the trainer"):
        stage(tmp_path / "stale", settings, inputs)


def teacher_with(inputs: Inputs, folder: Path, *, token: str = "", rows: int = 259) -> Inputs:
    """The inputs with a teacher of a longer table, whose tokenizer may know another token."""

    def fill(path: Path) -> None:
        model = tiny_model("llama", hidden=32, layers=1, seed=1)
        model.resize_token_embeddings(rows, mean_resizing=False)
        model.save_pretrained(path)
        tokenizer = byte_tokenizer()
        tokenizer.add_tokens([token] if token else [])
        tokenizer.save_pretrained(path)

    return Inputs({**inputs, "teacher": artifact(folder, "other", "model", fill)})


def test_a_teacher_of_other_tokens_is_refused_and_a_longer_table_is_cut(
    inputs: Inputs, tmp_path: Path
) -> None:
    other = teacher_with(inputs, tmp_path, token="<think>", rows=260)
    with pytest.raises(RecipeError, match=r"id 259 is None here and '<think>' there.*with sft"):
        stage(tmp_path / "refused", config(), other)
    longer = teacher_with(inputs, tmp_path / "longer", rows=270)["teacher"].path
    student, tokenizer = tiny_model("llama", hidden=32, layers=1), byte_tokenizer()
    cut = load_teacher(longer, student, tokenizer, "float32")
    full = AutoModelForCausalLM.from_pretrained(longer)
    assert (cut.config.vocab_size, full.config.vocab_size) == (259, 270)
    torch.testing.assert_close(cut.lm_head.weight, full.lm_head.weight[:259], atol=0, rtol=0)
    with pytest.raises(RecipeError, match="has rows for 259 tokens, the student for 270"):
        load_teacher(inputs["teacher"].path, full, tokenizer, "float32")


def test_a_completion_limit_beyond_the_models_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"max_new_tokens: 2000 .* the student's 1024"):
        stage(tmp_path, config(max_new_tokens=2000), inputs)


def test_traces_are_named_exactly_where_an_update_has_room_for_them() -> None:
    with pytest.raises(ValidationError, match=r"0\.75 leaves 1 texts of an update to traces"):
        config(traces=None)
    with pytest.raises(ValidationError, match="leaves no text of an update"):
        config(on_policy_share=1.0)
    assert config(on_policy_share=0.01).own == 1
