"""Rows of data files, one after the other in bounded memory; the format is told by content.

JSON Lines, one JSON list, CSV, parquet, Arrow; compressed by gzip or Zstandard; alone, by a
pattern, or in a folder, as `datasets` saves one. Nothing is unpickled and no code is run.
"""

import csv
import glob
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal

from factory.core.errors import DataError
from factory.core.files import check_regular

Format = Literal["jsonl", "json", "csv", "parquet", "arrow"]
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".gz", ".zst")
"""Of the files of a folder that hold rows; others beside them are cards and settings."""
MAX_ROW_BYTES = 64 * 2**20
"""A longer row is left out by its place."""
MOST_BLANK = 2**20
"""Blanks between two rows: more of them are no file of rows, and may be a small packed one."""
MOST_SKIPPED = 16
"""Times the longest row: how much of a longer one is skipped."""
AT_ONCE = 64
"""Rows of a parquet or Arrow file that are in memory together."""
MOST_DIGITS = 4000
"""Of an integer: Python refuses to read a few more."""
SHOWN = 200
"""Characters of a broken row that are kept."""
_DESCRIPTIONS = ("state.json", "dataset_info.json", "dataset_dict.json")
_REFUSED = {
    b"PK\x03\x04": "a zip archive: unpack it",
    b"BZh": "compressed by bzip2: unpack it, or take gzip or Zstandard",
    b"\xfd7zXZ": "compressed by xz: unpack it, or take gzip or Zstandard",
    b"\x80\x02": "a pickle, which would run code: save it as JSON Lines or parquet",
    b"\x80\x03": "a pickle, which would run code: save it as JSON Lines or parquet",
    b"\x80\x04": "a pickle, which would run code: save it as JSON Lines or parquet",
    b"\x80\x05": "a pickle, which would run code: save it as JSON Lines or parquet",
    b"\xff\xfe\x00\x00": "UTF-32; save it as UTF-8",
    b"\xff\xfe": "UTF-16; save it as UTF-8",
    b"\xfe\xff": "UTF-16; save it as UTF-8",
    b"version https://git-lfs": "a Git LFS pointer, not the file: git lfs pull",
}
_GAP = re.compile(r"[\s,]*")
_PIECE = 1 << 16
"""Characters of a list that are read together."""
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class RawRow:
    """A row as it stands in its file."""

    file: str
    number: int
    """Its line in JSON Lines and CSV, else which row it is, from 1."""
    fields: dict[str, Any] | None
    """By column; None where it cannot be read."""
    fault: str = ""
    """Why it cannot."""
    text: str = ""
    """How a broken one begins."""
    line: bytes = b""
    """JSON that is still to be parsed, in whichever process."""

    def parsed(self) -> "RawRow":
        """This row with its fields, or why it has none."""
        if not self.line:
            return self
        try:
            return RawRow(self.file, self.number, parse_object(self.line.decode("utf-8")))
        except UnicodeDecodeError as error:
            fault, text = f"not UTF-8: {error.reason}", self.line[:SHOWN]
        except (ValueError, RecursionError) as error:
            fault, text = f"no JSON: {error}"[:SHOWN], self.line[: 4 * SHOWN]
        return RawRow(self.file, self.number, None, fault, text.decode("utf-8", "replace")[:SHOWN])

    @property
    def where(self) -> str:
        return f"{self.file}:{self.number}"


def data_files(path: str, split: str | None = None) -> list[Path]:
    """The files of a path, of a pattern or in a folder, sorted by name.

    A path is taken as it is: whoever reads it says that nothing is there. DataError where a pattern
    or a folder has no file, where a folder holds several splits and none is chosen, and for
    links that lead out of a folder.
    """
    if any(sign in path for sign in "*?[") and not Path(path).exists():
        files = [Path(name) for name in sorted(glob.glob(path, recursive=True))]
        if not files:
            raise DataError(f"{path}: no file is called like that")
        return list(chain.from_iterable(data_files(str(file), split) for file in files))
    return _of_folder(Path(path), split) if Path(path).is_dir() else [Path(path)]


def _of_folder(folder: Path, split: str | None) -> list[Path]:
    root = folder.resolve()
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix in SUFFIXES
        and file.name not in _DESCRIPTIONS
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and file.is_file()
    ]
    for file in files:
        if not file.resolve().is_relative_to(root):
            raise DataError(f"{file}: is a link that leads out of {folder}: copy the file there")
    if not files:
        raise DataError(f"{folder}: holds no file of rows ({', '.join(SUFFIXES)})")
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_of(file.relative_to(folder)), []).append(file)
    if split is None and len(by_split) > 1:
        names = ", ".join(sorted(name or "(none)" for name in by_split))
        raise DataError(f"{folder}: holds several splits: {names}; say which as `split`")
    if split is not None and split not in by_split:
        raise DataError(f"{folder}: no split {split!r}; there are {', '.join(sorted(by_split))}")
    return files if split is None else by_split[split]


