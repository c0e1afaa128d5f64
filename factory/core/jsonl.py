"""JSON Lines: strict reading that names file and line, atomic writing, crash-safe appending."""

import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from factory.core.errors import DataError
from factory.core.files import naming

R = TypeVar("R", bound=BaseModel)


def read_records(path: Path, record: type[R]) -> Iterator[R]:
    """Records of a JSONL file in order; DataError names the file and line of a bad one."""
    for number, line in _lines(path):
        yield parse_record(line, record, f"{path}:{number}")


def parse_record(line: str | bytes, record: type[R], where: str) -> R:
    """The record of one line; DataError says where it stands and what is wrong with it."""
    try:
        _check_numbers(line)
        return record.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "line"
        raise DataError(f"{where}: {field[:200]}: {first['msg'][:500]}") from error
    except _NoNumberError as error:
        raise DataError(f"{where}: {error}") from error


_PLAIN = bytes.maketrans(b"123456789E", b"000000000e")


def _check_numbers(line: str | bytes) -> None:
    """ValueError for numbers that are none, or that no float can hold: JSON has no such."""

    def refused(text: str) -> float:
        if not math.isfinite(value := float(text)):
            raise _NoNumberError(f"{text[:20]} is no number of JSON")
        return value

    plain = line if isinstance(line, bytes) else line.encode("utf-8", "surrogatepass")
    plain = plain.translate(_PLAIN)  # a regular expression for exponents takes five times as long
    if not any(map(plain.__contains__, (b"0e000", b"0e+000", b"NaN", b"Infinity"))):
        return
    try:
        json.loads(line, parse_constant=refused, parse_float=refused)
    except _NoNumberError:
        raise
    except (ValueError, RecursionError):
        return  # whoever reads the line says what else is wrong with it


class _NoNumberError(ValueError):
    pass


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if not raw.strip():
                    continue
                try:
                    yield number, raw.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(f"{path}:{number}: not UTF-8: {error.reason}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def write_records(path: Path, records: Iterable[BaseModel]) -> int:
    """Write records one a line, in the order given; returns how many."""
    count = 0
    with naming(path), path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(record.model_dump_json() + "\n")
            count += 1
    return count


def append_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append rows and force them to disk: after return they survive a kill.

    Where they find no room the file keeps none of them, since half a row would spoil the next one.
    """
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    append_bytes(path, text.encode())


def append_bytes(path: Path, data: bytes) -> None:
    """`append_rows` of lines that are bytes already."""
    with naming(path), path.open("ab", buffering=0) as file:
        end = os.fstat(file.fileno()).st_size
        done = 0
        try:
            while done < len(data):
                done += file.write(data[done:])
            os.fsync(file.fileno())
        except OSError:
            # Unless another process has appended meanwhile: its rows are not ours to cut.
            if os.fstat(file.fileno()).st_size == end + done:
                file.truncate(end)
            raise


def recover_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of an append-only file that a kill may have torn, cut back to its last whole line.

    Only the tail can be torn (appends are sequential), so a broken line before it is damage and
    raises DataError.
    """
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(recover_lines(path), start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise DataError(f"{path}:{number}: broken line: {error}") from error
    return rows


def recover_lines(path: Path) -> list[bytes]:
    """Whole lines of an append-only file, which is cut back to them; none where it is not there."""
    raw = path.read_bytes() if path.exists() else b""
    text = raw[: raw.rfind(b"\n") + 1]
    if len(text) != len(raw):
        with path.open("r+b") as file:
            file.truncate(len(text))
    return text.split(b"\n")[:-1]
