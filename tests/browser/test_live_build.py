"""The live page beside a real build: values change, the console stays empty, no byte is another."""

import json
import time
from pathlib import Path

import chromium
import pytest
from building import Build
from live_server import TOKEN, Server

from factory.live.server import application

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium.PROGRAM is None, reason="no chromium or google-chrome on the PATH"),
]
ARGUMENTS = ("--until", "zero", "--set", "stages.zero.steps=12")
MADE = ("base", "sums", "zero")
LIMIT = 400
"""Seconds for a build of some 15 on a machine that others use too."""


def contents(store: Path) -> dict[str, str]:
    """The hash of what each artifact holds, by name."""
    manifests = [json.loads(path.read_text()) for path in store.glob("*/manifest.json")]
    return {manifest["name"]: manifest["content"] for manifest in manifests}


def test_a_running_smoke_build_is_followed_and_not_changed(tmp_path):
    watched, alone = tmp_path / "watched", tmp_path / "alone"
    watched.mkdir()
    server = Server(application(watched, token=TOKEN))
    builds: list[Build] = []
    try:
        with chromium.page(tmp_path / "profile") as tab:
            tab.look_like(width=1280)
            tab.send("Page.navigate", url=server.address)
            builds += [Build(store, *ARGUMENTS, is_warm=True) for store in (watched, alone)]
            seen, until = [""], time.monotonic() + LIMIT
            while "finished" not in seen[-1].lower():
                assert time.monotonic() < until, seen[-1]
                now = tab.run("document.querySelector('#now').innerText")
                seen += [now] if now != seen[-1] else []
                time.sleep(0.2)
            running = [now for now in seen[1:-1] if "finished" not in now.lower()]
            # However quick the machine: a stage that loads a model is at work for seconds.
            assert len(set(running)) >= 2 and any("zero" in now for now in running), seen
            tab.wait_for("document.querySelectorAll('#curves path').length > 0")
            assert tab.messages == []
    finally:
        for build in builds:
            build.finish(LIMIT)
        server.close()
    assert [build.process.returncode for build in builds] == [0, 0]
    assert set(contents(watched)) == set(MADE) and contents(watched) == contents(alone)
