"""Reviews: what people decide, what a policy does with the rest, and how far two passes agree."""

import json
import os
import pty
import select
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from factory.building.plan import make_plan
from factory.building.recipe import load_recipe
from factory.cli import app
from factory.core.artifacts import Artifact, Inputs, seal
from factory.core.context import Context
from factory.core.errors import DataError
from factory.core.jsonl import read_records, write_records
from factory.core.machine import Machine
from factory.core.records import Outcome, Problem, SamplingConfig, Trace, Verdict
from factory.preferences.review import (
    Choice,
    Decision,
    agreement,
    key,
    needs_second_pass,
    pending,
    record,
    recorded,
    standing,
)
from factory.stages.fitness import Rejected
from factory.stages.review import STAGE, ReviewConfig, statement
from factory.text.chat import completion_text

HOSTILE = "red \x1b[31m and \u202e reversed"


def trace(name: str, reasoning: str = "I add: 4 + 5 = 9.", outcome: Outcome = "correct") -> Trace:
    return Trace(
        problem_id=name, sample=0, question="What is the sum of 4 and 5?", prompt="p",
        completion=completion_text(reasoning, "9"), reasoning=reasoning, answer="9",
        finish_reason="stop", completion_tokens=5, seed=0, sampling=SamplingConfig(),
        style="rewrite", model="m", verdict=Verdict(outcome=outcome, answer="9", explanation=""),
    )  # fmt: skip


TRACES = [trace(name) for name in "abcd"]


def decide(name: str, choice: Choice, *, by: str = "ada", second: bool = False, **more) -> Decision:
    results = {"reject": {"reason": "unreadable"}, "edit": {"reasoning": "I add.", "ending": "9"}}
    fields = {**results.get(choice, {}), **more}
    return Decision(trace=key(trace(name)), reviewer=by, review_pass=2 if second else 1,
                    choice=choice, **fields)  # fmt: skip


def sealed(folder: Path, kind: str, *, fingerprint: str = "f" * 64, name: str = "") -> Artifact:
    fields = {
        "kind": kind, "name": name or kind, "stage": kind, "stage_version": 1,
        "fingerprint": fingerprint, "config": {}, "inputs": {}, "seed": 0, "metrics": {},
        "versions": {}, "machine": {}, "commit": "", "dirty": False, "seconds": 0.0,
        "peak_memory_gib": 0.0, "created": "",
    }  # fmt: skip
    return seal(folder, folder.with_name(f"{name or kind}-{fingerprint[:12]}"), fields)


def run(tmp_path: Path, decisions: list[Decision], traces: list[Trace] = TRACES, **settings):
    for name in ("traces", "problems", "out"):
        (tmp_path / name).mkdir(parents=True)
    write_records(tmp_path / "traces" / "traces.jsonl", traces)
    problems = [
        Problem(id=t.problem_id, prompt=t.question, reference="9", kind="math", source="s")
        for t in traces
    ]
    write_records(tmp_path / "problems" / "train.jsonl", problems)
    write_records(tmp_path / "decisions.jsonl", decisions)
    values = {"decisions": str(tmp_path / "decisions.jsonl"), **settings}
    config = ReviewConfig(kind="review", traces="t", problems="p", **values)
    inputs = Inputs(
        traces=sealed(tmp_path / "traces", "traces"),
        problems=sealed(tmp_path / "problems", "problems"),
    )
    metrics = STAGE.run(config, inputs, tmp_path / "out", Context(0, Machine(), tmp_path))
    out = tmp_path / "out"
    kept = list(read_records(out / "traces.jsonl", Trace))
    rejected = list(read_records(out / "rejected.jsonl", Rejected))
    message = json.loads((out / "review.json").read_text(encoding="utf-8"))["statement"]
    return metrics, kept, {r.trace.problem_id: r.reason for r in rejected}, message


