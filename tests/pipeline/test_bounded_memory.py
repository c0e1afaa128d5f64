"""Trace sets larger than memory: what the stages behind an import hold of them."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fine_tuning import sealed, trace

from factory.core.artifacts import Inputs
from factory.core.context import Context
from factory.core.jsonl import write_records
from factory.core.machine import Machine
from factory.core.records import Trace
from factory.models.tiny import byte_tokenizer
from factory.stages import mix, select
from factory.text.chat import PromptConfig
from factory.trainers.rows import AT_ONCE, IGNORED, Row, token_rows, tokenise
from factory.trainers.stored_rows import StoredRows, stored_rows

FEW, MANY = 100, 1500
WORDS = 1000
"""Of a trace, which takes over 20 kB in memory."""


def traces(count: int) -> Iterator[Trace]:
    for number in range(count):
        text = " ".join(f"{number}w{at}" for at in range(WORDS))
        words = {"completion": text, "reasoning": text, "question": f"What is {number}?"}
        yield trace(number).model_copy(update=words)


def work(kind: str, rows: int, folder: Path) -> float:
    """Peak memory in MiB of this process after the stage has worked on so many traces."""
    (folder / "set").mkdir()
    write_records(folder / "set" / "traces.jsonl", traces(rows))
    artifact = sealed(folder / "set", "traces")
    (folder / "out").mkdir()
    context = Context(1, Machine(threads=1), folder)
    if kind == "select":
        config = select.SelectConfig(kind="select", traces="set", require_well_formed=False)
        metrics = select.run(config, Inputs(traces=artifact), folder / "out", context)
    else:
        config = mix.MixConfig(kind="mix", parts=(mix.Part(traces="set"),))
        inputs = Inputs({"parts.0.traces": artifact})
        metrics = mix.run(config, inputs, folder / "out", context)
    assert metrics["kept"] == rows
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


@pytest.mark.parametrize("kind", ["select", "mix"])
def test_ten_times_the_traces_take_hardly_more_memory(kind: str, tmp_path: Path) -> None:
    peaks = {}
    for rows in (FEW, MANY):
        folder = tmp_path / str(rows)
        folder.mkdir()
        command = [sys.executable, __file__, kind, str(rows), str(folder)]
        libraries = os.pathsep.join(
            [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
        )
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": libraries}
        )
        assert done.returncode == 0, done.stderr[-2000:]
        peaks[rows] = float(done.stdout)
    # All of them at once would be over 28 MiB more: (1500 - 100) * 20 kB.
    assert peaks[MANY] - peaks[FEW] < 10, peaks


def test_rows_are_tokenised_a_few_at_a_time_and_are_those_of_one_call() -> None:
    read = 0

    def counted() -> Iterator[Trace]:
        nonlocal read
        for item in traces(40):
            read += 1
            yield item

    rows = token_rows(counted(), PromptConfig(), byte_tokenizer())
    first = next(rows)
    assert read < 40 and 40 * WORDS * len("39w999 ") > AT_ONCE
    again = [
        row for item in traces(40) for row in tokenise([item], PromptConfig(), byte_tokenizer())
    ]
    assert [first, *rows] == again


def test_rows_in_a_file_are_what_rows_in_memory_are_and_are_made_once(tmp_path: Path) -> None:
    rows = tokenise([trace(number) for number in range(20)], PromptConfig(), byte_tokenizer())
    path = tmp_path / "rows.arrow"
    stored = stored_rows(path, iter(rows), is_first=True)
    assert list(stored) == rows and list(StoredRows.of(rows)) == rows
    # A second rank, and a run that goes on, read the file and tokenise nothing.
    for is_first in (False, True):
        assert list(stored_rows(path, iter(()), is_first=is_first)) == rows
    limit = sorted(row.tokens for row in rows)[9]
    assert list(stored.within(limit)) == [row for row in rows if row.tokens <= limit]
    order = [3, 3, 0, 19]
    trained = stored.in_order(order)
    assert [row["labels"] for row in trained] == [rows[at].labels for at in order]
    assert [row["input_ids"] for row in trained] == [
        [*rows[at].prompt_ids, *rows[at].completion_ids] for at in order
    ]
    assert not list(tmp_path.glob("*.draft"))


def test_of_a_file_that_was_read_few_pages_stay_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, length = tmp_path / "rows.arrow", 2**18
    made = (Row((number,), (number,) * length) for number in range(24))  # 1 MiB each
    stored = stored_rows(path, made, is_first=True)
    monkeypatch.setattr("factory.trainers.stored_rows.RESIDENT", 2**22)
    trained = stored.in_order(range(24))
    for number in range(24):
        assert trained[number]["labels"] == [IGNORED] + [number] * length
        assert stored[number].completion_ids[-1] == number
        assert _mapped_kib(path) < 8 * 2**10


def test_short_rows_read_at_random_leave_as_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may map a mebibyte and more with each."""
    path, length = tmp_path / "rows.arrow", 2**10
    made = (Row((number,), (number,) * length) for number in range(2**13))  # 32 MiB
    stored = stored_rows(path, made, is_first=True)
    monkeypatch.setattr("factory.trainers.stored_rows.RESIDENT", 2**22)
    for number in range(0, 2**13, 211):
        assert stored[number].completion_ids[-1] == number
        assert _mapped_kib(path) < 8 * 2**10


