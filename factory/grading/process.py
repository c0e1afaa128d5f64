"""A child process that answers one line with one line, under a clock, and can be killed.

What may never end or take the process with it runs there: third-party graders, users' functions.
"""

import os
import select
import subprocess
import time
from collections.abc import Sequence

from factory.core.errors import EngineError
from factory.core.interpreter import die_with_parent, module_command
from factory.grading.watching import kill_group

START_SECONDS = 120.0
"""A grading worker imports sympy and reasoning-gym before its first answer."""


class LineProcess:
    """`python -m MODULE ARGUMENTS`, which prints `ready` and then a line for each line it reads."""

    def __init__(self, module: str, arguments: Sequence[str], *, purpose: str) -> None:
        self._purpose = purpose
        process = subprocess.Popen(
            module_command(module, *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
            # One that is stuck in a long call would not see that its input has closed.
            preexec_fn=die_with_parent,
        )
        if process.stdin is None or process.stdout is None:
            raise EngineError(f"{purpose}: a worker process came without pipes")
        self._process, self._stdin, self._stdout = process, process.stdin, process.stdout
        self.reader = self._stdout.fileno()
        """File descriptor that becomes readable with an answer or with the process's death."""
        self.sent = self.expires = 0.0
        """When the last line was sent, until when its answer is waited for: monotonic seconds."""

    def wait_until_ready(self) -> None:
        """Until its imports are done; EngineError if it cannot start."""
        if self._line(time.monotonic() + START_SECONDS) != "ready":
            self.kill()
            raise EngineError(f"{self._purpose}: a worker process did not start")

    def send(self, line: bytes, *, seconds: float) -> None:
        """Send one line, whose answer may take so long."""
        self.sent = time.monotonic()
        self.expires = self.sent + seconds
        try:
            self._stdin.write(line + b"\n")
            self._stdin.flush()
        except BrokenPipeError:
            self.expires = 0.0

    def receive(self) -> tuple[str | None, str]:
        """(the answer, "") or (None, what happened to the process)."""
        line = self._line(self.expires)
        if line is not None:
            return line, ""
        status = self._process.poll()
        if status is None:
            return None, f"{self._purpose} took longer than {self.expires - self.sent:g} s"
        return None, f"the {self._purpose} process died with status {status}"

    @property
    def status(self) -> int | None:
        """Of a process that has ended: negative where a signal ended it."""
        return self._process.poll()

    def _line(self, expires: float) -> str | None:
        """One line within the time left, or None on deadline or death."""
        collected = b""
        while not collected.endswith(b"\n"):
            left = expires - time.monotonic()
            ready, _, _ = select.select([self.reader], [], [], max(0.0, left))
            part = os.read(self.reader, 65536) if ready else b""
            if not part:
                if ready:
                    self._process.wait()
                return None
            collected += part
        return collected.decode().strip()

    def kill(self) -> None:
        """End it with all that it started, the sandboxes of programs among them."""
        kill_group(self._process.pid)
        self._process.wait()
        for stream in (self._stdin, self._stdout):
            try:
                stream.close()
            except BrokenPipeError:
                continue
