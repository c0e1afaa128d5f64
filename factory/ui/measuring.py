"""What is said before and after the seconds in which a processor is measured."""

from factory.building.pricing import Bill
from factory.core.machine import Machine
from factory.core.readable import duration, plural
from factory.ui.console import Console


class Measuring:
    """Says once that a measurement begins."""

    def __init__(self, console: Console) -> None:
        self.has_begun = False
        self._console = console

    def __call__(self) -> None:
        if not self.has_begun:
            self._console.print("measuring this processor ...")
        self.has_begun = True


def outlook(bill: Bill | None, machine: Machine, *, is_measured: bool) -> list[str]:
    """The machine's speed and the time to expect, in words; `machine` with its threads decided.

    `is_measured` says whether the speed was measured just now. Stages without an estimate are
    named.
    """
    if bill is None:
        return ["no estimate of the time: none of the stages to be made draws or trains"]
    rate = f"{bill.speed.peaks.flops_per_second / 1e9:,.0f} GFLOP/s"
    device = "this GPU"
    if not bill.on_gpu:
        device, rate = "this processor", f"{rate} on {plural(machine.thread_count(), 'core')}"
    source = "" if is_measured else ", measured before and kept in the store"
    if machine.peaks is not None:
        source = ", as the machine file states"
    has_time = any(row.estimate is not None for row in bill.rows)
    time = f"about {_rounded(bill.seconds)}" if has_time else "no estimate of the time"
    lines = [f"{device}: {rate}{source}; {time}"]
    if bill.is_busy:
        lines.append("other programs were at work while it was measured, so it may take less")
    gaps = [f"{row.step.name} ({row.missing})" for row in bill.rows if row.missing]
    if gaps:
        lines.append(f"without an estimate, and not in this time: {', '.join(gaps)}")
    return lines


def _rounded(seconds: float) -> str:
    """`25 s`, `14 min`, `3 h 20 min`."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else duration(60 * minutes)
