"""Which pass a run of `grpo` trains with, where a measurement decides: the packed one or TRL's."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from factory.core.files import read_file, write_file
from factory.core.records import Record

Run = Callable[[], None]

FILE = "training_pass.json"
"""In the stage's scratch folder, beside the checkpoints."""
SECONDS = 1.0
"""For both passes together, more where two runs of each take longer."""
ROUNDS = 2
"""Runs of each pass at least: the first one also compiles and allocates."""


class PassChoice(Record):
    """The pass that was faster, and the least seconds that each took for one micro-batch."""

    is_packed: bool
    packed_seconds: float
    plain_seconds: float


class FasterPass:
    """Takes the faster pass at the first rollout and keeps to it.

    The passes differ in rounding, so the choice is on disk before anything is trained, and a
    resumed run reads it. `notify` is told what was taken; `figures` are for the telemetry of the
    step that measured.
    """

    def __init__(
        self,
        folder: Path,
        notify: Callable[[str], None],
        *,
        seconds_of: Callable[[Sequence[Run]], list[float]] | None = None,
    ) -> None:
        self.path = folder / FILE
        self.notify = notify
        self.seconds_of = seconds_of or least_seconds
        self._figures: dict[str, float] = {}

    def is_packed(self, packed: Run, plain: Run) -> bool:
        """Whether the packed pass is taken: only if it is faster."""
        choice = read_file(self.path, PassChoice.model_validate_json, instead="measured again")
        if choice is not None:
            when = "as measured when this run began"
        else:
            seconds = self.seconds_of([packed, plain])
            choice = PassChoice(
                is_packed=seconds[0] < seconds[1],
                packed_seconds=seconds[0],
                plain_seconds=seconds[1],
            )
            write_file(self.path, choice.model_dump_json() + "\n")
            self._figures = {
                "pass/packed_seconds": choice.packed_seconds,
                "pass/plain_seconds": choice.plain_seconds,
            }
            when = "as measured"
        name = "the packed" if choice.is_packed else "TRL's own"
        self.notify(
            f"grpo: {name} training pass, {when}: {choice.packed_seconds:.3g} s a micro-batch "
            f"packed, {choice.plain_seconds:.3g} s by TRL"
        )
        return choice.is_packed

    def take(self) -> dict[str, float]:
        """The seconds, once."""
        figures, self._figures = self._figures, {}
        return figures


def least_seconds(
    runs: Sequence[Run], *, now: Callable[[], float] = time.perf_counter
) -> list[float]:
    """The least seconds that each took, by turns for SECONDS in all and ROUNDS times at least."""
    least = [float("inf")] * len(runs)
    rounds, end = 0, now() + SECONDS
    while rounds < ROUNDS or now() < end:
        for index, run in enumerate(runs):
            start = now()
            run()
            least[index] = min(least[index], now() - start)
        rounds += 1
    return least


@contextmanager
def untouched(model: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Room for trials: gradients and random streams are afterwards what they were before."""
    kept = [(parameter, parameter.grad) for parameter in model.parameters()]
    model.zero_grad(set_to_none=True)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
        yield
    for parameter, gradient in kept:
        parameter.grad = gradient
