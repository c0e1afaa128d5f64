"""Starts programs through a small process (`forker.py`) that each process has one of."""

import atexit
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.core.errors import EngineError
from factory.grading.forker import MOST_BYTES

SOURCE = Path(__file__).with_name("forker.py").read_text(encoding="utf-8")


class Forker:
    """The small process. One request at a time; what breaks in the middle of one ends it."""

    def __init__(self, python: str) -> None:
        self._owner = os.getpid()
        self._door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [python, "-I", "-S", "-B", "-c", SOURCE],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
                env={"LANG": "C.UTF-8"},
            )

    @property
    def is_usable(self) -> bool:
        return self._door.fileno() >= 0 and self._owner == os.getpid()

    def ask(self, request: Mapping[str, Any], descriptors: Sequence[int] = ()) -> dict[str, Any]:
        """What it answers; EngineError if it has ended."""
        message = json.dumps(request).encode()
        try:
            if len(message) > MOST_BYTES:
                raise EngineError("the command of a program is too long to be started")
            socket.send_fds(self._door, [message], list(descriptors))
            answer = self._door.recv(MOST_BYTES)
            if not answer:
                raise EngineError("the process that starts programs has ended")
        except OSError as error:
            self.close()
            raise EngineError(
                f"the process that starts programs does not answer: {error}"
            ) from None
        except BaseException:
            self.close()  # else the next request would get the answer to this one
            raise
        return json.loads(answer)

    def close(self) -> None:
        """End it, and with it all that it started."""
        self._door.close()
        if self._owner == os.getpid():
            self._process.kill()
            self._process.wait()


@dataclass
class Process:
    """A program that was started; not reaped before `wait`."""

    pid: int
    stdout: int | None
    """Reads what it writes; of whoever watches it, to be closed."""
    stderr: int | None
    _forker: Forker
    _status: int | None = None

    def wait(self) -> int:
        """Its exit status once it has ended; negative where a signal ended it."""
        if self._status is None:
            with _lock:
                if self._forker.is_usable:
                    status = self._forker.ask({"reap": self.pid})["status"]
                    self._status = os.waitstatus_to_exitcode(status)
        # A program whose forker has ended was killed with it.
        return -signal.SIGKILL if self._status is None else self._status


_lock = threading.Lock()
_forkers: list[Forker] = []


def start(
    python: str,
    request: Mapping[str, Any],
    *,
    stdin: int,
    stdout: int | None = None,
    stderr: int | None = None,
    inherited: Sequence[int] = (),
) -> Process:
    """The process of a request: command, folder, environment, limits, identity, group, landlock.

    `python` runs the forker; a stream of None is a pipe of its own, and `inherited` descriptors
    keep their numbers. OSError, in the forker's words, where it cannot be limited or run.
    """
    ours: list[int | None] = []
    theirs: list[int] = []
    streams = [stdin]
    for stream in (stdout, stderr):
        reading, writing = (None, stream) if stream is not None else os.pipe()
        ours.append(reading)
        streams.append(writing)
        theirs += [] if reading is None else [writing]
    try:
        with _lock:
            forker = _usable(python)
            descriptors = {"descriptors": [0, 1, 2, *inherited]}
            answer = forker.ask({**request, **descriptors}, [*streams, *inherited])
        if "pid" not in answer:
            raise OSError(answer["failure"])
    except BaseException:
        for reading in ours:
            if reading is not None:
                os.close(reading)
        raise
    finally:
        for writing in theirs:
            os.close(writing)
    return Process(answer["pid"], ours[0], ours[1], forker)


def _usable(python: str) -> Forker:
    if not _forkers or not _forkers[0].is_usable:
        _forkers[:] = [Forker(python)]
    return _forkers[0]


@atexit.register
def _end() -> None:
    for forker in _forkers:
        with suppress(OSError):
            forker.close()