def _mapped_kib(path: Path) -> int:
    """Resident pages of the file in this process."""
    lines = iter(Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines())
    return sum(
        int(next(line for line in lines if line.startswith("Rss:")).split()[1])
        for line in lines
        if line.endswith(str(path))
    )


def test_a_file_of_rows_that_a_kill_left_half_is_made_again(tmp_path: Path) -> None:
    rows = tokenise([trace(number) for number in range(5)], PromptConfig(), byte_tokenizer())

    def killed():
        yield rows[0]
        raise KeyboardInterrupt

    path = tmp_path / "rows.arrow"
    with pytest.raises(KeyboardInterrupt):
        stored_rows(path, killed(), is_first=True)
    assert not path.exists()
    assert list(stored_rows(path, iter(rows), is_first=True)) == rows


@pytest.mark.parametrize("name", ["rows.arrow", "sums-rows.arrow.json"])
def test_a_file_of_rows_in_which_the_disk_changed_a_bit_is_made_again(
    name: str, tmp_path: Path
) -> None:
    rows = tokenise([trace(number) for number in range(5)], PromptConfig(), byte_tokenizer())
    path = tmp_path / "rows.arrow"
    stored_rows(path, iter(rows), is_first=True)
    assert {file.name for file in tmp_path.iterdir()} == {"rows.arrow", "sums-rows.arrow.json"}
    written = (tmp_path / name).read_bytes()
    for at in range(0, len(written), 1 + len(written) // 16):
        changed = bytearray(written)
        changed[at] ^= 1
        (tmp_path / name).write_bytes(changed)
        notes: list[str] = []
        stored = stored_rows(path, iter(rows), is_first=True, notify=notes.append)
        assert list(stored) == rows, at
        assert (tmp_path / name).read_bytes() == written
        assert notes == [f"{path}: not what was written: made again"]


def test_the_shortest_rows_have_different_prompts_and_come_by_length_and_prompt() -> None:
    rows = [Row((9,), (1, 2)), Row((3,), (1, 2)), Row((9,), (1,)), Row((4,), (5, 6, 7))]
    stored = StoredRows.of(rows)
    assert stored.shortest(2) == [rows[2], rows[1]]
    assert stored.shortest(9) == [rows[2], rows[1], rows[3]]
    assert stored.within(2).shortest(9) == [rows[2]]


if __name__ == "__main__":
    print(work(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
