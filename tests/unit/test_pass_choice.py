"""The measured choice between the packed pass and TRL's."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from factory.stages.grpo.pass_choice import (
    FILE,
    FasterPass,
    PassChoice,
    Run,
    least_seconds,
    untouched,
)


class Clock:
    """A clock that moves on only while something runs."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time

    def run(self, *seconds: float) -> Run:
        """Something that takes these seconds, the last ones from then on."""
        left = list(seconds)

        def run() -> None:
            self.time += left.pop(0) if len(left) > 1 else left[0]

        return run


def test_passes_take_turns_for_a_second_and_the_first_run_does_not_count() -> None:
    """Rounds of 1 + 0.5, then 0.25 + 0.25: the second one ends at 2.0, after the second."""
    clock = Clock()
    result = least_seconds([clock.run(1.0, 0.25), clock.run(0.5, 0.25)], now=clock)
    assert result == [0.25, 0.25]
    assert clock.time == 2.0


def test_short_passes_run_until_the_second_is_over() -> None:
    """A quarter second a round: four rounds, and the best of the four."""
    clock = Clock()
    result = least_seconds([clock.run(0.125, 0.125, 0.0625, 0.125), clock.run(0.125)], now=clock)
    assert result == [0.0625, 0.125]
    assert clock.time == pytest.approx(1.1875)


def taking(*seconds: float) -> Callable[[Sequence[Run]], list[float]]:
    return lambda runs: list(seconds)


def nothing() -> None:
    raise AssertionError("no pass is run here")


@pytest.mark.parametrize(
    ("seconds", "is_packed", "name"),
    [
        ((0.1, 0.2), True, "the packed"),
        ((0.2, 0.1), False, "TRL's own"),
        ((0.1, 0.1), False, "TRL's own"),
    ],
)
def test_the_packed_pass_is_taken_only_if_it_is_faster(
    seconds: tuple[float, float], is_packed: bool, name: str, tmp_path: Path
) -> None:
    notes: list[str] = []
    chooser = FasterPass(tmp_path, notes.append, seconds_of=taking(*seconds))
    assert chooser.is_packed(nothing, nothing) is is_packed
    packed, plain = seconds
    assert notes == [
        f"grpo: {name} training pass, as measured: {packed:g} s a micro-batch packed, "
        f"{plain:g} s by TRL"
    ]
    assert chooser.take() == {"pass/packed_seconds": packed, "pass/plain_seconds": plain}
    assert chooser.take() == {}, "only the step that measured has the seconds"
    kept = PassChoice.model_validate_json((tmp_path / FILE).read_text())
    assert kept == PassChoice(is_packed=is_packed, packed_seconds=packed, plain_seconds=plain)


def test_a_resumed_run_keeps_to_the_choice_and_measures_nothing(tmp_path: Path) -> None:
    FasterPass(tmp_path, lambda text: None, seconds_of=taking(0.2, 0.1)).is_packed(nothing, nothing)
    notes: list[str] = []
    resumed = FasterPass(tmp_path, notes.append)
    assert resumed.is_packed(nothing, nothing) is False
    assert "TRL's own training pass, as measured when this run began" in notes[0]
    assert resumed.take() == {}


def test_trials_leave_gradients_and_random_streams_as_they_were() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5))
    first, second = model[0].weight, model[0].bias
    first.grad = kept = torch.ones(2, 2)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with torch.no_grad(), untouched(model, torch.device("cpu")):
        assert first.grad is None
        model(torch.ones(1, 2)).sum().backward()
        assert first.grad is not None and second.grad is not None
    assert first.grad is kept and torch.equal(kept, torch.ones(2, 2))
    assert second.grad is None
    assert torch.equal(torch.rand(2), expected)
