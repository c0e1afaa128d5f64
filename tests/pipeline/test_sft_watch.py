"""Held-out problems measured during fine-tuning, and which weights are given back."""

import json
from pathlib import Path

import pytest
from fine_tuning import ROWS, config, make_inputs, sealed, stage, trace
from pydantic import ValidationError

from factory.core.artifacts import Inputs
from factory.core.jsonl import read_records, write_records
from factory.core.records import Problem
from factory.evaluation.measured import WatchRow
from factory.stages.sft.watch_config import SftWatch
from factory.stages.sft.watching import Chosen, chosen

PROBLEMS = [
    Problem(id=f"q{n}", prompt=f"What is {n}?", reference="4", kind="math", source="sums")
    for n in range(64)
]
WATCH = {"problems": "held", "every": 3, "limit": 4, "max_new_tokens": 24}


def row(step: int, right: int, *, of: int = 64, first: int = 0) -> WatchRow:
    correct = tuple(int(first <= n < first + right) for n in range(of))
    return WatchRow(
        step=step, n=of, samples=1, accuracy=right / of, low=0.0, high=1.0, consensus=right / of,
        completion_length=9.0, format_share=1.0, truncated_share=0.0, language_share=None,
        groups={}, correct=correct,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rights", "step", "p_value"),
    [
        # McNemar: 10 problems right before and wrong now, none the other way: 2 / 2**10, of one.
        ((30, 20), 1, 2 / 2**10),
        # 6 of them: 2 / 2**6 = 0.031 is better than chance alone, but not of three measurements.
        ((26, 20), 1, 2 / 2**6),
        ((20, 26, 20, 20), 4, 3 * 2 / 2**6),
        ((25, 20), 2, 2 / 2**5),
        # The best is the last, or as good: nothing to test.
        ((20, 26), 2, 1.0),
        ((20, 20), 2, 1.0),
        ((20,), 1, 1.0),
    ],
)
def test_earlier_weights_are_taken_only_where_chance_does_not_explain_them(
    rights: tuple[int, ...], step: int, p_value: float
) -> None:
    choice = chosen([row(at, right) for at, right in enumerate(rights, start=1)], PROBLEMS)
    assert choice.step == step
    assert choice.p_value == pytest.approx(min(1.0, p_value), abs=1e-12)


def test_a_better_count_on_other_problems_may_be_chance() -> None:
    # 20 right before and other 15 now: 20 against 15 of 35 that differ.
    choice = chosen([row(1, 20), row(2, 15, first=30)], PROBLEMS)
    assert (choice.step, choice.best_step) == (2, 1) and "may be chance" in choice.reason


def watched_inputs(root: Path) -> Inputs:
    inputs = make_inputs(root, [trace(number) for number in range(ROWS)])
    (root / "held").mkdir()
    write_records(root / "held" / "held_out.jsonl", PROBLEMS[:8])
    inputs["watch.problems"] = sealed(root / "held", "problems")
    return inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Inputs:
    return watched_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def made(inputs: Inputs, tmp_path_factory) -> tuple[Path, dict, list[dict]]:
    root = tmp_path_factory.mktemp("watched")
    settings = config(watch=SftWatch(**WATCH, checkpoints=True))
    return root / "out", *stage(root, settings, inputs)


def test_every_third_update_and_the_last_are_measured_and_kept(made) -> None:
    out, metrics, events = made
    rows = list(read_records(out / "watch.jsonl", WatchRow))
    # 20 rows three times in batches of 8: eight updates.
    assert [row.step for row in rows] == [3, 6, 8] and all(row.n == 4 for row in rows)
    for row in rows:
        folder = out / "checkpoints" / f"step-{row.step}"
        assert (folder / "model.safetensors").exists() and (folder / "config.json").exists()
    choice = Chosen.model_validate_json((out / "chosen.json").read_text())
    assert metrics["weights_step"] == choice.step
    kept = out / "checkpoints" / f"step-{choice.step}" / "model.safetensors"
    assert (out / "model.safetensors").read_bytes() == kept.read_bytes()
    assert sum("held-out problems" in event.get("text", "") for event in events) == 3


def test_a_run_with_a_watch_trains_on_the_same_bytes(made, inputs: Inputs, tmp_path: Path) -> None:
    out = made[0]
    stage(tmp_path, config(), inputs)
    for name in ("telemetry.jsonl", "config.json", "generation_config.json", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (out / name).read_bytes(), name
    last = out / "checkpoints" / "step-8" / "model.safetensors"
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == last.read_bytes()


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    made, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from factory.stages.sft import watching

    measure = watching.SftWatch._measure

    def stopped(self: watching.SftWatch, step: int, model: object) -> None:
        measure(self, step, model)
        if step == 6:
            raise KeyboardInterrupt

    settings = config(watch=SftWatch(**WATCH, checkpoints=True))
    monkeypatch.setattr(watching.SftWatch, "_measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path, settings, inputs)
    monkeypatch.setattr(watching.SftWatch, "_measure", measure)
    for path in sorted((tmp_path / "out").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    stage(tmp_path, settings, inputs)
    out = made[0]
    names = sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file())
    assert names == sorted(
        p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*") if p.is_file()
    )
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (out / name).read_bytes(), name


def test_without_the_wish_no_checkpoints_are_kept_and_the_last_weights_on_demand(
    made, inputs: Inputs, tmp_path: Path
) -> None:
    stage(tmp_path, config(watch=SftWatch(**WATCH, keep="last")), inputs)
    out = tmp_path / "out"
    assert not (out / "checkpoints").exists()
    last = made[0] / "checkpoints" / "step-8" / "model.safetensors"
    assert (out / "model.safetensors").read_bytes() == last.read_bytes()
    assert json.loads((out / "chosen.json").read_text())["step"] == 8


def test_greedy_answers_are_asked_once() -> None:
    with pytest.raises(ValidationError, match="samples above 1 need a temperature"):
        SftWatch(problems="held", every=3, samples=4)
