"""What a build says of its time: by estimates first, then by what was seen; within the width."""

import io
import re
from pathlib import Path
from typing import Any

import pytest

from factory.plan import Step, make_plan
from factory.recipe import load_recipe
from factory.ui import outlook
from factory.ui.console import Console
from factory.ui.display import LiveDisplay, PlainDisplay
from factory.ui.outlook import TimeLeft

RECIPE = """
name: small
stages:
  base: {kind: model, source: {type: tiny, architecture: llama}}
  a_stage_with_a_name_as_long_as_people_give_who_name_things_well:
    kind: problems
    sources: [{type: reasoning_gym, family: chain_sum, train: 4, held_out: 2}]
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    now = {"at": 100.0}
    monkeypatch.setattr(outlook.time, "monotonic", lambda: now["at"])
    return now


@pytest.fixture
def steps(tmp_path: Path) -> tuple[Step, ...]:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return make_plan(load_recipe(path))


def test_the_time_left_is_the_estimate_until_something_was_seen(clock: dict[str, float]) -> None:
    left = TimeLeft({"a": 60.0, "b": 40.0}, wall=100.0)
    assert left.left == 100.0
    clock["at"] += 10.0
    assert left.left == 90.0
    clock["at"] += 80.0
    assert left.left == 50.0, "a build that is late is not over in ten seconds"


def test_the_time_left_is_corrected_by_what_the_work_took(clock: dict[str, float]) -> None:
    left = TimeLeft({"a": 60.0, "b": 40.0}, wall=100.0)
    clock["at"] += 60.0
    left.progress("a", 0.5)
    # Thirty estimated seconds took sixty, so the seventy that are left take 140.
    assert left.left == pytest.approx(140.0, abs=1e-9)
    left.progress("a", 0.2)
    assert left.done == 30.0, "what is done stays done"
    left.progress("a", 1.0)
    left.progress("b", 1.0)
    assert left.left == 0.0


def test_stages_side_by_side_count_by_the_time_of_the_build(clock: dict[str, float]) -> None:
    left = TimeLeft({"a": 60.0, "b": 60.0}, wall=60.0)
    clock["at"] += 15.0
    left.progress("a", 0.25)
    left.progress("b", 0.25)
    assert left.left == pytest.approx(45.0, abs=1e-9)


def test_without_estimates_nothing_is_said(clock: dict[str, float]) -> None:
    assert TimeLeft({}, 0.0).left is None


def _play(display: PlainDisplay, steps: tuple[Step, ...]) -> None:
    for step in steps:
        display.started(step, Path("run"))
        event: dict[str, Any] = {
            "event": "progress", "done": 3, "total": 8, "unit": "samples", "at": 2.0,
            "figures": {"correct_share": 0.5, "tokens": 300.0},
        }  # fmt: skip
        display.event(step, event)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_bar_fits_its_terminal_and_tells_what_is_gone_from_what_is_left(
    width: int, steps: tuple[Step, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen = Terminal()
    expected = {step.name: 30.0 for step in steps}
    display = LiveDisplay(2, Console(file=screen, width=width), None, TimeLeft(expected, 60.0))
    _play(display, steps)
    display._bar.refresh()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    display.close()
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    assert max(map(len, lines)) <= width
    (last,) = [line for line in lines if line.startswith("all ")][-1:]
    assert re.search(r"0/2 +0:00:0\d so far, 0:00:\d\d left *$", last), last
    unit = " samples" if width >= 76 else ""
    assert any(re.search(rf"3/8{unit} +0:00:0\d so far", line) for line in lines)


def test_a_log_says_after_each_stage_what_all_still_take(steps: tuple[Step, ...]) -> None:
    screen = io.StringIO()
    expected = {step.name: 30.0 for step in steps}
    display = PlainDisplay(2, Console(file=screen), None, TimeLeft(expected, 60.0))
    monkey = pytest.MonkeyPatch()
    monkey.setattr("factory.ui.display.made_text", lambda _: "made in 1 s")
    display.made(steps[0], None)  # pyright: ignore[reportArgumentType]
    display.made(steps[1], None)  # pyright: ignore[reportArgumentType]
    monkey.undo()
    first, second = screen.getvalue().splitlines()
    assert re.search(r"made in 1 s; about [\d.]+ s left of all$", first)
    assert second.endswith("made in 1 s"), "of nothing nothing is left"


def test_a_log_says_at_once_where_a_stage_goes_on(steps: tuple[Step, ...], tmp_path: Path) -> None:
    """Other progress waits for its quarter of a minute: a job that was requeued shows its place."""
    screen = io.StringIO()
    display = PlainDisplay(2, Console(file=screen), None)
    event = {"event": "progress", "total": 8, "unit": "steps", "at": 2.0, "figures": {}}
    for step, folder in zip(steps, ("fresh", "begun"), strict=True):
        (tmp_path / folder / "scratch").mkdir(parents=True)
        if folder == "begun":
            (tmp_path / folder / "scratch" / "checkpoint-3").mkdir()
        display.started(step, tmp_path / folder)
        for done in (3, 4):
            display.event(step, {**event, "done": done})
    texts = [line.rpartition(": ")[2] for line in screen.getvalue().splitlines()]
    assert [line for line in texts if "steps" in line] == ["3 of 8 steps"]
    assert screen.getvalue().splitlines()[-1].startswith("[2/2]")