def test_decisions_are_applied_and_an_edited_trace_is_graded_again(tmp_path: Path) -> None:
    decisions = [
        decide("a", "accept"),
        decide("b", "reject"),
        decide("c", "edit", reasoning="I put them together.", ending="9"),
        decide("d", "edit", reasoning="I take them apart.", ending="8"),
        Decision(trace="0" * 16, reviewer="ada", choice="accept"),  # a trace that is gone
    ]
    metrics, kept, rejected, message = run(tmp_path, decisions, second_pass=0.0)
    assert [t.problem_id for t in kept] == ["a", "c"]
    assert kept[0] == TRACES[0]
    assert (kept[1].completion, kept[1].style) == (
        "<think> I put them together. </think> <answer> 9 </answer>", "written",
    )  # fmt: skip
    assert kept[1].verdict.is_correct
    assert rejected == {"b": "reviewer: unreadable", "d": "edit: wrong"}
    assert metrics == {
        "kept": 2, "by_person": 4, "by_policy": 0, "edited": 2,
        "rejected.edit: wrong": 1, "rejected.reviewer: unreadable": 1,
    }  # fmt: skip
    assert message == "4 of 4 traces were decided by a person"


def test_unattended_the_policy_decides_and_the_artifact_says_so(tmp_path: Path) -> None:
    traces = [trace("a"), trace("b", outcome="wrong"), trace("c", "so it goes again now " * 30)]
    metrics, kept, rejected, message = run(tmp_path / "all", [], traces, policy="accept")
    assert [t.problem_id for t in kept] == ["a", "b", "c"] and rejected == {}
    assert (metrics["by_person"], metrics["by_policy"]) == (0, 3)
    assert message == "not reviewed by a person: all 3 traces were left to the policy `accept`"
    _, kept, rejected, message = run(tmp_path / "some", [], traces, policy="filters")
    assert [t.problem_id for t in kept] == ["a"]
    assert rejected == {"b": "wrong", "c": "repetition"}
    assert "policy `filters`" in message


def test_a_policy_only_decides_what_people_left(tmp_path: Path) -> None:
    _, kept, rejected, message = run(tmp_path, [decide("a", "reject")], policy="accept")
    assert [t.problem_id for t in kept] == ["b", "c", "d"]
    assert rejected == {"a": "reviewer: unreadable"}
    assert message == (
        "1 of 4 traces were decided by a person; 3 not reviewed by a person, by the policy `accept`"
    )


