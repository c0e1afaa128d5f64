"""Threads and matrix product from measured rates: the usual choice unless another wins clearly."""

import json
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from factory.building.launch import measure
from factory.building.launch.measure import choose, resolve_matmul, thread_counts
from factory.core.machine import Machine


def rates(*by_threads: tuple[int, float, float]) -> dict[str, dict[str, float]]:
    return {str(n): {"float32": exact, "rounded": rounded} for n, exact, rounded in by_threads}


@pytest.mark.parametrize(
    ("measured", "chosen"),
    [
        (rates((1, 100, 100), (2, 190, 190)), (2, "float32")),
        (rates((1, 100, 210), (2, 190, 400)), (2, "bfloat16")),
        # A little faster is noise: all threads and, up to 5 %, the usual product stay.
        (rates((1, 110, 114), (2, 100, 104)), (2, "float32")),
        (rates((1, 110, 114), (2, 100, 106)), (2, "bfloat16")),
        # Two threads on one shared core: one is clearly faster.
        (rates((1, 100, 100), (2, 60, 60)), (1, "float32")),
        (rates((1, 100, 210), (2, 150, 150)), (1, "bfloat16")),
    ],
)
def test_the_usual_choice_stays_unless_another_wins_clearly(
    measured: dict[str, dict[str, float]], chosen: tuple[int, str]
) -> None:
    assert choose(measured, "auto") == chosen


def test_what_the_machine_file_says_is_not_measured_away() -> None:
    measured = rates((1, 100, 400), (2, 190, 800))
    assert choose(measured, "float32") == (2, "float32")
    full = Machine(matmul="float32", threads=3)
    assert resolve_matmul(full, Path("/nowhere")) is full


def test_thread_counts_double_up_to_the_limit() -> None:
    assert thread_counts(1) == [1]
    assert thread_counts(2) == [1, 2]
    assert thread_counts(6) == [1, 2, 4, 6]


def test_a_store_is_measured_once_and_given_threads_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []

    def run(command: list[str], **_: Any) -> CompletedProcess[str]:
        calls.append(command[4:])
        return CompletedProcess(command, 0, json.dumps(rates((1, 100, 300))), "")

    monkeypatch.setattr(measure.subprocess, "run", run)
    for _ in range(2):
        machine = resolve_matmul(Machine(threads=1), tmp_path)
        assert (machine.threads, machine.matmul) == (1, "bfloat16")
    assert calls == [["1"]]


def test_stores_of_one_machine_choose_the_same_whatever_was_measured_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else equal fingerprints would stand for other bytes.
    monkeypatch.setattr(measure, "thread_counts", lambda limit: [1, 2])
    monkeypatch.setattr(Machine, "thread_count", lambda self: self.threads or 2)
    calls: list[list[str]] = []

    def run(command: list[str], **_: Any) -> CompletedProcess[str]:
        calls.append(command[4:])
        text = {"1": {"float32": 300, "rounded": 1}, "2": {"float32": 100, "rounded": 1}}
        return CompletedProcess(command, 0, json.dumps(text), "")

    monkeypatch.setattr(measure.subprocess, "run", run)
    choices = []
    for number, (first, two, rounded) in enumerate([(300, 100, 1), (100, 300, 1), (100, 300, 999)]):
        store = tmp_path / str(number)
        store.mkdir()
        quiet = {"1": {"float32": first, "rounded": 1}, "2": {"float32": two, "rounded": rounded}}
        (store / ".measured-2-auto").write_text(json.dumps(quiet), encoding="utf-8")
        machine = resolve_matmul(Machine(), store)
        choices.append((machine.threads, machine.matmul))
    assert choices == [(1, "float32")] * 3
    assert len(calls) == 1


def test_a_store_keeps_its_own_measurement_where_the_user_has_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    monkeypatch.setenv("FACTORY_CACHE", str(blocked))
    text = json.dumps(rates((1, 100, 300)))
    done = CompletedProcess([], 0, text, "")
    monkeypatch.setattr(measure.subprocess, "run", lambda *rest, **named: done)
    assert resolve_matmul(Machine(threads=1), tmp_path).matmul == "bfloat16"
    monkeypatch.setattr(measure.subprocess, "run", None)
    assert resolve_matmul(Machine(threads=1), tmp_path).matmul == "bfloat16"


def test_the_measurement_gives_a_rate_for_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SECONDS", 0.0)
    import torch

    before = torch.get_float32_matmul_precision()
    try:
        result = measure.measure(1)
    finally:
        torch.set_float32_matmul_precision(before)
    assert result.keys() == {"float32", "rounded", "bfloat16", "float16"}
    assert all(rate > 0 for rate in result.values())
