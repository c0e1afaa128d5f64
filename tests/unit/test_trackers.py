"""Trackers get the figures of a build, go on in the same run, and disturb nothing."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from factory.core.errors import RecipeError
from factory.core.machine import Machine
from factory.tracking import child
from factory.tracking.mirror import FOLDER, Mirror, Tracker, missing_library, tracking

FAKE = """
import json, os, time
OUT = os.environ["FAKE_OUT"]
def say(**row):
    with open(OUT, "a") as file:
        file.write(json.dumps(row) + "\\n")
class Run:
    def log(self, values, step): say(step=step, values=values)
    def finish(self): say(finish=True)
def init(project, name, config, resume, **settings):
    say(project=project, name=name, config=config, resume=resume, environ=dict(os.environ))
    if os.environ.get("FAKE") == "raise":
        raise ValueError("this tracker is broken")
    while os.environ.get("FAKE") == "hang":
        time.sleep(60)
    return Run()
"""
STEP = cast(Any, SimpleNamespace(name="zero", kind="grpo", fingerprint="ab" * 16))


class Display:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def reused(self, step: Any, artifact: Any) -> None: ...
    def started(self, step: Any, folder: Path) -> None: ...
    def event(self, step: Any, event: Mapping[str, Any]) -> None:
        self.events.append(event)

    def made(self, step: Any, artifact: Any) -> None:
        self.events.append("made")

    def waiting(self, step: Any, holder: str) -> None: ...


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a stand-in for trackio writes how it was called."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "trackio.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lib"))
    monkeypatch.setenv("FAKE_OUT", str(tmp_path / "calls"))
    return tmp_path / "calls"


def rows(calls: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in calls.read_text().splitlines()]


def a_build(display: Display, tracker: Tracker) -> None:
    """A stage of two steps."""
    mirror = Mirror(display, "my recipe", [tracker])
    mirror.started(STEP, Path("x"))
    for number in (1, 2):
        mirror.event(STEP, {"event": "note", "text": "the model says: sk-secret"})
        values = {"reward": number / 4, "bad": float("nan")}
        mirror.event(STEP, {"event": "metrics", "step": number, "values": values})
    progress = {"event": "progress", "done": 4, "total": 4, "unit": "steps", "figures": {"kept": 3}}
    mirror.event(STEP, progress)
    manifest = SimpleNamespace(metrics={"loss": 0.5}, seconds=2.0, peak_memory_gib=1.0)
    mirror.made(STEP, cast(Any, SimpleNamespace(manifest=manifest)))
    tracker.close()


def test_figures_arrive_in_order_and_nothing_else_does(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {
        "OPENAI_API_KEY": "a",
        "HF_TOKEN": "b",
        "FACTORY_ALERT": "c",
        "TRACKIO_SPACE_ID": "d",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    display = Display()
    a_build(display, Tracker("trackio", tmp_path / "store"))
    begun, *logged, end = rows(calls)
    assert (begun["project"], begun["name"]) == ("my_recipe", f"zero-{'ab' * 6}")
    assert begun["config"] == {
        "recipe": "my recipe", "stage": "zero", "kind": "grpo", "fingerprint": "ab" * 16,
    }  # fmt: skip
    assert begun["resume"] == "allow"
    assert {key: begun["environ"].get(key) for key in secrets} == {
        "OPENAI_API_KEY": None, "HF_TOKEN": "b", "FACTORY_ALERT": None, "TRACKIO_SPACE_ID": "d",
    }  # fmt: skip
    made = {"made.loss": 0.5, "made.seconds": 2.0, "made.peak_memory_gib": 1.0}
    assert [(row["step"], row["values"]) for row in logged] == [
        (1, {"reward": 0.25}), (2, {"reward": 0.5}), (4, {"done_steps": 4.0, "kept": 3.0}),
        (0, made),
    ]  # fmt: skip
    assert end == {"finish": True}
    assert "sk-secret" not in calls.read_text()
    assert len(display.events) == 6


def test_a_resumed_stage_goes_on_in_the_same_run(calls: Path, tmp_path: Path) -> None:
    for _ in range(2):
        a_build(Display(), Tracker("trackio", tmp_path / "store"))
    assert len({row["name"] for row in rows(calls) if "name" in row}) == 1


@pytest.mark.parametrize("fault", ["raise", "hang"])
def test_a_tracker_that_fails_or_hangs_disturbs_nothing(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, fault: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("FAKE", fault)
    monkeypatch.setattr("factory.tracking.mirror.WAITING", 50)
    display = Display()
    tracker = Tracker("trackio", tmp_path / "store", seconds=30.0 if fault == "raise" else 1.0)
    mirror = Mirror(display, "r", [tracker])
    values = {f"long name of a figure {number}": 0.5 for number in range(100)}
    slowest = 0.0
    for number in range(2000):  # far more than the queue and the pipe hold
        began = time.thread_time()
        mirror.event(STEP, {"event": "metrics", "step": number, "values": values})
        slowest = max(slowest, time.thread_time() - began)
    tracker.close()
    assert len(display.events) == 2000 and slowest < 1.0
    said = {"raise": "failed, and the build did not", "hang": "did not come to its end"}[fault]
    assert said in caplog.text
    assert "ValueError" in (tmp_path / "store" / "trackio.log").read_text() or fault == "hang"


def test_a_library_that_is_not_there_is_named_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factory.tracking.mirror.find_spec", lambda name: None)
    machine = Machine(trackers=("wandb", "trackio"))
    with (
        pytest.raises(RecipeError, match=r"wandb is not installed; pip install 'distill-factory"),
        tracking(Display(), "r", tmp_path, machine),
    ):
        raise AssertionError
    assert missing_library("mlflow") is not None
    assert not (tmp_path / FOLDER).exists()


def test_without_trackers_the_display_is_itself(tmp_path: Path) -> None:
    display = Display()
    with tracking(display, "r", tmp_path, Machine()) as observer:
        assert observer is display
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_mlflow_takes_every_name_of_a_figure() -> None:
    names = ["seconds", "seconds/train", "pass@1"]
    assert [child._plain(name) for name in names] == ["seconds", "seconds.train", "pass_at_1"]
