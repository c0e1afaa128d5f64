"""The live page: what it says of a build's files, and whom its server answers."""

import json
import random
import socket
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_store import NAME, PlayedBuild
from mutations import dumped, mutated
from report_example import HOSTILE
from starlette.testclient import TestClient

from factory.building.builds import is_running, kept_build, kept_builds
from factory.core.blocks import Section, Text
from factory.core.errors import EngineError
from factory.live import follow
from factory.live.follow import Stream, last_rows
from factory.live.server import NAMES, Views, application, listen
from factory.live.state import State, Watcher
from factory.live.view import sections, tree
from factory.report import document


@pytest.fixture
def played(tmp_path) -> PlayedBuild:
    return PlayedBuild(tmp_path, say=HOSTILE)


def state_of(store: Path) -> State:
    watcher = Watcher(store)
    ((name, build),) = watcher.builds().items()
    return watcher.state(name, build)


def words(node: list) -> str:
    """All text of a tree."""
    return "".join(child if isinstance(child, str) else words(child) for child in node[2])


def elements(node: list) -> list[list]:
    inside = [each for child in node[2] if isinstance(child, list) for each in elements(child)]
    return [node, *inside]


def test_a_running_build_says_what_is_at_work_how_far_and_how_long_it_takes(played):
    played.step(1)
    played.step(4)
    with played.running():
        state = state_of(played.store)
    assert state.phase == "running"
    assert [stage.state for stage in state.stages] == ["made", "at work", "waiting"]
    assert (state.at_work.done, state.at_work.total, state.at_work.unit) == (4, 10, "steps")
    # 8 s for 4 of 10 steps: 12 s are left, and 30 s for the stage that waits.
    assert state.left == pytest.approx(12.0 + 30.0)
    assert state.figures["tokens_per_second"] == 432.0


def test_half_a_line_is_not_read_until_it_is_whole(played):
    played.step(1)
    with (played.run / "metrics.jsonl").open("a") as file:
        file.write('{"event": "progress", "at": 9.0, "done": 7, "total": 10')
    watcher = Watcher(played.store)
    build = watcher.builds()[NAME]
    assert watcher.state(NAME, build).stages[1].done == 1
    with (played.run / "metrics.jsonl").open("a") as file:
        file.write(', "unit": "steps", "figures": {}}\n')
    assert watcher.state(NAME, build).stages[1].done == 7


def test_a_build_without_its_lock_was_killed_and_its_command_is_named(played):
    played.step(2)
    state = state_of(played.store)
    assert state.phase == "killed" and state.left is None
    shown = words(tree("now", sections(Watcher(played.store), state)["now"]))
    assert "killed" in shown and "2 of 10 steps" in shown and "factory build first.yaml" in shown


def test_a_failure_is_an_alarm_in_its_own_words(played):
    played.event(event="error", at=1.0, kind="EngineError", message="the reward is not finite")
    played.keep("failed", "stage zero: the reward is not finite")
    state = state_of(played.store)
    assert state.phase == "failed" and state.stages[1].state == "failed"
    assert state.alarms == ("stage zero: the reward is not finite",)


def test_a_stage_that_says_nothing_for_long_is_told_of(played, monkeypatch):
    played.step(1)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 200)
    with played.running():
        assert [line for line in state_of(played.store).alarms if "no event for 200 s" in line]


def test_curves_have_every_component_and_the_held_out_accuracy(played):
    for number in range(1, 5):
        played.step(number)
    row = {"step": 2, "n": 8, "accuracy": 0.25}
    (played.scratch / "watch.jsonl").write_text(json.dumps(row) + "\n")
    with played.running():
        state = state_of(played.store)
    shown = words(tree("curves", sections(Watcher(played.store), state)["curves"]))
    for title in ("Reward by component", "accuracy", "KL to the reference", "Held-out accuracy"):
        assert title in shown


