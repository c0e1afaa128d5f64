"""The errors a user can cause or repair; everything else is a bug and keeps its traceback.

A message says where, what was found, what was allowed, and what to do. The command line prints
it in a line or two, without traceback, and exits with status 2.
"""

import errno
import os
import re


class FactoryError(Exception):
    """Base of every error that is not a bug of ours."""


class RecipeError(FactoryError):
    """The recipe or the machine file is wrong.

    Lists what is wrong, a line each; of many lines the first ones, and how many more. A person
    mends those and asks again.
    """

    def __init__(self, message: str) -> None:
        lines = _ADDRESS.sub(_without_secrets, message).split("\n")
        shown: list[str] = []
        for line in lines[:MOST_LINES]:
            shown.append(line if len(line) <= LONGEST_LINE else line[: LONGEST_LINE - 3] + "...")
            if sum(map(len, shown)) > MOST_CHARACTERS:
                break
        left = len(lines) - len(shown)
        super().__init__("\n".join([*shown, f"and {left:,} more"] if left else shown))


MOST_LINES, LONGEST_LINE, MOST_CHARACTERS = 18, 500, 1500
"""Of a RecipeError."""


_ADDRESS = re.compile(r"://([^\s'\"]*)")


def _without_secrets(address: re.Match[str]) -> str:
    """An address without the name, the password and the query that may stand in it."""
    _, at, host = address[1].rpartition("@")
    host, mark, _ = host.partition("?")
    return "://" + ("...@" if at else "") + host + ("?..." if mark else "")


class ArtifactError(FactoryError):
    """Something on disk is missing, broken, locked or cannot be written."""


class DataError(FactoryError):
    """A record is malformed; the message names the file and the line."""


class EngineError(FactoryError):
    """A sampler, a trainer, a grader's sandbox or a worker process failed."""


class PluginError(FactoryError):
    """A plug-in cannot be loaded, or does what it must not; the message names it."""


class Unpriced(Exception):
    """What keeps a stage from being estimated, in words; never leaves the estimates."""


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a full disk, a quota and a limit on the size of files raise."""
REPAIRABLE = (
    *NO_ROOM, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EIO,
)  # fmt: skip
"""These, and what a folder without permission or a failing disk raises: a user's to repair."""
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "std::bad_alloc")
"""What torch, CUDA and C++ libraries say of it, in lower case."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of Python or of a library says that memory ran out."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in said for sign in OUT_OF_MEMORY)


def is_out_of_room(error: Exception) -> bool:
    """Whether an error of Python or of a library says that a disk is full, or a quota is used up.

    Libraries in C++ and Rust give the system's words in exceptions of their own.
    """
    if isinstance(error, OSError):
        return error.errno in NO_ROOM
    return any(os.strerror(number) in str(error) for number in NO_ROOM)
