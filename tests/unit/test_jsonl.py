"""JSON Lines: broken lines are named, torn tails are cut, nothing else is forgiven."""

from pathlib import Path

import pytest

from factory.core.errors import DataError
from factory.core.jsonl import append_rows, read_records, recover_rows, write_records
from factory.core.records import Verdict

GOOD = '{"outcome": "correct", "answer": "4", "explanation": ""}\n'


def read(path: Path, text: bytes | str) -> list[Verdict]:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return list(read_records(path, Verdict))


def test_records_come_back_in_order(tmp_path: Path) -> None:
    records = [Verdict(outcome="wrong", answer=f"é\u2028{i}", explanation="a\nb") for i in range(3)]
    assert write_records(tmp_path / "a.jsonl", records) == 3
    assert list(read_records(tmp_path / "a.jsonl", Verdict)) == records


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{broken\n", ":2: line: Invalid JSON"),
        (GOOD.replace("correct", "right"), ":2: outcome: Input should be"),
        (GOOD.replace("answer", "anser"), ":2: answer: Field required"),
        (GOOD[:-2] + ', "more": 1}\n', ":2: more: Extra inputs are not permitted"),
        (b'{"outcome": "\xff"}\n', ":2: not UTF-8"),
        ("[]\n", ":2: line: "),
    ],
)
def test_a_broken_line_is_named_by_file_and_number(
    tmp_path: Path, line: str | bytes, expected: str
) -> None:
    raw = line.encode() if isinstance(line, str) else line
    with pytest.raises(DataError) as caught:
        read(tmp_path / "data.jsonl", GOOD.encode() + raw + GOOD.encode())
    assert f"{tmp_path / 'data.jsonl'}{expected}" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_blank_lines_count_but_are_skipped(tmp_path: Path) -> None:
    assert len(read(tmp_path / "a.jsonl", GOOD + "\n" + GOOD)) == 2
    with pytest.raises(DataError, match=r"a\.jsonl:3"):
        read(tmp_path / "a.jsonl", GOOD + "\n{\n")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read: No such file"):
        list(read_records(tmp_path / "none.jsonl", Verdict))


def test_a_torn_tail_is_cut_and_damage_before_it_is_not_forgiven(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_rows(path, [{"a": 1}, {"a": 2}])
    full = path.read_bytes()
    path.write_bytes(full + b'{"a": 3')
    assert recover_rows(path) == [{"a": 1}, {"a": 2}]
    assert path.read_bytes() == full
    path.write_bytes(b'{"a"\n' + full)
    with pytest.raises(DataError, match=r"rows\.jsonl:1: broken line"):
        recover_rows(path)


def test_nothing_is_recovered_from_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert recover_rows(tmp_path / "none.jsonl") == []
