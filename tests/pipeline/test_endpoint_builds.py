"""Stages that ask a served model, built from the command line: an evaluation and traces."""

import re
from pathlib import Path

import pytest
from building import MACHINE, sealed
from click.testing import Result
from endpoint_server import Body, Fault, serving
from typer.testing import CliRunner

from factory.building import suite
from factory.cli import app
from factory.core.jsonl import read_records
from factory.core.records import Score, Trace

pytestmark = pytest.mark.usefixtures("warm_builds")

KEY = "sk-secret-0123456789"
PROTOCOL = """
description: one answer
prompt: {style: chat}
sampling: {temperature: 0.0, top_p: 1.0, max_new_tokens: 20}
samples: 0
greedy: true
"""
SUMS = """
    kind: problems
    sources:
      - {type: reasoning_gym, family: chain_sum, train: 4, held_out: 6}
"""
SUITE = f"""
description: sums
protocol: tiny
problems:
  sums: {SUMS}
benchmarks:
  - {{name: sums, problems: sums}}
"""
RECIPE = f"""
name: taught
stages:
  teacher:
    kind: model
    source: {{type: endpoint, url: URL, name: teacher}}
  sums: {SUMS}
  traces: {{kind: generate, model: teacher, problems: sums, samples: 2}}
  told: {{kind: rewrite, model: teacher, traces: traces, problems: sums}}
"""


def add_up(body: Body) -> str:
    """The right answer to a sum, or a draft of it told again."""
    requested = body["messages"][-1]["content"]
    if draft := re.search(r"^Answer: (.*)$", requested, re.MULTILINE):
        thoughts = "I take the numbers of the question one by one, and so I find the answer."
        return f"<think> {thoughts} </think> <answer> {draft[1]} </answer>"
    signs = re.findall(r"([+-]?) ?(\d+)", requested.rpartition("problem: ")[2].partition("=")[0])
    total = sum(-int(number) if sign == "-" else int(number) for sign, number in signs)
    return f"<think> I add them up. </think> <answer> {total} </answer>"


def factory(store: Path, verb: str, what: str, url: str, most: float, *, given: str = "") -> Result:
    entry = f"{{url: {url}, key_env: TEACHER_KEY, price_in: 0, price_out: 1000000"
    machine = store / "machine.yaml"
    limits = f"{entry}, most_spend: {most}, first_wait: 0.01, concurrency: 2}}"
    machine.write_text(f"{MACHINE}endpoints: [{limits}]\n", encoding="utf-8")
    arguments = [verb, what, "--store", str(store), "--machine", str(machine)]
    arguments += [] if verb == "chat" else ["--plain"]
    if verb == "eval":
        arguments += ["--suite", "sums"]
    runner = CliRunner(env={"COLUMNS": "220", "TEACHER_KEY": KEY})
    return runner.invoke(app, arguments, input=given, catch_exceptions=False)


def test_a_served_model_is_measured_and_taught_from_within_its_limit_and_without_its_key_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("protocols/tiny", PROTOCOL), ("suites/sums", SUITE)):
        path = tmp_path / "evals" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(suite, "EVALS", tmp_path / "evals")
    store = tmp_path / "store"
    store.mkdir()
    with serving(add_up) as server:
        model = f"{server.url}#teacher#2026-11"
        # An answer has 9 words, at most 20, and a word costs 1: 18 are spent after two, 38 are not.
        stopped = factory(store, "eval", model, server.url, 37.0)
        assert stopped.exit_code == 2, stopped.output
        assert "spend limit: 18 of 37 is spent" in stopped.output
        assert (server.answered, server.keys) == (2, {f"Bearer {KEY}"})
        done = factory(store, "eval", model, server.url, 1000.0)
        assert done.exit_code == 0, done.output
        assert server.answered == 6
        source = {"url": server.url, "name": "teacher", "as_of": "2026-11"}
        assert source.items() <= sealed(store)["teacher"].manifest.config["source"].items()

        path = tmp_path / "recipe.yaml"
        path.write_text(RECIPE.replace("URL", server.url), encoding="utf-8")
        built = factory(store, "build", str(path), server.url, 10000.0)
        assert built.exit_code == 0, built.output
        requested = len(server.requests)
    made = sealed(store)
    scores = read_records(made["eval_teacher"].file("scores.jsonl"), Score)
    assert [(score.value, score.n) for score in scores if score.metric == "greedy"] == [(1.0, 6)]
    traces = list(made["traces"].traces())
    assert len(traces) == 8 and all(trace.verdict.is_correct for trace in traces)
    served = made["traces"].manifest.inputs["model"].fingerprint
    assert all(trace.completion_tokens == 9 and trace.model == served for trace in traces)
    messages = list(read_records(made["told"].file("traces.jsonl"), Trace))
    assert [trace.style for trace in messages] == ["rewrite"] * 8

    # The server is gone, and nothing asks for it.
    assert factory(store, "eval", model, server.url, 1.0).exit_code == 0
    assert len(server.requests) == requested
    texts = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert any(b"TEACHER_KEY" in text for text in texts)
    assert not any(KEY.encode() in text for text in texts)
    assert KEY not in stopped.output + done.output + built.output


def test_words_of_a_server_reach_the_terminal_written_out(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    hostile = "MARKED \x1b]52;c;ZWNobw==\x1b\\ \x9b2J \x08\x07\r \u202e [red]x[/red]"
    recipe = tmp_path / "served.yaml"
    fields = "{kind: model, source: {type: endpoint, url: URL, name: teacher}}"

    def answer(body: Body) -> str:
        thoughts = f"<think> {hostile} </think> <answer> {hostile} </answer>"
        return hostile if "bare" in str(body) else thoughts

    with serving(answer) as server:
        text = f"name: served\nstages:\n  teacher: {fields}\n".replace("URL", server.url)
        recipe.write_text(text, encoding="utf-8")
        assert factory(store, "build", str(recipe), server.url, 1e6).exit_code == 0
        said = factory(store, "chat", "teacher", server.url, 1e6, given="2+2?\nbare?\n").output
        server.faults.append(Fault(403, text=hostile))
        refused = factory(store, "chat", "teacher", server.url, 1e6, given="3+3?\n").output
    for output, times in ((said, 3), (refused, 1)):
        assert output.count("MARKED") >= times and "[red]x[/red]" in output, output
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", output)
        assert "⟨U+001B⟩]52;c;ZWNobw==⟨U+001B⟩" in output and "⟨U+202E⟩" in output