def test_without_a_policy_the_stage_waits_for_people(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 of 4 traces wait for a person and 1 for a second one"):
        run(tmp_path / "first", [decide("a", "accept")])
    both = [decide(n, "accept", by=by, second=by == "bob") for n in "abcd" for by in ("ada", "bob")]
    metrics, *_ = run(tmp_path / "both", both)
    assert metrics["kept"] == 4 and metrics["agreement.share"] == 1.0
    assert "agreement.kappa" not in metrics  # all accepted twice: chance agrees always


def test_the_last_pass_and_in_a_pass_the_last_line_counts(tmp_path: Path) -> None:
    decisions = [
        decide("a", "accept"), decide("a", "reject", by="bob", second=True),
        decide("b", "reject"), decide("b", "accept"),
        decide("c", "accept"), decide("d", "accept"),
        decide("c", "accept", by="bob", second=True), decide("d", "accept", by="bob", second=True),
    ]  # fmt: skip
    metrics, kept, rejected, _ = run(tmp_path, decisions, policy="accept")
    assert [t.problem_id for t in kept] == ["b", "c", "d"] and list(rejected) == ["a"]
    # a: accept, reject; c and d: accept, accept. p_o = 2/3, p_e = 1 * 2/3 + 0 = 2/3.
    assert metrics["agreement.n"] == 3
    assert metrics["agreement.share"] == pytest.approx(2 / 3)
    assert metrics["agreement.kappa"] == pytest.approx(0.0)


def test_agreement_and_kappa_by_hand() -> None:
    # 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no: p_o = 35/50 = 0.7,
    # p_e = 25/50 * 30/50 + 25/50 * 20/50 = 0.3 + 0.2 = 0.5, kappa = 0.2 / 0.5 = 0.4.
    pairs = (
        [("accept", "accept")] * 20 + [("accept", "reject")] * 5
        + [("reject", "accept")] * 10 + [("reject", "reject")] * 15
    )  # fmt: skip
    result = agreement(pairs)
    assert (result.n, result.share) == (50, 0.7)
    assert result.kappa == pytest.approx(0.4)
    # One choice more than the two: 1 of 2 equal, p_e = 1/4, kappa = 1/3.
    assert agreement([("edit", "edit"), ("accept", "reject")]).kappa == pytest.approx(1 / 3)
    assert agreement([("accept", "reject")] * 3).kappa == 0.0
    assert agreement([("accept", "accept")]).kappa is None
    with pytest.raises(ValueError, match="no pairs"):
        agreement([])


def test_the_second_pass_is_for_other_eyes_and_for_a_share() -> None:
    decisions = standing([decide("a", "accept"), decide("b", "accept", by="bob")])

    def waiting(review_pass, **settings) -> list[str]:
        result = pending(TRACES, decisions, review_pass, **{"second_pass": 1.0, **settings})
        return [t.problem_id for t in result]

    assert waiting(1) == ["c", "d"]
    assert waiting(2) == ["a", "b"]
    assert waiting(2, reviewer="ada") == ["b"]
    assert waiting(2, second_pass=0.0) == []
    keys = [key(trace(str(n))) for n in range(1000)]
    # Binomial, 300 expected with a standard deviation of 14.5.
    assert 250 < sum(needs_second_pass(k, 0.3) for k in keys) < 350
    assert all(needs_second_pass(k, 1.0) for k in keys)


@pytest.mark.parametrize(
    "fields",
    [
        {"choice": "reject"},
        {"choice": "accept", "reason": "wrong"},
        {"choice": "edit", "reasoning": "x"},
        {"choice": "accept", "ending": "9"},
        {"choice": "accept", "reviewer": ""},
    ],
)
def test_half_a_decision_is_refused(fields) -> None:
    with pytest.raises(ValidationError):
        Decision(**{"trace": "0" * 16, "reviewer": "ada", **fields})


def test_a_broken_line_names_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"trace": "x"}\n', encoding="utf-8")
    config = ReviewConfig(kind="review", traces="t", problems="p",
                          decisions=str(tmp_path / "d.jsonl"))  # fmt: skip
    from factory.stages.review import read_decisions

    with pytest.raises(DataError, match=r"d\.jsonl:1: reviewer: Field required"):
        read_decisions(config)


