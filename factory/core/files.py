"""Small files that are kept: written whole or not at all, read or taken as absent, with a hash.

What a store keeps for itself (measurements, estimates, stamps, jobs) can be made again, so a file
of it that a full disk or a kill has spoilt must never stop a build. A manifest cannot be made
again: it carries a hash of itself.
"""

import errno
import hashlib
import io
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

R = TypeVar("R")

PIPE_SECONDS = 20
"""How long a pipe is waited for that somebody holds open."""

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


def read_bounded(path: Path, *, most: int, may_be_pipe: bool = False) -> bytes:
    """The bytes of a regular file that a user named, at most `most` + 1 of them.

    OSError where it is none, with the path: a folder, a device, a link to itself, a name with a NUL
    character. `may_be_pipe` takes a pipe that something writes to, as a shell's <(...) is.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:
        raise OSError(errno.EINVAL, "no name of a file", str(path)) from error
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISFIFO(mode) and may_be_pipe:
            first = _first_part(file, most + 1)
            if not first:
                raise OSError(errno.EPIPE, "a pipe that nothing writes to", str(path))
            os.set_blocking(descriptor, True)
        elif not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        else:
            first = b""
        parts, left = [first], most + 1 - len(first)
        while left > 0 and (part := file.read(left)):
            parts.append(part)
            left -= len(part)
    return b"".join(parts)


def _first_part(pipe: io.RawIOBase, most: int) -> bytes:
    """What a pipe has first; empty where nobody writes to it within a second, or no word comes."""
    began = time.monotonic()
    while True:
        part = pipe.read(most)  # None: somebody holds it open; empty: nobody does
        waited = time.monotonic() - began
        if part or waited > (1.0 if part is not None else PIPE_SECONDS):
            return part or b""
        time.sleep(0.02)


def check_regular(path: Path) -> os.stat_result:
    """The state of a regular file; OSError with the path for all else, before it is opened."""
    try:
        state = path.stat()
    except ValueError as error:
        raise OSError(errno.EINVAL, "no name of a file", str(path)) from error
    if not stat.S_ISREG(state.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return state


@contextmanager
def naming(path: Path) -> Generator[None]:
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
