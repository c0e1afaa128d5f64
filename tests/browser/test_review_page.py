"""The review queue in a real browser, by keyboard alone; two who decide; hostile text."""

import json
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec

import chromium
import pytest
from live_server import TOKEN, Server, open_page
from report_example import HOSTILE, trace

from factory.core.records import Trace
from factory.live.desk import Desk
from factory.live.server import application
from factory.preferences.review import Queue, key, recorded
from factory.text.chat import completion_text

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium.PROGRAM is None, reason="no chromium or google-chrome on the PATH"),
]
CARD = "document.querySelector('#review .card')"


def written(name: str, thoughts: str) -> Trace:
    fields = {
        "problem_id": name, "completion": completion_text(thoughts, "9"), "reasoning": thoughts,
        "answer": "9",
    }  # fmt: skip
    return trace(4, 0, "correct").model_copy(update=fields)


@pytest.fixture
def queue(tmp_path) -> Queue:
    traces = [
        written(name, f"Sum {name}: 4 + 5 = 9. {HOSTILE}") for name in ("one", "two", "three")
    ]
    before = {("one", 0): written("one", f"as it was {HOSTILE}")}
    return Queue(traces, tmp_path / "decisions.jsonl", 1.0, None, before)


@pytest.fixture
def server(queue, tmp_path) -> Iterator[Server]:
    own = Server(application(tmp_path, token=TOKEN, desk=Desk(queue), reviewer="ada"))
    yield own
    own.close()


opened = partial(open_page, ready="#review [data-key=a]")


def shown(words: str) -> str:
    return f"{CARD}.innerText.includes({json.dumps(words)})"


def test_a_queue_is_decided_by_keyboard_and_passed_on_for_a_blind_second_pass(
    queue, server, tmp_path
):
    with chromium.page(tmp_path / "profile") as tab:
        opened(tab, server)
        tab.wait_for(f"document.activeElement === {CARD}")
        assert tab.texts("#review .sides h3") == ["Original", "Rewritten"]
        assert tab.run(shown("as it was")) and tab.run(shown("<script>alert('model')</script>"))
        tab.press("a")
        tab.wait_for(shown("Sum two"))
        tab.press("r")
        tab.wait_for(shown("language (3)"))
        tab.press("3")
        tab.wait_for(shown("Sum three"))
        tab.press("e")
        tab.wait_for("document.activeElement.tagName === 'TEXTAREA'")
        tab.run("document.activeElement.select()")
        tab.write("I read: as edited, 9.")
        tab.press("Enter", control=True)
        tab.wait_for(shown("Nothing waits in this pass"))
        rows = recorded(queue.path)
        assert [(row.choice, row.reason, row.reviewer) for row in rows] == [
            ("accept", None, "ada"), ("reject", "language", "ada"), ("edit", None, "ada"),
        ]  # fmt: skip
        assert rows[2].reasoning == "I read: as edited, 9." and rows[2].ending == "9"
        # Another takes the second pass, and sees nothing of the first.
        tab.run("document.querySelector('#review input').select()")
        tab.run("document.querySelector('#review input').focus()")
        tab.write("bob")
        tab.choose("#review select", "second pass, blind")
        tab.wait_for(shown("Sum one"))
        assert not tab.run("document.querySelector('#review').innerText.includes('language')")
        tab.run(f"{CARD}.focus()")
        tab.press("s")
        tab.wait_for(shown("Sum two"))
        tab.press("a")
        tab.wait_for("document.querySelector('#review').innerText.includes('agree on 0% of 1')")
        assert (recorded(queue.path)[3].reviewer, recorded(queue.path)[3].review_pass) == ("bob", 2)
        planted = "document.querySelectorAll('img, iframe, main script, main [onerror]').length"
        assert tab.run(planted) == 0 and tab.messages == []


def test_letters_that_one_writes_decide_nothing_and_what_is_refused_is_said(
    queue, server, tmp_path
):
    with chromium.page(tmp_path / "profile") as tab:
        opened(tab, server)
        tab.run("document.querySelector('#review input').focus()")
        tab.press("a")
        tab.run(f"{CARD}.focus()")
        tab.press("e")
        tab.wait_for("document.activeElement.tagName === 'TEXTAREA'")
        tab.press("a")
        tab.press("Enter", control=True)
        tab.wait_for("document.querySelector('[data-part=said]').textContent.includes('not taken')")
        tab.press("Escape")
        tab.wait_for("document.querySelector('#review [data-key=a]') !== null")
        assert not queue.path.exists()
        # A refusal is the server's answer, which the browser notes by itself.
        assert all("422" in words for words in tab.messages)


def test_two_viewers_are_given_different_traces(queue, server, tmp_path):
    with chromium.page(tmp_path / "one") as first, chromium.page(tmp_path / "two") as two:
        opened(first, server)
        opened(two, server, width=360, dark=True)
        assert two.run("document.documentElement.scrollWidth") <= 360
        assert first.run(shown("Sum one")) and two.run(shown("Sum two"))
        for tab in (first, two):
            tab.run(f"{CARD}.focus()")
            tab.press("a")
            tab.wait_for(shown("Sum three"))
        assert {row.trace for row in recorded(queue.path)} == {key(t) for t in queue.traces[:2]}


@pytest.mark.skipif(
    find_spec("axe_core_python") is None, reason="axe-core-python is missing: make development"
)
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_serious(server, tmp_path, dark):
    with chromium.page(tmp_path / "profile") as tab:
        opened(tab, server, dark=dark)
        assert tab.accessibility_faults() == []
        tab.run(f"{CARD}.focus()")
        tab.press("e")
        tab.wait_for("document.activeElement.tagName === 'TEXTAREA'")
        assert tab.accessibility_faults() == []
