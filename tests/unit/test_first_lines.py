"""The first lines of a build: at once, before anything is measured, then with what to expect."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from click.testing import Result
from test_cost import SUMS, plan, seconds_row
from typer.testing import CliRunner

from factory.building import pipeline
from factory.building.launch import measure, peaks
from factory.building.pricing import Bill, Row
from factory.cli import app
from factory.core.machine import DevicePeaks, Machine
from factory.cost import formulas
from factory.cost.roofline import Peaks
from factory.ui.measuring import outlook

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "recipes" / "quickstart.yaml"
SECONDS = 1.0
"""Of processor time, in which the first lines stand there: what a wait is on an idle machine."""
RECIPE = """
name: small
stages:
  base:
    kind: model
    source: {type: embedded}
  sums:
    kind: problems
    sources: [{type: reasoning_gym, family: chain_sum, train: 100, held_out: 2}]
  traces: {kind: generate, model: base, problems: sums, samples: 1}
"""
RATES = {
    str(n): {"float32": 100.0 * n, "rounded": 90.0 * n}
    for n in measure.thread_counts(Machine().thread_count())
}
MEASURED = {"flops_per_second": 217e9, "bytes_per_second": 20e9, "load": 0.0}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.fixture
def measurement(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands for the processes that measure, which print what they find; each says that it runs."""
    results = dict(MEASURED)

    def run(command: list[str], **_: Any) -> CompletedProcess[str]:
        is_peaks = "factory.building.launch.peaks" in command
        sys.stdout.write("[at work]\n")
        return CompletedProcess(command, 0, json.dumps(results if is_peaks else RATES), "")

    monkeypatch.setattr(measure.subprocess, "run", run)
    monkeypatch.setattr("factory.building.launch.measure.subprocess.run", run)
    monkeypatch.setattr(peaks, "load", lambda: 1.0)
    return results


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: object) -> None:
        sys.stdout.write("[first stage]\n")
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "build", build)


def run(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, [str(argument) for argument in arguments])


def cores() -> str:
    number = Machine().thread_count()
    return f"{number} core{'' if number == 1 else 's'}"


@pytest.mark.usefixtures("measurement", "started")
def test_a_build_says_what_it_measures_before_and_what_to_expect_after(
    tmp_path: Path, recipe: Path
) -> None:
    store = tmp_path / "new" / "store"
    lines = run("build", recipe, "--store", store).stdout.splitlines()
    assert lines[:5] == [
        f"reading {recipe}", "small: 3 stages, 0 reused", "measuring this processor ...",
        "[at work]", "[at work]",
    ]  # fmt: skip
    assert lines[5].startswith(f"this processor: 217 GFLOP/s on {cores()}; about ")
    assert lines[6] == "[first stage]"
    minutes = lines[5].rpartition("; ")[2]
    again = run("build", recipe, "--store", store).stdout.splitlines()
    kept = f"this processor: 217 GFLOP/s on {cores()}, measured before and kept in the store"
    assert again[2:4] == [f"{kept}; {minutes}", "[first stage]"]


@pytest.mark.usefixtures("started")
def test_a_busy_processor_is_told(
    tmp_path: Path, recipe: Path, measurement: dict[str, Any]
) -> None:
    measurement["load"] = 1.5
    lines = run("build", recipe, "--store", tmp_path / "store").stdout.splitlines()
    assert lines[6] == "other programs were at work while it was measured, so it may take less"


@pytest.mark.usefixtures("measurement", "started")
@pytest.mark.parametrize("verb", ["plan", "eval"])
def test_other_verbs_that_measure_say_so_before(tmp_path: Path, recipe: Path, verb: str) -> None:
    given = [recipe, "--cost"] if verb == "plan" else ["embedded", "--suite", "offline"]
    lines = run(verb, *given, "--store", tmp_path / "store").stdout.splitlines()
    assert lines[0] == f"reading {recipe if verb == 'plan' else 'suite offline'}"
    assert lines.index("measuring this processor ...") == lines.index("[at work]") - 1 < 3
    assert lines.count("measuring this processor ...") == 1


@pytest.mark.usefixtures("started")
def test_a_gpu_without_stated_speed_has_no_estimate_and_says_why(
    tmp_path: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    machine = tmp_path / "gpu.yaml"
    machine.write_text("device: cuda\n", encoding="utf-8")
    store = tmp_path / "store"
    lines = run("build", recipe, "--machine", machine, "--store", store).stdout.splitlines()
    assert lines[1] == "small: 3 stages, 0 reused"
    assert lines[2].startswith("no estimate of the time: machine file: ")
    assert lines[3] == "[first stage]"


def bill(*rows: Row, on_gpu: bool = False, seconds: float = 0.0, is_busy: bool = False) -> Bill:
    speed = formulas.processor(Peaks(65.5e9, 9e9))
    return Bill(rows, Machine(), speed, on_gpu, is_busy, 8.0, seconds, None)


def test_a_time_is_told_with_what_it_lacks() -> None:
    step = plan(sums=SUMS)[0]
    row, gap = seconds_row("a", 3), Row(step, None, None, "needs teacher")
    two = Machine(threads=2)
    for seconds, words in ((24.6, "25 s"), (859, "14 min"), (11_970, "3 h 20 min"), (59.9, "60 s")):
        assert outlook(bill(row, seconds=seconds), two, is_measured=True) == [
            f"this processor: 66 GFLOP/s on 2 cores; about {words}"
        ]
    first = Machine(threads=1, peaks=DevicePeaks(gflops=65.5, gigabytes_per_second=9, memory_gib=8))
    assert outlook(bill(row, gap, seconds=3), first, is_measured=False) == [
        "this processor: 66 GFLOP/s on 1 core, as the machine file states; about 3 s",
        "without an estimate, and not in this time: sums (needs teacher)",
    ]
    assert outlook(bill(gap, on_gpu=True), first, is_measured=False)[0] == (
        "this GPU: 66 GFLOP/s, as the machine file states; no estimate of the time"
    )
    assert outlook(None, two, is_measured=True) == [
        "no estimate of the time: none of the stages to be made draws or trains"
    ]


def test_the_first_lines_stand_there_within_a_second(tmp_path: Path) -> None:
    first, last = zip(*(seconds_of_lines(tmp_path / f"store{n}") for n in range(3)), strict=True)
    assert min(first) < SECONDS / 2, first
    assert min(last) < SECONDS, last


def seconds_of_lines(store: Path) -> tuple[float, float]:
    """Processor seconds of a build of the quickstart in a new store until its first line, and until
    it begins to measure, where it is ended."""
    code = "from factory.cli import main; main()"
    command = [sys.executable, "-c", code, "build", str(QUICKSTART), "--store", str(store)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == f"reading {QUICKSTART}\n"
            first = processor_seconds(process.pid)
            assert ": " in process.stdout.readline()
            assert process.stdout.readline() == "measuring this processor ...\n"
            return first, processor_seconds(process.pid)
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