def _split_of(file: Path) -> str:
    """train, validation, test, ... where the name or a folder says so; else empty."""
    words = re.split(r"[-_./]", file.as_posix().lower())
    splits = ("train", "validation", "valid", "test", "dev")
    return next((word for word in words if word in splits), "")


@contextmanager
def at_rest(files: Callable[[], Sequence[Path]]) -> Iterator[Sequence[Path]]:
    """The files; DataError names one that came, went or changed before the block ended."""
    before = _stamps(files())
    try:
        yield tuple(before)
    except (DataError, FileNotFoundError) as error:
        _check_rest(before, _stamps(files()), error)
        raise
    _check_rest(before, _stamps(files()), None)


_Stamps = dict[Path, tuple[int, int, int]]


def _stamps(files: Sequence[Path]) -> _Stamps:
    stamps: _Stamps = {}
    for file in files:
        with suppress(FileNotFoundError):
            state = file.stat()
            stamps[file] = (state.st_size, state.st_mtime_ns, state.st_ino)
    return stamps


def _check_rest(before: _Stamps, after: _Stamps, error: Exception | None) -> None:
    for file in sorted({*before, *after}):
        if before.get(file) != after.get(file):
            what = "came" if file not in before else "changed" if file in after else "went"
            raise DataError(
                f"{file}: {what} while it was read; start again when its folder is at rest"
            ) from error


def read_rows(
    path: Path, *, columns: Sequence[str] | None = None, max_row_bytes: int = MAX_ROW_BYTES
) -> Iterator[RawRow]:
    """The rows of one file in order; one that cannot be read comes as such.

    `columns` bounds what is read of parquet and Arrow files. DataError where the rest of the file
    cannot be read, with the row after which that is so.
    """
    rows = unparsed_rows(path, columns=columns, max_row_bytes=max_row_bytes)
    return (row.parsed() for row in rows)


def unparsed_rows(
    path: Path, *, columns: Sequence[str] | None = None, max_row_bytes: int = MAX_ROW_BYTES
) -> Iterator[RawRow]:
    """`read_rows` whose lines of JSON are still to be parsed."""
    number = 0
    try:
        with ExitStack() as stack:
            file, kind = _opened(path, stack)
            reader = {
                "jsonl": _json_lines,
                "json": _json_values,
                "csv": _csv,
                "parquet": _parquet,
                "arrow": _arrow,
            }[kind]
            for number, fields, fault, text in reader(file, columns, max_row_bytes):
                if isinstance(text, bytes):
                    yield RawRow(path.name, number, fields, line=text)
                else:
                    yield RawRow(path.name, number, fields, fault, text[:SHOWN])
    except DataError:
        raise
    except (OSError, EOFError, zlib.error, ValueError, csv.Error, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: cannot be read on after row {number}: {reason}") from error


_Item = tuple[int, dict[str, Any] | None, str, str | bytes]
"""Number, fields, what is wrong, how it begins; or instead of the last a line to be parsed."""


def _opened(path: Path, stack: ExitStack) -> tuple[BinaryIO, Format]:
    """The file, unpacked, and what it is."""
    check_regular(path)
    file: Any = stack.enter_context(path.open("rb"))
    head = _head(file)
    packed: Any = None
    if head.startswith(_GZIP):
        packed = stack.enter_context(gzip.GzipFile(fileobj=file))
    elif head.startswith(_ZSTD):
        import pyarrow

        packed = pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd")
    if packed is not None:
        file = stack.enter_context(io.BufferedReader(packed, 1 << 20))
        head = file.peek(64)[:64]
    kind = _format_of(path, head)
    if packed is not None and kind in ("parquet", "arrow"):
        raise DataError(f"{path}: is a packed {kind} file: unpack it, it is packed within")
    return file, kind


def _head(file: BinaryIO) -> bytes:
    head = file.read(64)
    file.seek(0)
    return head


def _format_of(path: Path, head: bytes) -> Format:
    for magic, words in _REFUSED.items():
        if head.startswith(magic):
            raise DataError(f"{path}: is {words}")
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "arrow"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    names = path.name.lower().split(".")
    if "csv" in names or "tsv" in names:
        return "csv"
    if text.startswith(b"["):
        return "json"
    if text.startswith(b"{") or not text or {"jsonl", "json", "ndjson"} & set(names):
        # A first object over several lines: values one after the other, not one a line.
        return "json" if _spans_lines(text) else "jsonl"
    raise DataError(
        f"{path}: is neither JSON Lines nor a JSON list, parquet or Arrow, and not called .csv or "
        ".tsv"
    )


def _spans_lines(text: bytes) -> bool:
    line, newline, _ = text.partition(b"\n")
    return bool(newline) and line.strip() == b"{"


def parse_object(text: str) -> dict[str, Any]:
    """A JSON object; numbers that Python cannot hold stay the text that they stand in. ValueError
    for all else."""
    value = json.loads(text, parse_float=_real, parse_int=_integer, parse_constant=_no_number)
    if not isinstance(value, dict):
        raise ValueError("is no JSON object")
    return value


def _real(text: str) -> float | str:
    return number if math.isfinite(number := float(text)) else text


def _integer(text: str) -> int | str:
    return int(text) if len(text) < MOST_DIGITS else text


def _no_number(text: str) -> str:
    raise ValueError(f"{text} is no number of JSON")


def _json_lines(file: BinaryIO, columns: Any, limit: int) -> Iterator[_Item]:
    number = blank = 0
    while raw := file.readline(limit + 1):
        number += 1
        if len(raw) > limit:
            left = MOST_SKIPPED
            while raw and not raw.endswith(b"\n"):
                raw, left = file.readline(limit), left - 1
                if not left:
                    raise ValueError(f"longer than {MOST_SKIPPED * limit} bytes")
            yield number, None, f"longer than {limit} bytes", ""
            continue
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        if raw.strip():
            blank = 0
            yield number, None, "", raw
        else:
            blank = _blank(blank, len(raw))


def _json_values(file: BinaryIO, columns: Any, limit: int) -> Iterator[_Item]:
    """Objects of a list, or one after the other, read piece by piece."""
    decoder = json.JSONDecoder(parse_float=_real, parse_int=_integer, parse_constant=_no_number)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="strict", newline="")
    buffer, at, number, is_list, is_closed = text.read(_PIECE), 0, 0, False, False
    blank = 0
    while True:
        gap = _GAP.match(buffer, at)
        if gap:
            at, blank = gap.end(), _blank(blank, gap.end() - at)
        if at == len(buffer):
            buffer, at = text.read(_PIECE), 0
            if not buffer:
                break
        elif not is_list and not number and buffer[at] == "[":
            is_list, at = True, at + 1
        elif buffer[at] == "]":
            is_closed = True
            break
        else:
            try:
                value, at = decoder.raw_decode(buffer, at)
            except json.JSONDecodeError as error:
                is_torn = error.msg.startswith("Unterminated") or error.pos > len(buffer) - SHOWN
                buffer, at = buffer[at:], 0
                more = text.read(max(_PIECE, len(buffer))) if len(buffer) <= limit else ""
                if not more or not is_torn:
                    raise ValueError(f"row {number + 1} is no JSON: {error.msg}") from error
                buffer += more
                continue
            number += 1
            blank = 0
            is_row = isinstance(value, dict)
            yield number, value if is_row else None, "" if is_row else "is no JSON object", ""
    if is_list and not is_closed:
        raise ValueError("the list is not closed")


