"""Data files that are small and become large, that lie about themselves, or have no end."""

import gzip
import json
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from factory.core.errors import DataError, FactoryError
from factory.reading.files import data_files, read_rows

ROW = b'{"a": 1}\n'
BLANKS = 2**21
LIMIT = 2**16

ENDLESS = {
    "blank lines": ("x.jsonl.gz", b"\n" * BLANKS + ROW, "blanks and no row"),
    "blank lines between rows": ("x.jsonl.gz", ROW + b" \t\r\n" * BLANKS + ROW, "after row 1"),
    "commas of a list": ("x.json.gz", b"[" + b" , " * BLANKS + b"]", "blanks and no row"),
    "blank lines of a table": ("x.csv.gz", b"a,b\n1,2\n" + b"\n" * BLANKS, "blanks and no row"),
    "a row without end": ("x.jsonl.gz", b'{"a": "' + b"a" * BLANKS, "longer than 1048576 bytes"),
    "a head of a table": ("x.csv.gz", b"a," * BLANKS, "row 0: field larger|row 0: a line"),
    "a line of a table": ("x.csv.gz", b"a,b\n" + b"1" * BLANKS, "a line is longer than"),
    "a field over many lines": ("x.csv.gz", b'a,b\n1,"' + b"1\n" * BLANKS, "larger than field"),
    "a value of a list": ("x.json.gz", b'[{"a": "' + b"a" * BLANKS, "row 1 is no JSON"),
    "lists in lists": ("x.json", b'[{"a": 1}, ' + b"[" * 200_000, "after row 1: maximum recur"),
    "objects in objects": ("x.json", b"{\n" + b'"a": {' * 200_000, "row 0: maximum recursion"),
}


@pytest.mark.parametrize("case", ENDLESS)
def test_a_file_of_nearly_no_rows_is_given_up_early(case: str, tmp_path: Path) -> None:
    name, data, words = ENDLESS[case]
    path = tmp_path / name
    path.write_bytes(gzip.compress(data, 1) if name.endswith(".gz") else data)
    began = time.process_time()
    with pytest.raises(DataError, match=words):
        for _ in read_rows(path, max_row_bytes=LIMIT):
            pass
    assert time.process_time() - began < 10


def test_a_row_that_is_too_long_is_left_out_by_its_place_and_the_rest_is_read(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(ROW + b'{"a": "' + b"a" * 4 * LIMIT + b'"}\n\n\n' + ROW)
    rows = list(read_rows(path, max_row_bytes=LIMIT))
    assert [(row.number, row.fields is None) for row in rows] == [(1, False), (2, True), (5, False)]


NAMES = ("x.arrow", "stream.arrow", "x.parquet")


def written(folder: Path) -> list[Path]:
    """A table with texts, lists, records and a dictionary in three containers."""
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table(
        {
            "q": [f"what is {n}" for n in range(40)],
            "l": [["a", "b" * n] for n in range(40)],
            "s": [{"x": n, "y": "z"} for n in range(40)],
            "d": pa.array(["u", "v"] * 20).dictionary_encode(),
        }
    )
    paths = [folder / name for name in NAMES]
    with pa.ipc.new_file(paths[0], table.schema) as file:
        file.write_table(table, max_chunksize=15)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(paths[1], table.schema, options=options) as file:
        file.write_table(table, max_chunksize=15)
    parquet.write_table(table, paths[2], compression="zstd", row_group_size=20)
    return paths


def read_mutated(folder: Path, count: int) -> str:
    """How many of the mutated files were read, and how many refused, as JSON."""
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    chance, outcomes = random.Random(7), {"read": 0, "refused": 0}
    for path in written(folder):
        data = path.read_bytes()
        for _ in range(count):
            changed = bytearray(data)
            for _ in range(chance.choice((1, 1, 2, 8))):
                at = chance.randrange(8, len(changed))
                changed[at] = chance.choice((0, 1, 127, 128, 255, changed[at] ^ 16))
            path.write_bytes(changed)
            try:
                for _ in read_rows(path):
                    pass
                outcomes["read"] += 1
            except FactoryError:
                outcomes["refused"] += 1
    return json.dumps(outcomes)


def test_tables_that_lie_about_their_places_crash_nothing(tmp_path: Path) -> None:
    # Offsets that lead out of a batch were followed: some of these ended the process.
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes = json.loads(done.stdout)
    assert sum(outcomes.values()) == 3 * 200 and min(outcomes.values()) > 50


def test_no_name_of_a_file_is_a_pattern_or_leads_out(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jsonl"
    secret.write_bytes(ROW)
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a[0-9].jsonl").write_bytes(ROW)
    assert data_files(str(folder / "a[0-9].jsonl")) == [folder / "a[0-9].jsonl"]
    (folder / "b.jsonl").symlink_to(secret)
    with pytest.raises(DataError, match="a link that leads out"):
        data_files(str(folder))


if __name__ == "__main__":
    print(read_mutated(Path(sys.argv[1]), 200))