def test_a_decision_of_which_a_byte_has_changed_is_named(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    for name in "ab":
        record(path, decide(name, "edit", reasoning="2 + 2 = 4", ending="4"))
    written = path.read_bytes()
    assert len(list(read_records(path, Decision))) == 2
    start = written.index(b"\n") + 1
    for position in range(start, len(written) - 1):
        path.write_bytes(
            written[:position] + bytes([written[position] ^ 1]) + written[position + 1 :]
        )
        with pytest.raises(DataError, match=r"d\.jsonl:[23]:"):
            list(read_records(path, Decision))


def test_a_decision_written_by_hand_needs_no_checksum(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"trace": "x", "reviewer": "ada", "choice": "accept"}\n', encoding="utf-8")
    assert [decision.choice for decision in read_records(path, Decision)] == ["accept"]


def test_what_is_said_of_who_decided() -> None:
    assert statement(0, 5, "filters").startswith("not reviewed by a person: all 5")
    assert statement(5, 5, "wait") == "5 of 5 traces were decided by a person"


RECIPE = """
name: cold
stages:
  base: {{kind: model, source: {{type: tiny, architecture: llama}}}}
  sums:
    kind: problems
    sources: [{{type: reasoning_gym, family: chain_sum, train: 4}}]
  traces: {{kind: generate, model: base, problems: sums}}
  reviewed: {{kind: review, traces: traces, problems: sums, decisions: {path}}}
"""


@pytest.fixture
def desk(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A recipe with a review stage, its store with the traces made, and the file of decisions."""
    decisions = tmp_path / "decisions" / "cold.jsonl"
    recipe = tmp_path / "cold.yaml"
    recipe.write_text(RECIPE.format(path=decisions), encoding="utf-8")
    step = next(s for s in make_plan(load_recipe(recipe)) if s.name == "traces")
    store = tmp_path / "store"
    (store / "making").mkdir(parents=True)
    write_records(store / "making" / "traces.jsonl", [*TRACES[:3], trace("e", HOSTILE)])
    sealed(store / "making", "traces", fingerprint=step.fingerprint, name="traces")
    return recipe, store, decisions


def factory_review(desk, *arguments: str, keys: str = ""):
    recipe, store, _ = desk
    options = ["--store", str(store), "--reviewer", "ada", *arguments]
    return CliRunner().invoke(app, ["review", str(recipe), *options], input=keys)


def test_the_queue_takes_decisions_and_goes_on_where_it_was_left(desk) -> None:
    _, _, decisions = desk
    first = factory_review(desk, keys="a\nx\nr\n2\nhard to follow\nq\n")
    assert first.exit_code == 0, first.output
    rows = list(read_records(decisions, Decision))
    assert [(r.trace, r.choice, r.reason, r.note) for r in rows] == [
        (key(TRACES[0]), "accept", None, ""),
        (key(TRACES[1]), "reject", "unreadable", "hard to follow"),
    ]
    assert "2 of 4 traces decided" in first.output
    second = factory_review(desk, keys="s\na\n")
    assert "1 of 2: c" in second.output and "2 of 2: e" in second.output
    assert "3 of 4 traces decided; 3 wait for a second pass" in second.output
    assert len(decisions.read_text(encoding="utf-8").splitlines()) == 3


def test_the_second_pass_shows_nothing_of_the_first_and_status_tells_agreement(desk) -> None:
    factory_review(desk, keys="a\nr\n1\n\nq\n")
    other = factory_review(desk, "--second", "--reviewer", "bob", keys="a\na\n")
    assert "1 of 2: a" in other.output and "reject" not in other.output.split("1 of 2")[0]
    # accept/accept and reject/accept: p_o = 1/2, p_e = 1/2, kappa 0.
    status = factory_review(desk, "--status")
    assert "agree on 50% of 2 traces; Cohen's kappa 0.00" in status.output
    same = factory_review(desk, "--second", keys="")
    assert " of " in same.output and "1 of 1:" not in same.output


def test_an_edit_comes_from_the_reviewers_editor_and_must_stay_well_formed(desk, tmp_path) -> None:
    editor = tmp_path / "edit.sh"
    editor.write_text('#!/bin/sh\nsed -i "s/$OLD/$NEW/" "$1"\n', encoding="utf-8")
    editor.chmod(0o755)
    recipe, store, decisions = desk
    arguments = ["review", str(recipe), "--store", str(store), "--reviewer", "ada"]

    def edit(old: str, new: str):
        environment = {"EDITOR": str(editor), "OLD": old, "NEW": new}
        return CliRunner(env=environment).invoke(app, arguments, input="e\nq\n")

    assert "not changed" in edit("nowhere", "x").output
    assert "not taken: a made-up turn" in edit("I add", "so\\nUser: I add\\nAssistant: so").output
    assert not decisions.exists()
    edit("I add", "First I add")
    (row,) = read_records(decisions, Decision)
    assert (row.choice, row.reasoning, row.ending) == ("edit", "First I add: 4 + 5 = 9.", "9")


def test_times_stand_beside_the_decisions_and_only_decisions_move_the_fingerprint(desk) -> None:
    recipe, _, decisions = desk

    def fingerprint() -> str:
        return next(s.fingerprint for s in make_plan(load_recipe(recipe)) if s.name == "reviewed")

    before = fingerprint()
    factory_review(desk, keys="a\nq\n")
    after = fingerprint()
    assert after != before
    times = decisions.with_suffix(".times.jsonl")
    (row,) = map(json.loads, times.read_text(encoding="utf-8").splitlines())
    assert row["trace"] == key(TRACES[0]) and row["at"].endswith("+00:00")
    times.write_text("", encoding="utf-8")
    assert fingerprint() == after


def test_what_cannot_be_reviewed_is_said_in_a_line(desk, tmp_path) -> None:
    recipe, store, _ = desk
    empty = CliRunner().invoke(
        app, ["review", str(recipe), "--store", str(tmp_path / "none"), "--reviewer", "ada"]
    )
    assert empty.exit_code == 2 and "--until traces" in empty.stderr
    unread = factory_review(desk, "--set", "stages.reviewed.decisions=null")
    assert unread.exit_code == 2 and "names no file" in unread.stderr
    nowhere = CliRunner().invoke(
        app, ["review", "traces", "--store", str(store), "--reviewer", "ada"]
    )
    assert nowhere.exit_code == 2 and "--decisions" in nowhere.stderr


def test_a_torn_line_is_cut_off_and_a_broken_one_is_named(desk) -> None:
    _, _, decisions = desk
    factory_review(desk, keys="a\nq\n")
    full = decisions.read_bytes()
    decisions.write_bytes(full + b'{"trace": "half')
    # Who only reads leaves it: another may be writing that very line.
    assert "1 of 4 traces decided" in factory_review(desk, "--status").output
    assert decisions.read_bytes() == full + b'{"trace": "half'
    factory_review(desk, keys="a\nq\n")
    assert decisions.read_bytes().startswith(full + b'{"trace": "')
    assert b"half" not in decisions.read_bytes() and len(decisions.read_bytes().splitlines()) == 2
    decisions.write_bytes(b'{"trace": "x"}\n' + full)
    broken = factory_review(desk, "--status")
    assert broken.exit_code == 2 and "cold.jsonl:1: reviewer" in broken.stderr


def test_a_last_line_that_was_written_by_hand_without_its_end_is_kept(tmp_path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(decide("a", "accept").model_dump_json())
    record(path, decide("b", "accept"))
    assert [row.trace for row in recorded(path)] == [key(trace(name)) for name in "ab"]


def test_many_who_decide_at_once_lose_nothing(tmp_path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"trace": "torn')
    names = [f"t{number}" for number in range(60)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: record(path, decide(name, "edit")), names))
    assert {row.trace for row in recorded(path)} == {key(trace(name)) for name in names}
    assert len(path.read_text().splitlines()) == 60


def test_an_artifacts_traces_can_be_reviewed_without_a_recipe(desk, tmp_path) -> None:
    _, store, _ = desk
    path = tmp_path / "mine.jsonl"
    options = ["--store", str(store), "--reviewer", "ada", "--decisions", str(path)]
    result = CliRunner().invoke(app, ["review", "traces", *options], input="a\nq\n")
    assert result.exit_code == 0 and len(path.read_text(encoding="utf-8").splitlines()) == 1


def test_on_a_terminal_model_text_moves_no_cursor_and_colours_nothing(desk) -> None:
    recipe, store, decisions = desk
    code = "import sys; from factory.cli import main; main()"
    arguments = ["review", str(recipe), "--store", str(store), "--reviewer", "ada"]
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=follower, stdout=follower, stderr=follower, close_fds=True,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(follower)
    seen, answers = b"", [b"s\n", b"s\n", b"s\n", b"a\n"]
    end = time.monotonic() + 60
    while time.monotonic() < end:
        ready, _, _ = select.select([leader], [], [], 0.2)
        if not ready:
            if process.poll() is not None:
                break
            continue
        try:
            part = os.read(leader, 65536)
        except OSError:
            break
        seen += part
        if answers and seen.count(b"uit: ") > 4 - len(answers):
            os.write(leader, answers.pop(0))
    process.wait(30)
    os.close(leader)
    text = seen.decode("utf-8", "replace")
    assert process.returncode == 0, text
    assert "\u27e8U+001B\u27e9[31m" in text and "\u27e8U+202E\u27e9" in text
    assert "\x1b[31m and" not in text and "\u202e" not in text
    assert len(list(read_records(decisions, Decision))) == 1