def test_the_latest_answers_come_first_with_verdict_and_rewards(played):
    for number in range(1, 12):
        played.step(number)
    with played.running():
        state = state_of(played.store)
    answers = sections(Watcher(played.store), state)["rollouts"]
    shown = words(tree("rollouts", answers))
    assert [sample.label for sample in answers.blocks[0].samples] == [
        f"step {number}: accuracy 1" for number in range(11, 3, -1)
    ]
    assert "✓ correct" in shown and "<img src=x onerror=alert(1)>" in shown


def test_hostile_text_is_text_in_every_section(played):
    played.say = f"{HOSTILE}\x1b]52;c;aGk=\x07\u2066\ufffe\ud800"
    played.step(1)
    played.event(event="note", at=1.0, text=f"alarm {played.say}")
    (played.run / "log.txt").write_bytes(b"\x1b[2J\xff<img src=x onerror=alert(1)>\n")
    played.recipe = HOSTILE
    played.keep()
    with played.running():
        state = state_of(played.store)
        made = sections(Watcher(played.store), state)
    nodes = [node for name, section in made.items() for node in elements(tree(name, section))]
    assert not {node[0] for node in nodes} & {"script", "img", "iframe", "a", "style"}
    assert not [key for node in nodes for key in node[1] if key.startswith("on") or key == "style"]
    shown = " ".join(words(tree(name, section)) for name, section in made.items())
    assert "<script>alert('model')</script>" in shown and "⟨U+202E⟩" in shown
    assert not set(shown) & set("\x1b\x07\u202e\u2066\ud800")


@given(st.text(max_size=60))
def test_any_text_is_a_tree_whose_words_are_that_text(text):
    # Python may hold what no page does: it is written out, never an error.
    json.dumps(tree("now", Section(text, (Text(text),)))).encode("ascii")


def test_an_answer_of_ten_megabytes_is_cut_and_longer_ones_are_told_of(played):
    played.say = "7" * 10_000_000
    played.step(1)
    with played.running():
        watcher = Watcher(played.store)
        state = watcher.state(NAME, watcher.builds()[NAME])
        shown = json.dumps(tree("rollouts", sections(watcher, state)["rollouts"]))
    assert "too long to be shown" in shown and len(shown) < 20_000


def test_a_long_stream_is_kept_in_bounded_memory_and_its_last_row_is_there(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {number}}}\n' for number in range(100_000)))
    stream = Stream(path)
    rows = stream.read()
    assert len(rows) <= follow.MOST_ROWS + 1
    assert (rows[0]["step"], rows[-1]["step"]) == (0, 99_999)
    with path.open("a") as file:
        file.write('{"step": 100000}\n{"torn')
    assert stream.read()[-1]["step"] == 100_000


