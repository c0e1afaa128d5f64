"""The sft stage where memory is short: the heaviest batch, smaller passes; and whether it stops."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from doubles import CLOSE
from fine_tuning import MACHINE, ROWS, config, make_inputs, stage, trace

from factory.core.artifacts import Inputs
from factory.core.errors import EngineError, is_out_of_memory
from factory.models.tiny import byte_tokenizer, tiny_model
from factory.stages.sft.stopping import stopped_share
from factory.text.chat import PromptConfig
from factory.trainers.rows import plan_order, tokenise
from factory.trainers.stored_rows import StoredRows


@pytest.mark.parametrize("level", [False, True])
def test_the_batch_that_needs_most_memory_may_come_first_and_no_batch_changes(level: bool):
    lengths = [3 + (7 * row) % 11 for row in range(20)]
    lengths[13] = 40
    plan = {"epochs": 3, "batch": 8, "seed": 5, "micro_batch": 4, "level": level}
    plain = plan_order(lengths, **plan)
    first = plan_order(lengths, longest_first=True, **plan)

    def batches(order: Sequence[int]) -> list[tuple[int, ...]]:
        return [tuple(order[start : start + 8]) for start in range(0, 64, 8)]

    assert sorted(batches(first)) == sorted(batches(plain))
    head, *rest = [[lengths[row] for row in batch] for batch in batches(first)]
    assert all(max(head) >= max(other) for other in rest)
    if level:
        assert all(sum(head) >= sum(other) for other in rest)
    # What was first stands where that batch stood: the others keep their step.
    pairs = zip(batches(plain), batches(first), strict=True)
    moved = [at for at, (a, b) in enumerate(pairs) if a != b]
    assert len(moved) == 2 and moved[0] == 0


def test_half_a_micro_batch_divides_the_batch_as_evenly():
    from factory.stages.sft.trainer import half_micro_batch

    # 24 rows: of 8 the half is 4, of 3 it is 1; 20 rows: of 10 it is 5, of 5 it is 2.
    assert [half_micro_batch(24, 8), half_micro_batch(24, 3)] == [4, 1]
    assert [half_micro_batch(20, 10), half_micro_batch(20, 5)] == [5, 2]


def short_of_memory(monkeypatch: pytest.MonkeyPatch, *, rows: int, step: int) -> None:
    """From this step on, a pass of more than so many rows runs out of memory."""
    import torch

    from factory.stages.sft.trainer import CompletionTrainer

    compute_loss = CompletionTrainer.compute_loss

    def tight(self, model, inputs, *args, **kwargs):
        if len(inputs["input_ids"]) > rows and self.state.global_step >= step:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return compute_loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(CompletionTrainer, "compute_loss", tight)


def test_out_of_memory_halves_the_rows_a_pass_and_the_mathematics_is_the_same(
    float64_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import torch
    from safetensors.torch import load_file

    inputs = make_inputs(tmp_path / "inputs", [trace(number) for number in range(ROWS)])
    stage(tmp_path / "whole", config(), inputs)
    # A checkpoint lies at step 3; the batch of step 5 does not fit, nor do its halves.
    short_of_memory(monkeypatch, rows=1, step=4)
    metrics, events = stage(tmp_path / "short", config(), inputs)
    messages = [event["text"] for event in events if "out of memory" in event.get("text", "")]
    assert "with 4 rows a pass: goes on with 2, 4 passes a step instead of 2" in messages[0]
    assert "with 2 rows a pass: goes on with 1" in messages[1] and len(messages) == 2
    full = tmp_path / "whole" / "out"
    before = load_file(full / "model.safetensors")
    for name, tensor in load_file(tmp_path / "short" / "out" / "model.safetensors").items():
        torch.testing.assert_close(tensor, before[name], atol=CLOSE, rtol=0)
    rows = [json.loads(line) for line in (full / "telemetry.jsonl").read_text().splitlines()]
    again = (tmp_path / "short" / "out" / "telemetry.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in again] == [row["step"] for row in rows]
    assert metrics["loss_last"] == pytest.approx(rows[-1]["loss"], abs=CLOSE)


def test_what_does_not_fit_row_by_row_is_refused_and_other_errors_are_not_tried_again(
    tmp_path: Path, sft_inputs: Inputs, monkeypatch: pytest.MonkeyPatch
):
    from factory.stages.sft.trainer import _fits

    short_of_memory(monkeypatch, rows=0, step=0)
    with pytest.raises(EngineError, match="one row at a time: lower context"):
        stage(tmp_path, config(), sft_inputs)
    ranks = MACHINE.model_copy(update={"processes": 2})
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    for error, machine in (("shapes do not match", MACHINE), ("CUDA out of memory.", ranks)):
        with pytest.raises(RuntimeError, match=error):
            _fits(partial(_fail, error), machine)


def _fail(reason: str) -> None:
    raise RuntimeError(reason)


def test_a_model_that_does_not_stop_is_told_and_one_that_stops_is_not(
    tmp_path: Path, sft_made, sft_inputs: Inputs
):
    import torch

    rows = tokenise(sft_inputs["traces"].traces(), PromptConfig(), byte_tokenizer())
    model = tiny_model("qwen2", hidden=32, layers=1)
    # Constant hidden states: the head alone decides, first for token 0 and then for the end.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.get_input_embeddings().weight.fill_(1.0)
        model.model.norm.weight.fill_(1.0)
    for end, share in ((False, 0.0), (True, 1.0)):
        if end:
            with torch.no_grad():
                model.get_output_embeddings().weight[byte_tokenizer().eos_token_id] = 1.0
        folder = tmp_path / str(end)
        model.save_pretrained(folder)
        byte_tokenizer().save_pretrained(folder)
        assert stopped_share(folder, StoredRows.of(rows), MACHINE) == share
    _, metrics, events = sft_made
    messages = [event["text"] for event in events if "learned to stop" in event.get("text", "")]
    assert bool(messages) == (metrics["stopped_share"] < 0.8)
