"""The review queue of the live page: what it shows, whom it lets decide, and what it refuses."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from report_example import HOSTILE, trace
from starlette.testclient import TestClient

from factory.core.records import Trace
from factory.live.desk import Desk
from factory.live.server import application
from factory.preferences.review import Queue, key, recorded
from factory.text.chat import completion_text

ADDRESS = "http://127.0.0.1:8765"
GOOD = {"X-Token": "right", "Origin": ADDRESS, "Content-Type": "application/json"}


def rewritten(name: str, thoughts: str = "I add: 4 + 5 = 9.") -> Trace:
    given = {
        "problem_id": name,
        "completion": completion_text(thoughts, "9"),
        "reasoning": thoughts,
        "answer": "9",
    }
    return trace(4, 0, "correct").model_copy(update=given)


SECOND: dict[str, Any] = {"pass": "2"}
TRACES = [rewritten(name) for name in "abc"]


@pytest.fixture
def queue(tmp_path) -> Queue:
    before = {("a", 0): rewritten("a", f"as it was {HOSTILE}")}
    return Queue(TRACES, tmp_path / "made" / "mine.jsonl", 1.0, None, before)


@pytest.fixture
def client(queue, tmp_path) -> TestClient:
    app = application(tmp_path, token="right", desk=Desk(queue), reviewer="ada")
    return TestClient(app, base_url=ADDRESS)


def sent(name: Any = "a", **fields: Any) -> dict[str, object]:
    return {
        "trace": key(rewritten(name)), "reviewer": "ada", "review_pass": 1, "choice": "accept",
        **fields,
    }  # fmt: skip


def decide(client: TestClient, headers: Any = GOOD, **fields: Any):
    return client.post("/decisions", content=json.dumps(sent(**fields)), headers=headers)


def waiting(client: TestClient, **query: str) -> dict:
    return client.get(
        "/queue", params={"reviewer": "ada", "viewer": "1", **query}, headers=GOOD
    ).json()


def test_the_original_stands_beside_the_rewritten_text_and_both_are_text(client):
    view = waiting(client)
    assert (view["waiting"], view["traces"], view["decided"]) == (3, 3, 0)
    item = view["item"]
    assert item["thoughts"] == "I add: 4 + 5 = 9." and item["ending"] == "9"
    assert item["original"].startswith("as it was") and "⟨U+202E⟩" in item["original"]
    assert not set(item["original"]) & set("\x1b\u202e")
    assert waiting(client, after=item["trace"])["item"]["original"] is None


def test_decisions_go_into_the_file_that_factory_review_reads(client, queue):
    assert decide(client).json() == {"said": "Recorded."}
    assert decide(client, name="b", choice="reject", reason="language").status_code == 200
    edit = {"choice": "edit", "reasoning": "I add 4 and 5: 9.", "ending": "9"}
    assert decide(client, name="c", **edit).status_code == 200
    rows = [row.model_dump(exclude_defaults=True) for row in recorded(queue.path)]
    assert [row["choice"] for row in rows] == ["accept", "reject", "edit"]
    assert rows[2]["reasoning"] == "I add 4 and 5: 9." and queue.pending(1) == []
    view = waiting(client)
    assert view["item"] is None and (view["decided"], view["second"]) == (3, 3)


def test_the_second_pass_is_anothers_and_shows_nothing_of_the_first(client):
    decide(client, choice="reject", reason="unsafe", note="my secret reason")
    assert waiting(client, **SECOND)["item"] is None  # ada decided it herself
    view = waiting(client, **SECOND, reviewer="bob")
    assert view["item"]["trace"] == key(TRACES[0])
    assert "unsafe" not in json.dumps(view) and "secret" not in json.dumps(view)
    assert "second pass is for what another" in decide(client, review_pass=2).json()["fault"]
    assert (
        "second pass is for what another" in decide(client, name="b", review_pass=2).json()["fault"]
    )
    assert decide(client, review_pass=2, reviewer="bob").status_code == 200
    assert "agree on 0% of 1 traces" in waiting(client)["agreement"]


def test_two_viewers_are_given_different_traces_and_lose_no_decision(client, queue):
    first, second = waiting(client), waiting(client, viewer="2", reviewer="bob")
    assert first["item"]["trace"] != second["item"]["trace"]
    names = ["ada", "bob"] * 10
    with ThreadPoolExecutor(8) as threads:
        said = list(threads.map(lambda name: decide(client, reviewer=name).json()["said"], names))
    assert len(recorded(queue.path)) == 20 and "Recorded." in said
    assert any("both are in the file" in text for text in said)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-Token": "wrong"}, 403),
        ({"X-Token": ""}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "http://localhost:8765"}, 403),
        ({"Content-Type": "text/plain"}, 403),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "evil.example"}, 400),
    ],
)
def test_only_a_page_of_this_server_can_decide(client, queue, headers, status):
    assert decide(client, headers={**GOOD, **headers}).status_code == status
    assert not queue.path.exists()


def test_a_token_in_the_address_alone_decides_nothing(client, queue):
    headers = {name: value for name, value in GOOD.items() if name != "X-Token"}
    answer = client.post("/decisions?token=right", content=json.dumps(sent()), headers=headers)
    assert answer.status_code == 403 and not queue.path.exists()
    assert client.get("/decisions?token=right").status_code == 405
    assert client.get("/queue").status_code == 403


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"reviewer": ""}, "at least 1 character"),
        ({"reviewer": "x" * 201}, "at most 200"),
        ({"name": "unknown"}, "no trace of this queue"),
        ({"choice": "reject"}, "a reason is given"),
        ({"choice": "delete"}, "not taken"),
        ({"review_pass": 3}, "not taken"),
        ({"more": 1}, "not taken"),
        ({"note": "half \ud800"}, "not taken"),
        ({"choice": "edit", "reasoning": "I add: 4 + 5 = 9.", "ending": "9"}, "was changed"),
        ({"choice": "edit", "reasoning": "so </think> <answer>", "ending": "9"}, "not taken"),
    ],
)  # fmt: skip
def test_what_is_no_decision_is_refused_in_words(client, queue, fields, words):
    answer = decide(client, **fields)
    assert answer.status_code == 422 and words in answer.json()["fault"]
    assert not queue.path.exists()


def test_a_flood_is_refused_and_a_broken_file_is_named(client, queue):
    answer = client.post("/decisions", content=b"x" * 3_000_000, headers=GOOD)
    assert answer.status_code == 413
    queue.path.parent.mkdir()
    queue.path.write_text('{"trace": "x"}\n')
    assert "mine.jsonl:1" in decide(client).json()["fault"]
    assert "mine.jsonl:1" in waiting(client)["fault"]
    queue.path.write_text('{"trace": "half')
    assert waiting(client)["decided"] == 0
    assert decide(client).status_code == 200 and len(recorded(queue.path)) == 1


def test_an_answer_of_megabytes_is_cut_and_not_to_be_edited(tmp_path):
    long = rewritten("a", "7" * 2_000_000)
    desk = Desk(Queue([long], tmp_path / "x.jsonl", 1.0, None))
    item = desk.view(reviewer="ada", review_pass=1, viewer="1")["item"]
    assert len(item["thoughts"]) == 200_000 and not item["editable"]
    assert desk.decide(json.dumps(sent() | {"trace": key(long)}).encode()) == "Recorded."


def test_without_a_desk_the_page_takes_no_decision(tmp_path: Path):
    client = TestClient(application(tmp_path, token="right"), base_url=ADDRESS)
    assert decide(client).status_code == 404 and waiting_status(client) == 404
    assert 'id="review"' not in client.get("/?token=right").text


def waiting_status(client: TestClient) -> int:
    return client.get("/queue", headers=GOOD).status_code
