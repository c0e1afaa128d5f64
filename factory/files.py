"""Small files that are kept: written whole or not at all, read or taken as absent, with a hash.

What a store keeps for itself (measurements, estimates, stamps, jobs) can be made again, so a file
of it that a full disk or a kill has spoilt must never stop a build. A manifest cannot be made
again: it carries a hash of itself.
"""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

R = TypeVar("R")

_HASH_KEY = "own_sha256"
_TAIL = re.compile(rb',\n +"own_sha256": "([0-9a-f]{64})"\n\}\n\Z')


def write_file(path: Path, text: str) -> None:
    """Make `path` hold `text`, or what it held before if anything goes wrong.

    Written beside it, forced to disk and renamed. OSError always names `path`.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        fsync(path.parent)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error


def read_file(path: Path, parse: Callable[[str], R], *, instead: str) -> R | None:
    """What `parse` makes of a file's text; None where it is not there or cannot be read.

    `parse` raises ValueError for a text that means nothing. That is noted, with what happens
    `instead`: a file that can be made again must not stop anything.
    """
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
        note(f"{path}: cannot be read ({reason}); {instead}")
        return None


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError that says no path, as those of writing to an open file, says this one."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def note(text: str) -> None:
    """Tell the user something that stops nothing; the command line prints it."""
    logging.getLogger("factory").warning("%s", text)


def fsync(path: Path) -> None:
    """Force a file's content, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def with_hash(text: str) -> str:
    """An indented JSON object with the sha256 of its text as its last entry.

    ValueError for a text that does not end as an indented object does.
    """
    body = text.removesuffix("\n}\n")
    if body == text:
        raise ValueError("not an indented JSON object")
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f'{body},\n  "{_HASH_KEY}": "{digest}"\n}}\n'


def without_hash(data: bytes) -> tuple[bytes, bool]:
    """(JSON object without the entry that `with_hash` added, whether it had one).

    ValueError where one byte is another than was written, in the entry itself too.
    """
    tail = _TAIL.search(data)
    if tail is None:
        if _HASH_KEY.encode() in data:
            raise ValueError("its own hash does not stand where it was written")
        return data, False
    body = data[: tail.start()]
    if hashlib.sha256(body).hexdigest().encode() != tail[1]:
        raise ValueError("its text is not that of its own hash (sha256)")
    return body + b"\n}\n", True
