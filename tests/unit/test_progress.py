"""What a build says of its time: by estimates first, then by what was seen; within the width."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

import factory.core.context as context_module
from factory.building.plan import Step, make_plan
from factory.building.recipe import load_recipe
from factory.core.context import Context
from factory.core.machine import Machine
from factory.core.records import SamplingConfig
from factory.models.tiny import save_tiny_model
from factory.sampling.blocks import ask_model, telling
from factory.sampling.sampler import Completion, Request, nobody
from factory.ui import outlook
from factory.ui.console import Console
from factory.ui.display import JsonDisplay, LiveDisplay, PlainDisplay
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


def test_a_bar_moves_with_what_an_engine_has_drawn_and_a_log_with_whole_units(
    steps: tuple[Step, ...],
) -> None:
    screen = io.StringIO()
    display = PlainDisplay(2, Console(file=screen), None, TimeLeft({steps[0].name: 80.0}, 80.0))
    display.started(steps[0], Path("run"))
    display._last[steps[0].name] -= 60.0
    event = {
        "event": "progress", "done": 2, "total": 8, "unit": "steps", "under_way": 1.75,
        "at": 2.0, "figures": {"drawn": 17},
    }  # fmt: skip
    display.event(steps[0], event)
    assert screen.getvalue().splitlines()[-1].endswith("3 of 8 steps, drawn 17")
    assert display._left.done == pytest.approx(80.0 * 3.75 / 8, abs=1e-9)


def rows_of(context: Context) -> list[dict[str, Any]]:
    assert isinstance(context.events, io.StringIO)
    return [json.loads(line) for line in context.events.getvalue().splitlines()]


def test_what_ends_within_a_call_is_told_once_a_second_and_never_beyond_the_total(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now = {"at": 100.0}
    monkeypatch.setattr(context_module.time, "monotonic", lambda: now["at"])
    context = Context(1, Machine(), tmp_path, io.StringIO())
    context.drawing()()  # nothing is known of the stage yet
    context.progress(4, 8, unit="samples", tokens=30.0)
    end = context.drawing()
    for _ in range(6):
        now["at"] += 0.5
        end()
    reached = [row.get("under_way") for row in rows_of(context)]
    # Of six that end at 0.5, 1.0, ... 3.0 seconds every second one is told; four are room for.
    assert reached == [None, 2, 4, 4]
    assert rows_of(context)[-1]["done"] == 4 and rows_of(context)[-1]["figures"] == {"tokens": 30.0}


def test_a_step_moves_by_the_share_that_its_completions_are_worth(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(context_module, "DRAWING_SECONDS", 0.0)
    context = Context(1, Machine(), tmp_path, io.StringIO())
    context.progress(3, 8, unit="steps", loss=0.5)
    end = context.drawing(0.5 / 4)
    for _ in range(4):
        end()
    _, *rows = rows_of(context)
    assert [row["under_way"] for row in rows] == [0.125, 0.25, 0.375, 0.5]
    assert rows[-1]["figures"] == {"loss": 0.5, "drawn": 4}


def test_every_completion_of_a_block_is_told_in_exact_drawing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The real decode loop: rows end one by one, in blocks of four; what is drawn is the same."""
    monkeypatch.setattr(context_module, "DRAWING_SECONDS", 0.0)
    folder = save_tiny_model(tmp_path / "model", "llama")
    machine = Machine(device="cpu", engine="transformers", threads=1, block=4, drawing="exact")
    keyed = [(str(n), Request((3, 4, 5 + n), n, limit=2 + n)) for n in range(6)]
    sampling = SamplingConfig(max_new_tokens=8)

    def draw(scratch: Path) -> tuple[list[Completion], list[float]]:
        scratch.mkdir()
        context = Context(1, machine, scratch, io.StringIO())
        completions = ask_model(
            folder, keyed, sampling, segment="s.jsonl",
            on_block=telling(context, 6, unit="samples"), context=context,
        )  # fmt: skip
        return completions, [row["done"] + row.get("under_way", 0.0) for row in rows_of(context)]

    completions, reached = draw(tmp_path / "watched")
    assert reached == [0, 1, 2, 3, 4, 4, 5, 6, 6]
    monkeypatch.setattr(Context, "drawing", lambda self, worth=1.0: nobody)
    assert draw(tmp_path / "unwatched") == (completions, [0, 4, 6])


def test_a_log_of_a_stage_whose_total_nobody_knows_is_throttled_as_any(
    steps: tuple[Step, ...],
) -> None:
    screen = io.StringIO()
    display = PlainDisplay(2, Console(file=screen), None)
    display.started(steps[0], Path("run"))
    event = {"event": "progress", "total": None, "unit": "problems", "at": 2.0, "figures": {}}
    for done in range(1, 100):
        if done == 50:
            display._last[steps[0].name] -= 60.0
        display.event(steps[0], {**event, "done": done})
    lines = [line for line in screen.getvalue().splitlines() if "problems" in line]
    assert [line.rpartition(": ")[2] for line in lines] == ["50 problems"]


def test_events_of_a_build_are_lines_of_json(steps: tuple[Step, ...]) -> None:
    screen = io.StringIO()
    display = JsonDisplay(2, Console(file=screen, width=40), None)
    _play(display, steps)
    display.waiting(steps[1], "process 7")
    rows = [json.loads(line) for line in screen.getvalue().splitlines()]
    assert [row["event"] for row in rows] == [*["started", "progress"] * 2, "waiting"]
    assert all(row["schema"] == 1 for row in rows)
    assert rows[1]["stage"] == "base" and rows[1]["figures"]["correct_share"] == 0.5