def _csv(file: BinaryIO, columns: Any, limit: int) -> Iterator[_Item]:
    csv.field_size_limit(limit)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="strict", newline="")
    head = text.readline(limit)
    lines = chain([head], _text_lines(text, limit))
    rows = csv.DictReader(lines, delimiter="\t" if "\t" in head else ",")
    for fields in rows:
        if None in fields:
            yield rows.line_num, None, "more fields than the first line names", str(fields)
        else:
            yield rows.line_num, {k: v or None for k, v in fields.items()}, "", ""


def _text_lines(text: io.TextIOWrapper, limit: int) -> Iterator[str]:
    blank = 0
    while line := text.readline(limit + 1):
        if len(line) > limit:
            raise ValueError(f"a line is longer than {limit} bytes")
        blank = 0 if line.strip() else _blank(blank, len(line))
        yield line


def _blank(before: int, more: int) -> int:
    """Blanks since the last row; ValueError where they are too many."""
    if before + more > MOST_BLANK:
        raise ValueError(f"more than {MOST_BLANK} blanks and no row")
    return before + more


def _parquet(file: BinaryIO, columns: Sequence[str] | None, limit: int) -> Iterator[_Item]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(file.name, buffer_size=1 << 20, pre_buffer=False)
        names = [n for n in table.schema_arrow.names if columns is None or n in columns]
        batches = table.iter_batches(batch_size=AT_ONCE, columns=names)
        yield from _batched(batches)
    except (pyarrow.ArrowException, MemoryError) as error:
        raise ValueError(f"no whole parquet file: {error}") from error


def _arrow(file: BinaryIO, columns: Sequence[str] | None, limit: int) -> Iterator[_Item]:
    import pyarrow

    try:
        if file.read(6) == b"ARROW1":
            file.seek(0)
            table = pyarrow.ipc.open_file(file)
            batches = (table.get_batch(index) for index in range(table.num_record_batches))
        else:
            file.seek(0)
            batches = iter(pyarrow.ipc.open_stream(file))
        yield from _batched(
            part.select([n for n in part.schema.names if columns is None or n in columns])
            for batch in map(_whole, batches)
            for part in (batch.slice(start, AT_ONCE) for start in range(0, batch.num_rows, AT_ONCE))
        )
    except (pyarrow.ArrowException, MemoryError) as error:
        raise ValueError(f"no whole Arrow file: {error}") from error


def _whole(batch: Any) -> Any:
    """The batch, unless its offsets lead out of it: what reads it would follow them."""
    batch.validate(full=True)
    return batch


def _batched(batches: Any) -> Iterator[_Item]:
    number = 0
    for batch in batches:
        for fields in batch.to_pylist():
            number += 1
            yield number, fields, "", ""
