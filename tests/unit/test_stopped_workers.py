"""A worker that is stopped is said, once, with what lets it go on."""

import os
import signal
import subprocess
import time

from factory.pipeline import is_stopped


def test_a_stopped_process_is_told_from_one_that_runs_and_from_none() -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        assert not is_stopped(process.pid)
        os.kill(process.pid, signal.SIGSTOP)
        end = time.monotonic() + 5
        while not is_stopped(process.pid):
            assert time.monotonic() < end
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGCONT)
        while is_stopped(process.pid):
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert not is_stopped(process.pid)
