"""The live page in a real browser: a played build, two who look on, hostile text, an end."""

import json
import time
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec

import chromium
import pytest
from live_server import TOKEN, Server, open_page
from live_store import PlayedBuild
from report_example import HOSTILE

from factory.live.server import application

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium.PROGRAM is None, reason="no chromium or google-chrome on the PATH"),
]


@pytest.fixture
def played(tmp_path) -> Iterator[PlayedBuild]:
    build = PlayedBuild(tmp_path / "store", say=HOSTILE)
    build.step(1)
    with build.running():
        yield build


@pytest.fixture
def server(played) -> Iterator[Server]:
    own = Server(application(played.store, token=TOKEN))
    yield own
    own.close()


opened = partial(open_page, ready="#now h2")


def text_is_there(words: str) -> str:
    return f"document.querySelector('main').innerText.includes({json.dumps(words)})"


def test_a_step_is_seen_and_half_a_line_is_not(played, server, tmp_path):
    with chromium.page(tmp_path / "profile") as tab:
        opened(tab, server)
        tab.wait_for(text_is_there("zero (grpo) at 1 of 10 steps"))
        tab.run("document.querySelector('#curves details').open = false")
        with (played.run / "metrics.jsonl").open("a") as file:
            file.write('{"event": "progress", "at": 9.0, "done": 9, "total": 10')
            file.flush()
            began = time.monotonic()
            while time.monotonic() - began < 2.5:
                assert not tab.run(text_is_there("at 9 of 10"))
                time.sleep(0.2)
            file.write(', "unit": "steps", "figures": {}}\n')
        tab.wait_for(text_is_there("at 9 of 10 steps"))
        played.step(10)
        tab.wait_for("document.querySelectorAll('#curves circle').length > 8")
        # What the reader closed stays closed.
        assert tab.run("document.querySelector('#curves details').open") is False
        assert tab.messages == []
        assert {address.partition("?")[0] for address in tab.requests} == {
            f"http://127.0.0.1:{server.port}/", f"http://127.0.0.1:{server.port}/changes",
        }  # fmt: skip


def test_two_look_on_and_a_killed_build_is_told_to_both(played, server, tmp_path):
    with chromium.page(tmp_path / "one") as first, chromium.page(tmp_path / "two") as two:
        opened(first, server)
        opened(two, server, width=360, dark=True)
        assert two.run("document.documentElement.scrollWidth") <= 360
        played.keep("failed", "stage zero: the disk is full")
        for tab in (first, two):
            tab.wait_for(text_is_there("Alarm: stage zero: the disk is full"))
            tab.wait_for(text_is_there("factory build first.yaml"))
            assert tab.messages == []


def test_hostile_text_plants_nothing(played, server, tmp_path):
    played.recipe = HOSTILE
    played.keep()
    (played.run / "log.txt").write_text(HOSTILE)
    played.event(event="note", at=1.0, text=HOSTILE)
    with chromium.page(tmp_path / "profile") as tab:
        opened(tab, server)
        tab.wait_for(text_is_there("<script>alert('model')</script>"))
        planted = "document.querySelectorAll('img, iframe, main script, main [onerror]').length"
        assert tab.run(planted) == 0
        assert tab.run("[...document.querySelectorAll('#builds a')].length") == 1
        assert tab.messages == []


def test_the_end_of_the_server_is_said(played, tmp_path):
    own = Server(application(played.store, token=TOKEN))
    with chromium.page(tmp_path / "profile") as tab:
        opened(tab, own)
        own.close()
        tab.wait_for("document.getElementById('link').textContent.startsWith('No connection')")


@pytest.mark.skipif(
    find_spec("axe_core_python") is None, reason="axe-core-python is missing: make development"
)
def test_axe_finds_nothing_serious(played, server, tmp_path):
    with chromium.page(tmp_path / "profile") as tab:
        opened(tab, server)
        assert tab.accessibility_faults() == []
