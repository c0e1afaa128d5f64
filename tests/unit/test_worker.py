"""A worker: what it does with a stage that fails for a reason a user can repair."""

import dataclasses
import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from factory.building import worker
from factory.building.worker import Job, main, out_of_memory
from factory.core.machine import Machine
from factory.stages import STAGES

CONFIG = {
    "kind": "problems",
    "sources": [{"type": "reasoning_gym", "family": "chain_sum", "train": 3, "held_out": 1}],
}


@pytest.fixture(autouse=True)
def _no_bond_with_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "die_with_parent", lambda: None)


def job(folder: Path, *, builder: int | None = None) -> Path:
    out, run = folder / "a.partial", folder / "a.run"
    out.mkdir()
    (run / "scratch").mkdir(parents=True)
    made = Job(
        stage="problems", config=CONFIG, inputs={}, out=str(out), run=str(run), seed=1,
        machine=Machine(), builder=os.getppid() if builder is None else builder,
    )  # fmt: skip
    path = run / "job.json"
    path.write_text(made.model_dump_json(), encoding="utf-8")
    return path


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def run(*arguments: Any) -> dict[str, float]:
        raise error

    stage = dataclasses.replace(STAGES["problems"], run=run)
    monkeypatch.setitem(STAGES.table, "problems", replace(STAGES.row("problems"), value=stage))


def last_event(path: Path) -> dict[str, Any]:
    rows = (path.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return json.loads(rows[-1])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
    ],
)
def test_running_out_of_memory_names_the_setting_to_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    failing(monkeypatch, error)
    path = job(tmp_path)
    assert main(path) == 2
    assert last_event(path)["kind"] == "EngineError"
    assert last_event(path)["message"] == out_of_memory("problems", Machine())
    assert not (path.parent / "result.json").exists()


CPU = Machine(device="cpu", threads=2, rows=2, micro_batch=2, micro_groups=2)
SAMPLING = "block, rows or engine_memory_gib"


@pytest.mark.parametrize(
    ("stage", "lowered"),
    [
        ("model", None), ("pretrain", None), ("problems", "threads"), ("written", None),
        ("imported", "threads"), ("pass_rates", None),
        ("generate", SAMPLING), ("judge", SAMPLING), ("select", None), ("rewrite", SAMPLING),
        ("review", None), ("mix", None), ("sft", "micro_batch"), ("pairs", SAMPLING),
        ("labels", SAMPLING), ("reward_model", "micro_batch"),
        ("distill", "micro_batch or engine_memory_gib"), ("evaluate", SAMPLING),
        ("grpo", "micro_groups or engine_memory_gib"),
    ],
)  # fmt: skip
def test_every_kind_names_what_it_reads_or_that_nothing_helps(
    stage: str, lowered: str | None
) -> None:
    advice = out_of_memory(stage, CPU)
    if lowered is None:
        assert advice.startswith("out of memory: no machine setting lowers what this stage needs")
        assert " in the machine file" not in advice
    else:
        assert advice == (
            f"out of memory: lower {lowered} in the machine file and start again (it resumes)"
        )


def test_the_advice_covers_every_kind_and_names_settings_of_the_machine_file() -> None:
    (cases,) = (
        mark.args[1]
        for mark in test_every_kind_names_what_it_reads_or_that_nothing_helps.pytestmark
    )
    assert {stage for stage, _ in cases} == STAGES.keys()
    for stage in STAGES.values():
        assert set(stage.memory_settings) <= Machine.model_fields.keys()


@pytest.mark.parametrize(
    ("stage", "machine", "advice"),
    [
        # As it comes, the machine packs one group a pass: there is nothing below that.
        ("grpo", Machine(device="cpu"), "lower engine_memory_gib in"),
        ("sft", Machine(micro_batch=1), "no machine setting"),
        ("generate", Machine(device="cpu", block=1), "lower engine_memory_gib in"),
        ("judge", Machine(device="cpu", rows=4, engine="vllm"), "lower block, rows or engine"),
        ("judge", Machine(device="cpu", rows=4, engine="transformers"), "lower block or engine"),
        ("problems", Machine(threads=1), "no machine setting"),
        ("pretrain", Machine(parallel=2), "lower parallel in"),
        ("reward_model", Machine(parallel=3), "lower micro_batch or parallel in"),
    ],
)
def test_a_setting_at_its_least_is_not_named(stage: str, machine: Machine, advice: str) -> None:
    assert f"out of memory: {advice}" in out_of_memory(stage, machine)


@pytest.mark.parametrize(
    ("stage", "advice"),
    [
        ("grpo", "lower micro_groups or gpu_memory_fraction_rl in"),
        ("generate", "lower block, rows or gpu_memory_fraction in"),
    ],
)
def test_on_a_gpu_the_share_of_its_memory_is_named(
    monkeypatch: pytest.MonkeyPatch, stage: str, advice: str
) -> None:
    monkeypatch.setattr(Machine, "may_take_gpu", lambda self: True)
    assert advice in out_of_memory(stage, CPU)


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    path = job(tmp_path)
    # Every write to /dev/full fails as on a full disk.
    (tmp_path / "a.partial" / "train.jsonl").symlink_to("/dev/full")
    assert main(path) == 2
    message = last_event(path)["message"]
    assert "No space left on device" in message and "a.partial" in message
    assert len(message.splitlines()) == 1


def test_a_missing_permission_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/some/file"))
    path = job(tmp_path)
    assert main(path) == 2
    assert last_event(path)["message"] == "/some/file: Permission denied"


def test_a_bug_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, RuntimeError("a shape does not fit"))
    with pytest.raises(RuntimeError, match="a shape does not fit"):
        main(job(tmp_path))


def test_a_worker_whose_build_is_gone_does_nothing(tmp_path: Path) -> None:
    path = job(tmp_path, builder=2**22 + 1)  # above the largest process id of Linux
    assert main(path) == 1
    assert list((tmp_path / "a.partial").iterdir()) == []
