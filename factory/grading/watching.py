"""How a command behind the sandbox is watched, counted as one run, and ended."""

import os
import selectors
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from factory.core.records import Record
from factory.grading.groups import Group
from factory.grading.starting import Process
from factory.grading.usage import Meter, Usage, descendants


class Limits(Record):
    """What one run may use."""

    seconds: float = Field(default=5.0, gt=0, le=3600)
    """Processor time of all its processes together."""
    memory_mib: int = 1024
    """Address space of each process, and memory of all of them together, with what the kernel
    keeps for them. Below about 1 GiB programs with threads cannot start."""
    tmp_mib: int = 64
    processes: int = 64
    open_files: int = 256
    output_bytes: int = 1 << 20
    """Of standard output, and of standard error; more than that ends the run."""


DEFAULT = Limits()
LOOK_SECONDS = 0.05
"""Between two looks at what a run takes."""
IDLE = 1.5
"""Times `seconds`: how long a run may last that sleeps or waits for a disk."""
LOADED = 3.0
"""For each second of processor time that a run got, so many are not idle: what its children waited
for a processor is not seen once they have ended."""
PATIENCE = 10.0
"""Times `seconds`: how long a run may last that other work keeps from the processors."""
Stop = Literal["", "late", "flooded", "overfilled"]
"""Why a run was ended from here; empty where it ended by itself."""


@dataclass(frozen=True)
class Finished:
    """How a run ended."""

    status: int | None
    """Exit status, 128 + n for signal n; None if it was stopped from here."""
    stdout: bytes
    stderr: bytes
    seconds: float
    """On the clock."""
    processor: float = 0.0
    """Seconds of processor time."""
    timed_out: bool = False
    flooded: bool = False
    overfilled: bool = False
    """Its processes together took more memory than they may."""


def watched(
    process: Process,
    limits: Limits,
    *,
    beside: Sequence[int] = (),
    is_isolated: bool = True,
    group: Group | None = None,
) -> Finished:
    """Collect a process's output until it ends, its time is over or it takes too much.

    `beside` are further processes that count as the same run; `group` is the control group of all,
    if they have one. However this ends, by an exception too, the process is dead with its process
    group, and reaped.
    """
    started = time.monotonic()
    clock = Clock(Meter([process.pid, *beside], is_isolated=is_isolated, group=group), limits)
    try:
        output, stop = _collect(process, clock, limits)
        if not stop and group is not None and group.was_overfilled():
            stop = "overfilled"
    finally:
        kill_group(process.pid)
        status = process.wait()
    return Finished(
        status=None if stop else (status if status >= 0 else 128 - status),
        stdout=output[0],
        stderr=output[1],
        seconds=time.monotonic() - started,
        processor=clock.usage.seconds,
        timed_out=stop == "late",
        flooded=stop == "flooded",
        overfilled=stop == "overfilled",
    )


class Clock:
    """Says when a run's time is over: its processor time, or time in which it is idle.

    While a thread of the run is ready and has no processor, neither goes on. So a neighbour that
    takes the processors changes no verdict.
    """

    def __init__(self, meter: Meter, limits: Limits) -> None:
        self._meter, self._limits = meter, limits
        self._started = self._looked = self._excused = time.monotonic()
        self._idle = 0.0
        """Until now, but for waits that have not ended."""
        self.usage = Usage(0.0, 0.0, 0)

    def look(self) -> Stop:
        """Why the run has to end now; empty where it may go on."""
        now, before = time.monotonic(), self.usage
        self.usage = self._meter.look()
        passed = now - self._looked
        self._idle += passed - min(passed, LOADED * (self.usage.seconds - before.seconds))
        # A wait is counted by the kernel when it ends, so it excuses the looks before it too.
        if (waited := self.usage.waited - before.waited) > 0:
            self._idle = max(0.0, self._idle - min(waited, now - self._excused))
            self._excused = now
        self._looked = now
        if self.usage.memory > self._limits.memory_mib * 2**20:
            return "overfilled"
        return "late" if self.is_late() else ""

    def is_late(self) -> bool:
        """Whether one of its clocks has run out, by the last look."""
        passed = self._looked - self._started
        return (
            self.usage.seconds > self._limits.seconds
            or self._idle > IDLE * self._limits.seconds
            or passed > PATIENCE * self._limits.seconds
        )


def _collect(process: Process, clock: Clock, limits: Limits) -> tuple[tuple[bytes, bytes], Stop]:
    """(stdout, stderr), and why the run was stopped.

    Ends with the process, not with its pipes: an orphan may hold them open for ever.
    """
    streams = [stream for stream in (process.stdout, process.stderr) if stream is not None]
    collected = {stream: bytearray() for stream in streams}
    most = limits.output_bytes
    stop: Stop = ""
    watch = os.pidfd_open(process.pid)
    with ExitStack() as stack:
        stack.callback(os.close, watch)
        for stream in streams:
            stack.callback(os.close, stream)
        selector = stack.enter_context(selectors.DefaultSelector())
        for descriptor in (*collected, watch):
            os.set_blocking(descriptor, False)
            selector.register(descriptor, selectors.EVENT_READ)
        looked = time.monotonic()
        while not stop:
            ready = [key.fd for key, _ in selector.select(LOOK_SECONDS)]
            for descriptor in ready:
                if descriptor != watch and not _read_into(collected[descriptor], descriptor, most):
                    selector.unregister(descriptor)
            if watch in ready:
                for descriptor, buffer in collected.items():
                    while _read_into(buffer, descriptor, most):
                        pass
            if any(len(buffer) > most for buffer in collected.values()):
                stop = "flooded"
            elif watch in ready:
                clock.look()  # before it is reaped, its times hold those of all that it waited for
                stop = "late" if clock.is_late() else ""
                break
            elif time.monotonic() - looked >= LOOK_SECONDS:
                stop = clock.look()
                looked = time.monotonic()
    texts = [bytes(buffer[:most]) for buffer in collected.values()]
    return (b"" if process.stdout is None else texts[0], texts[-1]), stop


def _read_into(buffer: bytearray, descriptor: int, most: int) -> bool:
    """Read what is there; False at the end, where nothing is there, or past the limit."""
    if len(buffer) > most:
        return False
    try:
        part = os.read(descriptor, 65536)
    except BlockingIOError:
        return False
    buffer += part
    return bool(part)


def kill_group(pid: int) -> None:
    """Kill a process that is not reaped yet, its group, and all that came from it.

    Stopped first, so that nothing comes from it meanwhile: a sandbox that is being set up has left
    the group already, and does not yet die with its parent.
    """
    _signal(os.kill, pid, signal.SIGSTOP)
    for descendant in reversed(descendants(pid)):
        _signal(os.kill, descendant, signal.SIGKILL)
    _signal(os.killpg, pid, signal.SIGKILL)


def _signal(send: Callable[[int, int], None], pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        send(pid, number)
