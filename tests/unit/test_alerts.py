"""Alerts: what is told when, that text is text, and that no receiver holds a build up."""

import json
import logging
import os
import shlex
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from factory.core.errors import EngineError, RecipeError
from factory.ui.alerts import SPEND, TARGET, Alerting, alerting

STEP = SimpleNamespace(name="zero")


class Silent:
    """A display that shows nothing."""

    def __getattr__(self, name: str):
        return lambda *_: None


@pytest.fixture
def heard(monkeypatch, tmp_path) -> Path:
    """A command appends what it is told to this file."""
    target = tmp_path / "heard.jsonl"
    program = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read())"
    words = [sys.executable, "-I", "-c", program, str(target)]
    monkeypatch.setenv(TARGET, shlex.join(words))
    return target


def sent(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_end_of_a_build_is_told_to_a_command(heard):
    with alerting(Silent(), "first", None):
        pass
    assert sent(heard) == [
        {"schema": 1, "event": "finished", "recipe": "first", "stage": None,
         "text": "every stage is made"}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "event", "text"),
    [(EngineError("the disk is full"), "failed", "the disk is full"),
     (KeyboardInterrupt(), "stopped", "the build was stopped")],
)  # fmt: skip
def test_a_failure_and_a_stop_are_told_and_go_on_their_way(heard, error, event, text):
    with pytest.raises(type(error)), alerting(Silent(), "first", None):
        raise error
    assert [(row["event"], row["text"]) for row in sent(heard)] == [(event, text)]


def test_an_alarm_is_told_with_its_stage_and_a_note_is_not(heard):
    with alerting(Silent(), "first", None) as observer:
        observer.event(STEP, {"event": "note", "text": "grpo: takes TRL's pass"})
        observer.event(STEP, {"event": "note", "text": "alarm: $(touch x) \x1b[2J " + "x" * 9000})
        observer.event(STEP, {"event": "progress", "done": 1})
    alarm = next(row for row in sent(heard) if row["event"] == "alarm")
    assert len(sent(heard)) == 2 and alarm["stage"] == "zero"
    assert alarm["text"].startswith("alarm: $(touch x) ⟨U+001B⟩[2J") and len(alarm["text"]) == 2000


def test_money_is_told_of_once_when_it_is_spent(heard):
    hours = iter([0.0, 0.5, 2.5, 4.0])
    observer = Alerting(
        Silent(), "r", 2.0, target=os.environ[TARGET], spend=5.0,
        clock=lambda: 3600 * next(hours),
    )  # fmt: skip
    for _ in range(3):  # 1, 5 and 8 of money
        observer.event(STEP, {"event": "progress"})
    observer.wait()
    assert [(row["event"], row["text"]) for row in sent(heard)] == [
        ("spent", "5.00 spent; the build goes on")
    ]


@pytest.mark.parametrize("amount", ["-1", "0", "nan", "inf", "much"])
def test_an_amount_that_is_none_is_refused(heard, monkeypatch, amount):
    monkeypatch.setenv(SPEND, amount)
    with pytest.raises(RecipeError, match=SPEND), alerting(Silent(), "r", 1.0):
        pass


def test_without_a_receiver_the_display_is_left_alone(monkeypatch):
    monkeypatch.delenv(TARGET, raising=False)
    display = Silent()
    with alerting(display, "r", None) as observer:
        assert observer is display


@pytest.fixture
def address() -> Iterator[tuple[str, list[dict]]]:
    """A server on this machine: /no refuses, every other path takes."""
    bodies: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(403 if self.path == "/no" else 204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", bodies
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_address_gets_json_and_its_refusal_is_noted_without_it(address, monkeypatch, caplog):
    url, bodies = address
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for path in ("/secret-1", "/no"):
        monkeypatch.setenv(TARGET, url + path)
        with caplog.at_level(logging.WARNING, logger="factory"), alerting(Silent(), "r", None):
            pass
    assert [body["event"] for body in bodies] == ["finished", "finished"]
    assert "refused with status 403" in caplog.text and url not in caplog.text


@pytest.mark.parametrize(
    "target", ["/no/such/program", "http://127.0.0.1:1/secret", "http://[", "false"]
)
def test_a_receiver_that_is_not_there_stops_nothing(monkeypatch, caplog, target):
    monkeypatch.setenv(TARGET, target)
    with caplog.at_level(logging.WARNING, logger="factory"), alerting(Silent(), "r", None):
        pass
    assert TARGET in caplog.text and "secret" not in caplog.text


def test_a_command_that_cannot_be_read_is_refused_before_the_build(monkeypatch):
    monkeypatch.setenv(TARGET, "mail 'me")
    with pytest.raises(RecipeError, match=TARGET), alerting(Silent(), "r", None):
        pass
