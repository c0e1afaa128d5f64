"""A bound of the processor time of one mathematical verdict, in the process that grades.

Processor time, so that a busy machine changes no verdict. A timer raises in our code and in that of
the libraries; where a long call of C does not come back to Python, a second one ends the process.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from factory.core.records import Verdict

SECONDS, MOST_SECONDS = 1.4, 1.8
"""Until a comparison is given up, and until its process ends."""
AGAIN_SECONDS = 0.1
TOO_SLOW = f"not shown to be equal to the reference within {SECONDS:g} s of processor time"


class TooSlowError(BaseException):
    """No Exception, since libraries catch all of those."""


def too_slow() -> Verdict:
    """The verdict on an answer whose comparison was given up: what is not proven is not equal."""
    return Verdict(outcome="wrong", answer=None, explanation=TOO_SLOW)


@contextmanager
def bounded() -> Iterator[None]:
    """TooSlowError after SECONDS in the main thread of this process, which ends at MOST_SECONDS."""
    before = signal.signal(signal.SIGPROF, _give_up)
    signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    # Again and again: a signal that another thread takes may reach this one late, or never.
    signal.setitimer(signal.ITIMER_PROF, SECONDS, AGAIN_SECONDS)
    signal.setitimer(signal.ITIMER_VIRTUAL, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGPROF, before)


def was_ended(status: int | None) -> bool:
    """Whether a process with this status was ended by the bound."""
    return status == -signal.SIGVTALRM


def _give_up(number: int, frame: FrameType | None) -> None:
    raise TooSlowError
