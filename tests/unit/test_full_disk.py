"""A disk that was full once: what it left stops no later build, and each error has a path."""

import errno
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from building import MACHINE
from typer.testing import CliRunner

from factory.building.launch import measure
from factory.building.launch.measure import parse_rates, resolve_matmul
from factory.building.launch.peaks import processor_peaks
from factory.building.pipeline import _Lock
from factory.building.plan import make_plan
from factory.building.pricing import _kept
from factory.building.recipe import load_recipe
from factory.cli import app
from factory.core import files
from factory.core.context import Context
from factory.core.errors import EngineError
from factory.core.files import naming, read_file, write_file
from factory.core.jsonl import append_rows, recover_rows, write_records
from factory.core.machine import Machine
from factory.core.records import Pair

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """
name: small
stages:
  sums:
    kind: problems
    sources: [{type: reasoning_gym, family: chain_sum, train: 2, held_out: 2}]
"""
RATES = '{"1": {"float32": 50.0, "rounded": 40.0, "bfloat16": 9.0, "float16": 1.0}}\n'


def with_room(size: int, work: Callable[[], object]) -> str:
    """What the OSError of some work says in a process whose files end at `size` bytes; '' if none.

    The kernel cuts the write that crosses the limit and refuses the next, as a full disk does.
    """
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        try:
            work()
            message = ""
        except OSError as error:
            message = str(error)
        os.write(theirs, message.encode())
        os._exit(0)
    os.close(theirs)
    os.waitpid(child, 0)
    with os.fdopen(ours, encoding="utf-8") as pipe:
        return pipe.read()


@pytest.mark.parametrize("before", [None, "what it held"])
@pytest.mark.parametrize("size", [0, 1, 4096, 9999])
def test_a_small_file_is_written_whole_or_not_at_all(
    tmp_path: Path, size: int, before: str | None
) -> None:
    path = tmp_path / ".measured-2"
    if before is not None:
        path.write_text(before, encoding="utf-8")
    message = with_room(size, lambda: write_file(path, "x" * 10_000))
    assert str(path) in message and "File too large" in message
    assert (path.read_text(encoding="utf-8") if path.exists() else None) == before
    assert [item.name for item in tmp_path.iterdir()] == ([path.name] if before else [])
    assert with_room(10_000, lambda: write_file(path, "x" * 10_000)) == ""
    assert path.read_text(encoding="utf-8") == "x" * 10_000


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_at_any_step_of_writing_leaves_what_was_there_and_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "estimate.json"
    path.write_text("before", encoding="utf-8")
    monkeypatch.setattr(files.os, step, full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_file(path, "after")
    assert caught.value.filename == str(path) and caught.value.errno == errno.ENOSPC
    assert {item.name: item.read_text("utf-8") for item in tmp_path.iterdir()} == {
        path.name: "before"
    }


@pytest.mark.parametrize("size", [0, 1, 30, 47, 60, 95])
def test_rows_that_find_no_room_leave_no_half_row_for_the_next(tmp_path: Path, size: int) -> None:
    # Rows of 24 bytes: the limits fall before, into and between them.
    path = tmp_path / "spent.jsonl"
    rows = [{"prompt": 1000 + n, "more": 7} for n in range(4)]

    def spend() -> None:
        for row in rows:
            try:
                append_rows(path, [row])
            except OSError as error:
                assert error.filename == str(path)
        append_rows(path, rows)

    message = with_room(size, spend)
    assert str(path) in message
    kept = size // 25
    assert recover_rows(path) == rows[:kept]
    append_rows(path, rows)
    assert recover_rows(path) == [*rows[:kept], *rows]


def test_every_way_of_writing_names_its_file(tmp_path: Path) -> None:
    pairs = [Pair(prompt="p", chosen="c" * 9000, rejected="r", source="s")]
    records = tmp_path / "pairs.jsonl"
    assert str(records) in with_room(50, lambda: write_records(records, pairs))
    events = tmp_path / "metrics.jsonl"

    def tell() -> None:
        with events.open("a", encoding="utf-8") as stream:
            Context(0, Machine(), tmp_path, stream).note("x" * 9000)

    assert str(events) in with_room(50, tell)
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    step = make_plan(load_recipe(tmp_path / "recipe.yaml"))[0]
    lock = _Lock(tmp_path, step)
    assert step.fingerprint in with_room(0, lambda: lock.acquire(None))  # type: ignore[arg-type]
    # Its half text tells a second build nothing wrong.
    assert lock.acquire(None)  # type: ignore[arg-type]
    lock.release()


def test_an_error_that_names_a_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, naming(tmp_path):
        (tmp_path / "none").open()
    assert caught.value.filename == str(tmp_path / "none")


SPOILT = [b"", b"{", b"[]", b"{}", b"\xff\xfe", b"\0" * 40, b'{"1": {"float32": 0}}', b"null"]


@pytest.mark.parametrize("content", SPOILT)
def test_a_measurement_that_cannot_be_read_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    content: bytes,
) -> None:  # fmt: skip
    calls = []

    def run(command: list[str], **options: object) -> object:
        calls.append(command)
        text = RATES
        if "factory.building.launch.peaks" in command:
            text = '{"flops_per_second": 1e9, "bytes_per_second": 1e9, "load": 0.1}\n'
        return type("Done", (), {"returncode": 0, "stdout": text, "stderr": ""})

    monkeypatch.setattr("factory.building.launch.measure.subprocess.run", run)
    machine = Machine(device="cpu", threads=1)
    for name in (".measured-1", ".peaks-1-float32", "estimate.json"):
        (tmp_path / name).write_bytes(content)
    for _ in range(2):
        assert resolve_matmul(machine, tmp_path).matmul == "float32"
        assert processor_peaks(machine, tmp_path).flops_per_second == 1e9
    assert len(calls) == 2
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2 and all("measured again" in line for line in messages)
    assert str(tmp_path / ".measured-1") in messages[0] and str(tmp_path / ".peaks") in messages[1]
    assert _kept(tmp_path / "estimate.json") is None


