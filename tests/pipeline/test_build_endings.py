"""However a build ends, it says so in words, and then nothing of it runs."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from building import Build, wait_until_gone

ENDLESS = ("--until", "zero", "--set", "stages.zero.steps=10000")
SECONDS = 30.0
"""Three are promised; a machine with other work needs longer to end a process."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What comes before the stage that is at work in each test."""
    store = tmp_path_factory.mktemp("endings") / "store"
    Build(store, "--until", "sums", is_warm=True).succeed()
    Build(store, "--until", "base", is_warm=True).succeed()
    return store


def at_work(store: Path) -> tuple[Build, list[int]]:
    """A build whose endless stage has done its first step, and all its processes."""
    build = Build(store, *ENDLESS, is_warm=True)
    assert build.wait_for_worker("zero"), build.output()
    end = time.monotonic() + 120
    while build.progress("zero") <= 0:
        assert time.monotonic() < end and build.is_running(), build.output()
        time.sleep(0.05)
    return build, build.descendants()


def ended(build: Build, processes: Sequence[int], *, status: int) -> str:
    """What a build said that ends now; insists that nothing of it is left."""
    text = build.finish(timeout=60)
    wait_until_gone(processes, timeout=SECONDS)
    assert build.process.returncode == status, text
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGHUP])
def test_a_build_that_is_told_to_end_says_how_to_go_on_and_keeps_its_last_step(
    store: Path, sign: signal.Signals
) -> None:
    build, processes = at_work(store)
    build.process.send_signal(sign)
    assert "go on with: factory build" in ended(build, processes, status=130)
    assert list(store.glob("zero-*.run/scratch/**/COMPLETE"))


def test_a_stopped_worker_is_said_and_ends_with_its_build(store: Path) -> None:
    build, processes = at_work(store)
    (worker,) = build.workers()
    os.kill(worker, signal.SIGSTOP)
    end = time.monotonic() + 30
    while f"kill -CONT {worker}" not in build.output():
        assert time.monotonic() < end, build.output()
        time.sleep(0.05)
    assert build.output().count("is stopped and is waited for") == 1
    build.process.send_signal(signal.SIGTERM)
    assert "go on with: factory build" in ended(build, processes, status=130)


def test_a_fork_server_that_vanishes_is_told_and_takes_all_with_it(store: Path) -> None:
    build, processes = at_work(store)
    os.kill(build.fork_server(), signal.SIGKILL)
    text = ended(build, processes, status=2)
    assert "stage zero: the process that workers are forked from was killed" in text


def test_a_worker_that_is_killed_is_told_and_takes_all_with_it(store: Path) -> None:
    build, processes = at_work(store)
    (worker,) = build.workers()
    os.kill(worker, signal.SIGKILL)
    text = ended(build, processes, status=2)
    assert "stage zero: killed from outside" in text and "lower" in text


def test_nothing_outlives_a_build_that_is_killed_beside_a_stopped_worker(store: Path) -> None:
    build, processes = at_work(store)
    (worker,) = build.workers()
    os.kill(worker, signal.SIGSTOP)
    build.process.kill()
    ended(build, processes, status=-signal.SIGKILL)
