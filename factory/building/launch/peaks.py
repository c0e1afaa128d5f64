"""What this processor does at best: `python -m factory.building.launch.peaks THREADS MATMUL`.

By it costs are estimated before a build. Other programs at work make a measurement too low, so how
busy the machine was is kept beside it, and a busy one is made again once the machine is quieter.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from factory.building.launch.measure import measured, resolve_matmul
from factory.core.files import read_file, write_file
from factory.core.machine import Machine, apply_matmul
from factory.core.records import Record
from factory.cost.roofline import Peaks, measure_peaks

TRIALS = 8
"""Of which the best counts; together a second."""
BUSY = 0.5
"""Programs waiting for a core, as a share of the cores, above which a measurement is too low."""


class Measured(Record):
    """Peaks of a processor and how busy it was with other work."""

    flops_per_second: float
    bytes_per_second: float
    load: float
    """Of the last minute, as a share of the cores."""

    @property
    def is_busy(self) -> bool:
        return self.load > BUSY

    @property
    def peaks(self) -> Peaks:
        return Peaks(self.flops_per_second, self.bytes_per_second)


def processor_peaks(
    machine: Machine, store: Path, announce: Callable[[], None] | None = None
) -> Measured:
    """The processor's peaks as the machine is set, from the store or measured and kept there.

    `announce` is called before a measurement.
    """
    store.mkdir(parents=True, exist_ok=True)
    machine = resolve_matmul(machine, store, announce)
    kept = store / f".peaks-{machine.thread_count()}-{machine.matmul}"
    kept_peaks = read_file(kept, Measured.model_validate_json, instead="measured again")
    if kept_peaks is not None and (not kept_peaks.is_busy or load() >= kept_peaks.load):
        return kept_peaks
    if announce is not None:
        announce()
    settings = (str(machine.thread_count()), str(machine.matmul))
    printed = measured("factory.building.launch.peaks", settings, what="this processor")
    fresh = Measured.model_validate_json(printed)
    if kept_peaks is not None and kept_peaks.flops_per_second > fresh.flops_per_second:
        return kept_peaks
    write_file(kept, fresh.model_dump_json() + "\n")
    return fresh


def load() -> float:
    """Programs that ran or waited in the last minute, as a share of the cores."""
    return os.getloadavg()[0] / len(os.sched_getaffinity(0))


def measure(machine: Machine) -> Measured:
    """The best of several trials in this process."""
    busy = load()
    import torch

    apply_matmul(machine)
    trials = [measure_peaks(torch.device("cpu"), torch.float32) for _ in range(TRIALS)]
    return Measured(
        flops_per_second=max(trial.flops_per_second for trial in trials),
        bytes_per_second=max(trial.bytes_per_second for trial in trials),
        load=round(busy, 2),
    )


if __name__ == "__main__":
    settings = {"threads": int(sys.argv[1]), "matmul": sys.argv[2]}
    sys.stdout.write(measure(Machine.model_validate(settings)).model_dump_json() + "\n")
