"""The sft stage from sealed artifacts to a model folder: whole, killed and resumed, refused."""

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from doubles import CLOSE, in_float64
from fine_tuning import MACHINE, ROWS, config, make_inputs, sealed, stage, trace
from pydantic import ValidationError
from warm import run_script

from factory.core.artifacts import Inputs
from factory.core.errors import DataError, RecipeError
from factory.models.tiny import byte_tokenizer, save_tiny_model, tiny_model
from factory.stages.sft.run import validate
from factory.text.chat import OutputForm, PromptConfig
from factory.trainers.arguments import micro_batch_rows
from factory.trainers.lora import LoraConfig
from factory.trainers.rows import Row, plan_order, step_count, tokenise
from factory.trainers.stored_rows import StoredRows, length_report


def test_the_stage_writes_a_whole_model_folder_that_learned(sft_made):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out, metrics, _ = sft_made
    model = AutoModelForCausalLM.from_pretrained(out, use_safetensors=True)
    assert model.dtype == torch.float32
    assert model.config.use_cache is True
    assert model.generation_config.eos_token_id in (2, [2])
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template == byte_tokenizer().chat_template
    assert sorted(path.name for path in out.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "lengths.json",
        "model.safetensors",
        "telemetry.jsonl",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    # 20 rows three times in batches of 8: 60 / 8, rounded up.
    assert metrics["steps"] == 8
    assert metrics["rows"] == ROWS
    assert metrics["loss_last"] < 0.8 * metrics["loss_first"]


def test_the_folder_holds_no_path_of_this_machine(sft_made, sft_inputs: Inputs):
    out, _, _ = sft_made
    for path in out.iterdir():
        content = path.read_bytes()
        assert str(out.parent).encode() not in content, path.name
        assert str(sft_inputs["model"].path).encode() not in content, path.name


def test_telemetry_has_a_row_a_step_and_timings_go_to_the_context(sft_made):
    out, metrics, events = sft_made
    rows = [json.loads(line) for line in (out / "telemetry.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 9))
    names = {"step", "loss", "learning_rate", "grad_norm", "token_accuracy"}
    assert all(set(row) == names for row in rows)
    assert rows[-1]["loss"] == metrics["loss_last"]
    assert rows[-1]["learning_rate"] == pytest.approx(1e-3, abs=1e-9)
    timings = [event for event in events if event["event"] == "metrics"]
    assert [event["step"] for event in timings] == list(range(1, 9))
    assert set(timings[0]["values"]) == {"seconds", "tokens_per_second"}
    # Three epochs of 20 rows and four that fill the last batch, within what is rounded.
    values = [event["values"] for event in timings]
    parts = [(value["seconds"], value["tokens_per_second"]) for value in values]
    rounded = 1 + sum(0.05 * seconds + 0.0006 * rate for seconds, rate in parts)
    total = sum(seconds * rate for seconds, rate in parts)
    assert all(rate > 0 for _, rate in parts)
    assert 3 * metrics["tokens"] - rounded < total < 3.3 * metrics["tokens"] + rounded
    last = [event for event in events if event["event"] == "progress"][-1]
    assert (last["done"], last["total"], last["unit"]) == (8, 8, "steps")
    assert last["figures"] == {"loss": metrics["loss_last"]}


def test_weights_go_back_into_the_dtype_they_came_in(tmp_path: Path):
    import torch
    from safetensors.torch import load_file

    inputs = make_inputs(tmp_path / "inputs", [trace(number) for number in range(8)])
    half = tmp_path / "half"
    tiny_model("llama", hidden=32, layers=1).to(torch.bfloat16).save_pretrained(half)
    byte_tokenizer().save_pretrained(half)
    inputs["model"] = sealed(half, "model")
    stage(tmp_path, config(epochs=1), inputs)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_adapters_are_merged_into_the_weights(tmp_path: Path, sft_inputs: Inputs):
    import torch
    from safetensors.torch import load_file

    stage(tmp_path, config(lora=LoraConfig(rank=2)), sft_inputs)
    before = load_file(sft_inputs["model"].path / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert set(after) == set(before)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert len(changed) == 7
    assert all(name.endswith("proj.weight") for name in changed)


def test_long_rows_are_dropped_whole_and_told_before_training(tmp_path: Path):
    traces = [trace(number) for number in range(19)]
    inputs = make_inputs(tmp_path / "inputs", [*traces, trace(19, reasoning="long " * 60)])
    metrics, events = stage(tmp_path, config(context=150, max_dropped_share=0.05), inputs)
    report = json.loads((tmp_path / "out" / "lengths.json").read_text())
    assert (report["rows"], report["dropped_rows"], report["dropped_share"]) == (19, 1, 0.05)
    assert report["dropped_tokens"] == report["quantiles"]["1.0"] > 300
    assert metrics["dropped_rows"] == 1
    kinds = [event["event"] for event in events]
    assert kinds.index("note") < kinds.index("progress")
    assert "1 of 20 rows" in next(event for event in events if event["event"] == "note")["text"]


def test_too_many_long_rows_are_refused_with_the_setting_to_raise(tmp_path: Path):
    inputs = make_inputs(
        tmp_path / "inputs",
        [trace(number, reasoning="long " * (60 if number < 3 else 1)) for number in range(20)],
    )
    with pytest.raises(DataError, match=r"3 of 20 rows .* 0\.150, above .* raise context"):
        stage(tmp_path, config(context=150), inputs)
    assert not (tmp_path / "scratch" / "trainer").exists()


def test_the_limit_of_the_model_counts_where_the_context_is_longer(tmp_path: Path):
    long = [trace(number, reasoning="x" * 1100) for number in range(3)]
    inputs = make_inputs(tmp_path / "inputs", long)
    with pytest.raises(
        DataError,
        match=r"longer than 1024 tokens.*reads no more.*a longer context, e\.g\. context:",
    ):
        stage(tmp_path, config(), inputs)


def test_no_traces_or_traces_without_an_answer_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="traces artifact is empty"):
        stage(tmp_path / "a", config(), make_inputs(tmp_path / "a" / "inputs", []))
    broken = [trace(0), trace(1, answer=None)]
    with pytest.raises(DataError, match=r"trace p1/0 has no reasoning or no answer.*select"):
        stage(tmp_path / "b", config(), make_inputs(tmp_path / "b" / "inputs", broken))


@pytest.mark.parametrize(
    ("batch", "micro_batch", "processes", "near"),
    [(10, 4, 1, "8 or 12"), (8, 4, 3, "6 or 9"), (12, 4, 2, "8 or 16")],
)
def test_a_batch_that_cannot_be_cut_evenly_is_refused(
    tmp_path: Path, sft_inputs: Inputs, batch: int, micro_batch: int, processes: int, near: str
):
    machine = MACHINE.model_copy(update={"micro_batch": micro_batch, "processes": processes})
    with pytest.raises(RecipeError, match=f"make batch {near}"):
        stage(tmp_path, config(batch=batch), sft_inputs, machine=machine)
    assert all(micro_batch_rows(int(rows), machine) for rows in near.split(" or "))


def test_wrong_trl_arguments_are_named_with_what_to_do(tmp_path: Path, sft_inputs: Inputs):
    assert validate(config()) == []
    assert validate(config(trl={"optim": "sgd", "neftune_noise_alpha": 5.0})) == []
    problems = validate(
        config(
            trl={
                "learning_rte": 1.0,
                "learning_rate": 1.0,
                "max_length": 5,
                "trust_remote_code": True,
                "push_to_hub": True,
                "seed": 3,
            }
        )
    )
    assert [problem.split(":")[0] for problem in problems] == [
        "trl.learning_rate",
        "trl.learning_rte",
        "trl.max_length",
        "trl.push_to_hub",
        "trl.seed",
        "trl.trust_remote_code",
    ]
    assert "unknown" in problems[1]
    assert "key context" in problems[2]
    with pytest.raises(RecipeError, match=r"refused by trl\.SFTConfig"):
        stage(tmp_path, config(trl={"optim": "no such optimizer"}), sft_inputs)


def test_an_unknown_or_mistyped_key_of_the_config_is_refused():
    for changes in ({"learning_rat": 1.0}, {"epochs": 2.5}, {"batch": 0}, {"packing": "yes"}):
        with pytest.raises(ValidationError):
            config(**changes)


def test_the_student_reads_the_bare_question_and_writes_the_canonical_text():
    tokenizer = byte_tokenizer()
    (row,) = tokenise([trace(0, reasoning="it is")], PromptConfig(), tokenizer)
    read = "<|im_start|>user\nWhat is 0?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(row.prompt_ids) == read
    written = "<think> it is </think> <answer> 4 </answer><|im_end|>"
    assert tokenizer.decode(row.completion_ids) == written


def test_a_prompt_that_opens_the_thoughts_leaves_the_rest_to_the_student():
    tokenizer = byte_tokenizer()
    prompt = PromptConfig(prefill="<think>\n")
    (row,) = tokenise([trace(0, reasoning="it is")], prompt, tokenizer)
    assert tokenizer.decode(row.prompt_ids).endswith("assistant\n<think>\n")
    written = tokenizer.decode(row.completion_ids)
    assert written == "it is </think> <answer> 4 </answer><|im_end|>"


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_marks_of_an_output_form_become_tokens_that_the_saved_model_has(tmp_path, architecture):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    inputs = make_inputs(tmp_path / "inputs", [trace(n) for n in range(8)])
    model = save_tiny_model(tmp_path / architecture, architecture, hidden=32, layers=1)
    inputs["model"] = sealed(model, "model")
    prompt = PromptConfig(form=OutputForm())
    stage(tmp_path, config(prompt=prompt, add_tokens=True, epochs=1), inputs)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    (mark,) = tokenizer("|special_token|")["input_ids"]
    weights = AutoModelForCausalLM.from_pretrained(tmp_path / "out", use_safetensors=True)
    assert (mark, weights.config.vocab_size) == (259, 260)
    tied = weights.get_input_embeddings().weight is weights.get_output_embeddings().weight
    assert tied == (architecture == "llama")
    (row,) = tokenise([trace(1)], prompt, tokenizer)
    assert row.completion_ids.count(mark) == 2
    # Engines leave special tokens out of their text; this one must stay in it.
    assert tokenizer.decode([mark], skip_special_tokens=True) == "|special_token|"


def test_tokens_need_a_form_and_embeddings_that_are_trained():
    with pytest.raises(ValidationError, match=r"adds the marks of prompt.form, and there is none"):
        config(add_tokens=True)
    with pytest.raises(ValidationError, match="adapters do not train embeddings"):
        config(add_tokens=True, lora=LoraConfig(), prompt=PromptConfig(form=OutputForm()))


def test_quantiles_and_counts_of_lengths_are_those_worked_out_by_hand():
    # Lengths 2..11; half of ten values do not exceed the fifth, nine tenths the ninth.
    rows = [Row((1,) * number, (2,)) for number in range(1, 11)]
    report = length_report(StoredRows.of(rows), 10)
    assert report["quantiles"] == {"0.5": 6, "0.9": 10, "0.99": 11, "1.0": 11}
    # Kept: 2..10, that is 54 tokens of which 9 are completions; dropped: the row of 11.
    assert (report["rows"], report["tokens"], report["completion_tokens"]) == (9, 54, 9)
    assert (report["dropped_rows"], report["dropped_tokens"]) == (1, 11)
    assert report["dropped_share"] == pytest.approx(0.1, abs=1e-12)


def test_every_row_is_seen_once_an_epoch_and_batches_do_not_depend_on_the_machine():
    lengths = [3 + (7 * row) % 11 for row in range(20)]
    plan = {"epochs": 3, "batch": 8, "seed": 5}
    plain = plan_order(lengths, micro_batch=2, level=False, **plan)
    assert len(plain) == 8 * step_count(20, epochs=3, batch=8) == 64
    counts = Counter(plain)
    assert set(counts.values()) <= {3, 4}
    assert sum(counts[row] == 4 for row in range(20)) == 4
    level = plan_order(lengths, micro_batch=4, level=True, **plan)
    assert level != plain
    for start in range(0, 64, 8):
        assert sorted(plain[start : start + 8]) == sorted(level[start : start + 8])
        taken = [lengths[row] for row in plain[start : start + 8]]
        assert taken == sorted(taken, reverse=True)
        halves = [sum(lengths[row] for row in level[s : s + 4]) for s in (start, start + 4)]
        assert abs(halves[0] - halves[1]) <= 4
    assert plan_order(lengths, micro_batch=2, level=False, **{**plan, "seed": 6}) != plain


KILLS = {"full": (2, 7), "lora": (5,)}
"""After how many logged steps each child of a run is killed; checkpoints come every 3 steps."""


@pytest.fixture(scope="module")
def killed_runs(tmp_path_factory) -> Path:
    """Each kind of run undisturbed and killed; trained in forks of a process that itself does not
    touch autograd, which does not survive a fork on machines with a GPU."""
    folder = tmp_path_factory.mktemp("killed")
    done = run_script(Path(__file__), str(folder), settings={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize("name", KILLS)
def test_a_killed_and_resumed_stage_makes_the_same_bytes(killed_runs: Path, name: str):
    full, resumed = killed_runs / name / "whole" / "out", killed_runs / name / "killed" / "out"
    names = sorted(path.name for path in full.iterdir())
    assert len(names) == 8
    assert sorted(path.name for path in resumed.iterdir()) == names
    for file in names:
        assert (full / file).read_bytes() == (resumed / file).read_bytes(), file


def test_a_run_resumed_with_smaller_micro_batches_learns_the_same(killed_runs: Path):
    import torch
    from safetensors.torch import load_file

    outs = [killed_runs / "float64" / run / "out" for run in ("whole", "smaller")]
    full, smaller = (load_file(out / "model.safetensors") for out in outs)
    for name, tensor in full.items():
        torch.testing.assert_close(smaller[name], tensor, atol=CLOSE, rtol=0)


def _in_child(work: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _stage_killed_after(rows: int | None, root: Path, settings, inputs, machine=MACHINE) -> None:
    """Run the stage; with `rows`, die right after that many rows of this process were logged."""
    import torch

    from factory.trainers.telemetry import Telemetry

    torch.set_num_threads(1)
    logged = 0
    on_log = Telemetry.on_log

    def dying(self, *args, **kwargs):
        nonlocal logged
        on_log(self, *args, **kwargs)
        logged += 1
        if logged == rows:
            os.kill(os.getpid(), signal.SIGKILL)

    Telemetry.on_log = dying
    stage(root, settings, inputs, machine=machine)


def _main(root: Path) -> None:
    import factory.stages.sft.trainer  # noqa: F401  loaded once, before the forks

    inputs = make_inputs(root / "inputs", [trace(number) for number in range(ROWS)])
    settings = {"full": config(), "lora": config(lora=LoraConfig(rank=2))}
    for name, kills in KILLS.items():
        full, killed = root / name / "whole", root / name / "killed"
        assert _in_child(lambda: _stage_killed_after(None, full, settings[name], inputs)) == 0  # noqa: B023
        for rows in (*kills, None):
            status = _in_child(lambda: _stage_killed_after(rows, killed, settings[name], inputs))  # noqa: B023
            assert status == (0 if rows is None else -signal.SIGKILL)
    machine = MACHINE.model_copy(update={"micro_batch": 2})
    with in_float64():
        inputs = make_inputs(root / "float64" / "inputs", [trace(number) for number in range(ROWS)])
        full = (root / "float64" / "whole", config(), inputs)
        smaller = (root / "float64" / "smaller", config(), inputs)
        assert _in_child(lambda: _stage_killed_after(None, *full)) == 0
        assert _in_child(lambda: _stage_killed_after(5, *smaller)) == -signal.SIGKILL
        assert _in_child(lambda: _stage_killed_after(None, *smaller, machine)) == 0


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
