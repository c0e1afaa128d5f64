"""Lines of JSON with a checksum each: what the disk makes of them later is noticed.

For what an unfinished stage keeps beside its artifact, which has no hashes yet.
"""

import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from factory.core.files import note
from factory.core.jsonl import append_bytes, recover_lines


def guarded(line: bytes) -> bytes:
    """A line of JSON with a checksum behind it: whatever the disk makes of it later is noticed."""
    return b"%b\t%08x\n" % (line, zlib.crc32(line))


def unguarded(line: bytes) -> bytes | None:
    """The JSON of a guarded line; None where one byte is another than was written."""
    text = line[:-10]
    return text if guarded(text) == line else None


def append_guarded(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append rows with checksums and force them to disk, all of them or none."""
    text = (json.dumps(row, ensure_ascii=False).encode() for row in rows)
    append_bytes(path, b"".join(map(guarded, text)))


def intact_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a file of `append_guarded`; those that a kill tore or the disk changed are left out,
    the latter with a note. Whoever asks makes them again."""
    rows, lost = guarded_rows(path)
    if lost:
        note(f"{path}:{lost[0]}: {len(lost)} rows are not what was written; they are made again")
    return rows


def guarded_rows(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """(rows of a file of `append_guarded`, numbers of the lines that are not what was written).

    The file is cut back to its last whole line.
    """
    texts = [unguarded(line + b"\n") for line in recover_lines(path)]
    lost = [number for number, text in enumerate(texts, start=1) if text is None]
    return [json.loads(text) for text in texts if text is not None], lost
