"""A program with all that it starts: `python -m factory.sampling.keeper COMMAND...`

All of it ends with the program, and with the process that started this one. vLLM's server that is
killed leaves its engine, which would hold the memory of a GPU for ever.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from factory.core.interpreter import adopt_orphans, die_with_parent

END_SECONDS = 20.0
"""For an orderly end."""


def main(command: Sequence[str]) -> int:
    """Run a command; its exit status, 128 and the number of the signal that killed it."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    die_with_parent(signal.SIGTERM)
    adopt_orphans()
    try:
        with subprocess.Popen(command, preexec_fn=die_with_parent) as program:
            try:
                status = program.wait()
            finally:
                program.terminate()
                try:
                    program.wait(END_SECONDS)
                except subprocess.TimeoutExpired:
                    program.kill()
    finally:
        _end_children()
    return status if status >= 0 else 128 - status


def _end_children() -> None:
    """Kill what is left, which are children of this process once their parents are gone."""
    while True:
        for pid in _children():
            os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has gone meanwhile
        if parent == os.getpid():
            yield int(path.parent.name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