def test_rates_are_those_of_every_number_of_threads() -> None:
    assert parse_rates(RATES, [1])["1"]["float32"] == 50.0
    for text in (RATES.replace("50.0", "0.0"), RATES.replace("40.0", "NaN")):
        with pytest.raises(ValueError, match="no rate of 1 threads"):
            parse_rates(text, [1])
    with pytest.raises(ValueError, match="no rate of 2 threads"):
        parse_rates(RATES, [1, 2])


def test_a_file_that_is_not_there_is_absent_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert read_file(tmp_path / "none", str, instead="made again") is None
    (tmp_path / "file").touch()
    assert read_file(tmp_path / "file" / "none", str, instead="made again") is None
    assert caplog.records == []


def build(folder: Path, *arguments: str) -> Any:
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (folder / "machine.yaml").write_text(MACHINE, encoding="utf-8")
    command = ["build", str(folder / "recipe.yaml"), "--store", str(folder / "store"), "--plain"]
    command += ["--machine", str(folder / "machine.yaml"), *arguments]
    return CliRunner().invoke(app, command)


def test_a_build_goes_on_after_everything_it_keeps_for_itself_was_emptied(
    tmp_path: Path,
) -> None:
    """Whatever of its small files a full disk has emptied, in the middle or after a build."""
    assert build(tmp_path).exit_code == 0
    store = tmp_path / "store"
    (sums,) = [path for path in store.glob("sums-*") if not path.suffix]
    (sums.with_name(sums.name + ".run") / "verified.json").touch()
    kept = [
        path
        for path in store.rglob("*")
        if path.is_file() and sums not in path.parents and path.suffix != ".yaml"
    ]
    assert {"job.json", "result.json", "metrics.jsonl", "recipe.json"} <= {p.name for p in kept}
    for path in kept:
        path.write_bytes(b"")
    done = build(tmp_path)
    assert done.exit_code == 0 and "reused" in done.output, done.output
    # And where its stage has to be made again.
    for path in sums.iterdir():
        path.unlink()
    sums.rmdir()
    for path in kept:
        path.write_bytes(b"")
    done = build(tmp_path)
    assert done.exit_code == 0 and "made in" in done.output, done.output


@pytest.mark.parametrize("name", ["job.json", "manifest.json", "report.md", "report.json"])
def test_a_disk_that_fills_up_at_a_file_is_told_by_its_path_and_the_next_build_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if target.name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", full)
    done = build(tmp_path)
    assert done.exit_code == 2, done.output
    assert done.stderr.splitlines()[-1].endswith(f"{name}: No space left on device")
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path}")
    monkeypatch.undo()
    done = build(tmp_path)
    assert done.exit_code == 0, done.output


def test_an_error_without_a_file_names_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("factory.building.pipeline.build", full)
    done = build(tmp_path)
    assert done.exit_code == 2
    assert f"error: {tmp_path / 'store'}" in done.stderr and "No space left" in done.stderr


def test_only_one_function_writes_what_is_kept() -> None:
    """What bypasses it: content of artifacts, which are sealed or made again whole."""
    allowed = ("stages", "grading", "sampling/served.py", "install.py")
    allowed += ("core/jsonl.py", "core/files.py", "core/stored.py")
    writers = (".write_text(", ".write_bytes(", '.open("w"', '.open("wb"', "os.replace(")
    wrong = []
    for path in sorted((ROOT / "factory").rglob("*.py")):
        name = path.relative_to(ROOT / "factory").as_posix()
        text = path.read_text(encoding="utf-8")
        if not name.startswith(allowed):
            wrong += [f"{name}: {writer}" for writer in writers if writer in text]
    # A draft of its own, forced to disk and renamed: rows are many.
    assert wrong == ["trainers/unchanged.py: os.replace("]


def test_a_measurement_that_fails_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = type("Done", (), {"returncode": 1, "stdout": "", "stderr": "no torch"})
    monkeypatch.setattr(measure.subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(EngineError, match="no torch"):
        resolve_matmul(Machine(device="cpu", threads=1), tmp_path)
    assert list(tmp_path.iterdir()) == []