def test_a_file_that_begins_anew_is_read_anew(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    stream = Stream(path)
    assert len(stream.read()) == 2
    path.write_text('{"step": 7}\n')
    assert [row["step"] for row in stream.read()] == [7]
    path.unlink()
    assert [row["step"] for row in stream.read()] == [7]


@pytest.mark.parametrize("line", ["[1]", "nonsense", "{" * 5000, '"text"', ""])
def test_what_is_no_object_is_left_out(tmp_path, line):
    path = tmp_path / "x.jsonl"
    path.write_text(f'{line}\n{{"step": 1}}\n')
    assert Stream(path).read() == [{"step": 1}]
    assert last_rows(path, 2)[0] == [{"step": 1}]


def test_a_build_is_kept_while_it_runs_and_with_how_it_ended(tmp_path):
    def keep():
        return kept_build(tmp_path, (), "r", command="c", price=None)

    with keep():
        ((name, build),) = kept_builds(tmp_path).items()
        assert build.outcome is None and is_running(tmp_path, name)
    assert kept_builds(tmp_path)[name].outcome == "finished" and not is_running(tmp_path, name)
    with pytest.raises(EngineError), keep():
        raise EngineError("the disk")
    newest = next(iter(kept_builds(tmp_path).values()))
    assert (newest.outcome, newest.message) == ("failed", "the disk")
    with pytest.raises(KeyboardInterrupt), keep():
        raise KeyboardInterrupt
    assert next(iter(kept_builds(tmp_path).values())).outcome == "stopped"


def test_a_half_written_file_of_a_build_hides_no_other(played):
    (played.store / ".builds" / "20270101T000000000000-1.json").write_text('{"recipe": "x", ')
    assert list(Watcher(played.store).builds()) == [NAME]


@pytest.fixture
def client(played) -> TestClient:
    return TestClient(application(played.store, token="right"), base_url="http://127.0.0.1:8765")


@pytest.mark.parametrize(
    "path", ["/", "/changes", "/?token=", "/?token=wrong", "/?token=righ\u0442"]
)
def test_whoever_has_no_token_gets_nothing(client, path):
    answer = client.get(path)
    assert answer.status_code == 403 and "zero" not in answer.text


def test_another_host_is_refused(client):
    assert client.get("/?token=right", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/?token=right", headers={"Host": "localhost:9000"}).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_written(client, method):
    assert client.request(method, "/?token=right").status_code == 405


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/%2e%2e/x", "/zero-aaaaaaaaaaaa.run/log.txt"]
)
def test_no_file_is_served(client, path):
    assert client.get(f"{path}?token=right").status_code == 404


def test_the_page_loads_nothing_and_speaks_to_its_own_server_alone(client):
    answer = client.get("/?token=right")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-frame-options"] == "DENY"
    assert (
        "default-src &#39;none&#39;" in answer.text and "connect-src &#39;self&#39;" in answer.text
    )
    script = (document.FOLDER / "live.js").read_text(encoding="utf-8")
    assert not any(word in script for word in ("innerHTML", "eval(", "insertAdjacent", "fetch("))
    assert all(f'id="{name}"' in answer.text for name in NAMES)


def test_a_port_that_is_taken_is_said_and_without_one_the_next_is_taken():
    with listen(0) as own:
        own.listen()
        number = own.getsockname()[1]
        with pytest.raises(EngineError, match=f"--port {number}: taken by another program"):
            listen(number)
        assert own.getsockname()[0] == "127.0.0.1"
    with pytest.raises(EngineError, match="cannot be listened on"):
        listen(70_000)


def test_the_first_free_port_is_taken_where_none_is_named(monkeypatch):
    from factory.live import server

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setattr(server, "PORT", other.getsockname()[1])
        with listen(None) as own:
            assert other.getsockname()[1] < own.getsockname()[1]


def test_any_json_in_any_file_of_a_store_leaves_a_page(played):
    for number in range(1, 4):
        played.step(number)
    played.event(event="note", at=1.0, text="a note")
    played.event(event="error", at=2.0, message="bad", kind="EngineError")
    files = [p for p in played.store.rglob("*") if p.suffix in (".json", ".jsonl")]
    assert len(files) >= 7
    draw = random.Random(3)
    for _ in range(200):
        path = draw.choice(files)
        data = path.read_bytes()
        lines = data.splitlines() if path.suffix == ".jsonl" else [data]
        at = draw.randrange(len(lines))
        lines[at] = dumped(mutated(json.loads(lines[at]), draw)).encode()
        path.write_bytes(b"\n".join(lines) + b"\n")
        assert "builds" in Views(played.store, None).of("")
        path.write_bytes(data)


def test_a_row_without_end_is_left_out_and_what_follows_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(follow, "PIECE", 1000)
    monkeypatch.setattr(follow, "LONGEST_ROW", 5000)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b": "' + b"b" * 20_000)
    stream = Stream(path)
    assert stream.read() == [{"a": 1}]
    assert len(stream._rest) <= 5000
    with path.open("ab") as file:
        file.write(b'"}\n{"c": 3}\n')
    assert stream.read() == [{"a": 1}, {"c": 3}]


@pytest.mark.parametrize("folder", ["../elsewhere", "/etc", "a/b", "..", ""])
def test_no_build_names_a_folder_outside_its_store(played, folder):
    path = played.store / ".builds" / f"{NAME}.json"
    path.write_text(path.read_text().replace("base-aaaaaaaaaaaa", folder))
    assert kept_builds(played.store) == {}
