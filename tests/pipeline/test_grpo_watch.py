"""A watch on held-out problems: what it measures, and that training does not notice it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from test_grpo_stage import HELD_OUT, config, digests, killed_child, make_inputs, run_stage

import factory.stages.grpo.kept as kept_module
from factory.core.artifacts import Inputs
from factory.core.jsonl import read_records
from factory.stages.grpo.watch import Watcher, WatchRow

WATCH: dict[str, Any] = {"watch": {"problems": "sums", "every": 2, "samples": 3, "limit": 4}}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("artifacts"))


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_watched_run_measures_resumes_and_trains_as_one_without(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[torch.Tensor] = []
    measure = Watcher.measure

    def watch_measure(self: Any, *args: Any, **options: Any) -> WatchRow:
        held.append(self.sampler._model.embedding.clone())
        return measure(self, *args, **options)

    monkeypatch.setattr(Watcher, "measure", watch_measure)
    out, _, events = run_stage(config(**WATCH), inputs, tmp_path / "watched")
    monkeypatch.undo()
    for weights, folder in ((held[0], inputs["model"].path), (held[-1], out)):
        assert torch.equal(
            weights, load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
        )
    assert not torch.equal(held[1], held[2])
    rows = list(read_records(out / "watch.jsonl", WatchRow))
    assert [row.step for row in rows] == [0, 2, 4, 6]
    assert {(row.n, row.samples, len(row.correct)) for row in rows} == {(4, 3, 4)}
    assert rows[0].groups.keys() == {"long", "sums"}, "four problems, two of each source"
    notes = [row["text"] for row in events if row["event"] == "note"]
    assert [note.partition(":")[0] for note in notes if "held-out" in note] == [
        f"step {step}" for step in (0, 2, 4, 6)
    ]

    plain, _, _ = run_stage(config(), inputs, tmp_path / "plain")
    assert digests(plain)["model.safetensors"] == digests(out)["model.safetensors"]
    closer = {"redone", "runs_on_share", "code_share", "bare_share"}
    for with_watch, without in zip(
        rows_of(out / "telemetry.jsonl"), rows_of(plain / "telemetry.jsonl"), strict=True
    ):
        assert {name: with_watch[name] for name in without} == without
        assert with_watch.keys() - without.keys() == (closer if "reward" in without else set())
    trained = {row["trace"]["problem_id"] for row in rows_of(out / "rollouts.jsonl")}
    assert trained.isdisjoint(problem.id for problem in HELD_OUT)

    # Killed half-way through the second rollout: the measurement at its start is made again.
    killed_child(inputs, tmp_path / "killed", step=3, settings=WATCH)
    assert [row["step"] for row in rows_of(tmp_path / "killed/scratch/watch.jsonl")] == [0, 2]
    resumed, _, _ = run_stage(config(**WATCH), inputs, tmp_path / "killed")
    assert digests(resumed) == digests(out)


def test_the_completion_that_does_most_again_is_kept_and_the_first_of_a_run(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a step done again is the letter e, and every rollout has one somewhere."""
    monkeypatch.setattr(kept_module, "redone_steps", lambda text: text.count("e"))
    settings = config(updates_per_rollout=1, group=8, watch={**WATCH["watch"], "every": 4}, steps=6)
    out, _, _ = run_stage(settings, inputs, tmp_path)
    rows = rows_of(out / "rollouts.jsonl")
    messages = [row for row in rows if "redone" in row]
    assert all(row["redone"] == row["trace"]["reasoning"].count("e") > 0 for row in messages)
    kept = sorted({row["step"] for row in rows})
    # The first, middle and last rollout, and the first after a measurement.
    assert set(kept) >= {1, 4, 5, 6}
    assert kept[0] == messages[0]["step"] or kept[0] == 1
    for step in (1, 4, 5, 6):
        assert len([row for row in rows if row["step"] == step]) in (4, 5)


def test_a_measurement_inside_a_rollout_phase_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"watch\.every: 3 is inside a rollout phase"):
        config(watch={**WATCH["watch"], "every": 3})
