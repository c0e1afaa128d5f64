"""The audit of a set of traces: every planted fault with its count."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from factory.auditing.audit import Audit, Settings, audit
from factory.auditing.faults import FAULTS, faults
from factory.cli import app
from factory.core.jsonl import write_records
from factory.core.records import SamplingConfig, Trace, Verdict
from factory.core.stored import StoredRecords
from factory.models.tiny import byte_tokenizer, save_tiny_model
from factory.problems.benchmark import benchmark_problems
from factory.report.auditing import audit_page
from factory.text.chat import completion_text, parse

THOUGHTS = "First we add both numbers, since the question is about what they are together"


def trace(number: int, completion: str = "", **changes) -> Trace:
    text = completion or completion_text(f"{THOUGHTS}: case {number} of {number + 7}.", str(number))
    response = parse(text)
    fields = {
        "problem_id": f"sums-{number:04d}", "sample": 0, "prompt": "", "completion": text,
        "question": f"How many apples has Anna in her basket after case {number}?",
        "reasoning": response.reasoning, "answer": response.answer, "finish_reason": "stop",
        "completion_tokens": 5, "seed": 0, "sampling": SamplingConfig(), "style": "chat",
        "model": "m", "verdict": Verdict(outcome="correct", answer=None, explanation=""),
    }  # fmt: skip
    return Trace(**{**fields, **changes})


def verdict(outcome: str) -> Verdict:
    return Verdict(outcome=outcome, answer=None, explanation="")


GSM = next(iter(benchmark_problems("gsm8k_100")))
GERMAN = "Zuerst addieren wir die beiden Zahlen, weil die Frage nach der Summe ist und nicht mehr"
CHINESE = "然后我们把两个数字加起来得到答案"
FIVE = " ".join(f"word{at} and" for at in range(60))
PLANTED: dict[str, list[Trace]] = {
    "wrong": [trace(n, verdict=verdict("wrong")) for n in range(100, 103)],
    "timeout": [trace(111, verdict=verdict("timeout"))],
    "crashed": [trace(112, verdict=verdict("crashed"))],
    "cut": [
        trace(120, f"<think> {THOUGHTS}", finish_reason="length", verdict=verdict("truncated")),
        trace(121, f"<think> {THOUGHTS} and so", finish_reason="length"),
    ],
    "looping": [
        trace(130, completion_text("so we add one and two and three " * 20, "6")),
        trace(131, f"<think> {THOUGHTS} it loops", finish_reason="loop"),
    ],
    "unparseable": [trace(140, f"{THOUGHTS}, so it is 7"), trace(141, f"{THOUGHTS} <answer> 3")],
    "no_thoughts": [trace(150, completion_text("", "9"))],
    "several_answers": [
        trace(160, completion_text(f"{THOUGHTS} for two", "\\boxed{3} or \\boxed{4}")),
        trace(161, summary="It is \\boxed{5}. No: \\boxed{6}."),
    ],
    "mixed_languages": [
        trace(170, completion_text(f"{THOUGHTS}. {GERMAN}. {GERMAN}.", "1")),
        trace(171, completion_text(f"{THOUGHTS}. {CHINESE}", "2")),
    ],
    "unsafe_characters": [trace(180, completion_text(f"{THOUGHTS}\u202e now", "1"))],
    "contaminated": [trace(190, question=GSM.prompt), trace(191, completion_text(GSM.prompt, "1"))],
    "duplicate": [trace(1), trace(2, question=trace(2).question.upper())],
    "near_duplicate": [
        trace(200, completion_text(FIVE, "1")),
        trace(200, completion_text(FIVE.replace("word9 ", "word99 "), "1"), sample=1),
    ],
}  # fmt: skip
GOOD = [trace(number) for number in range(10)]
COUNTS = {name: len(rows) for name, rows in PLANTED.items()} | {"near_duplicate": 1, "too_long": 0}


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> StoredRecords[Trace]:
    path = tmp_path_factory.mktemp("set") / "traces.jsonl"
    write_records(path, [*GOOD, *(row for rows in PLANTED.values() for row in rows)])
    return StoredRecords(path, Trace)


@pytest.fixture(scope="module")
def audited(planted: StoredRecords[Trace], tmp_path_factory) -> Audit:
    return audit("bad", planted, Settings(), folder=tmp_path_factory.mktemp("scratch"))


@pytest.mark.parametrize("fault", FAULTS)
def test_every_planted_fault_is_counted_exactly(audited: Audit, fault: str) -> None:
    assert audited.faults[fault] == COUNTS[fault]
    assert len(audited.examples[fault]) == COUNTS[fault]


@pytest.mark.parametrize("number", range(len(GOOD)))
def test_a_good_trace_has_no_fault(number: int) -> None:
    assert faults(GOOD[number]) == []


def test_clean_are_the_good_ones_and_the_first_of_a_pair(audited: Audit) -> None:
    assert audited.clean == len(GOOD) + 1
    assert audited.rows == len(GOOD) + sum(map(len, PLANTED.values()))
    assert audited.benchmarks == {"gsm8k_100": 2}
    (first, second) = audited.examples["contaminated"]
    assert {first.like, second.like} == {f"gsm8k_100/{GSM.id}"}
    assert audited.examples["duplicate"][0].like == "sums-0001/0"
    assert audited.topics == {"sums": audited.rows}


def test_the_numbers_do_not_depend_on_the_processes(
    planted: StoredRecords[Trace], audited: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factory.auditing.audit.CHUNK", 7)
    monkeypatch.setattr("factory.problems.similar.CHUNK", 5)
    settings = Settings(processes=2)
    again = audit("bad", planted, settings, folder=tmp_path)
    assert again == audited.model_copy(update={"settings": settings})


def test_lengths_are_those_of_the_rows_that_a_student_is_trained_on(
    planted: StoredRecords[Trace], tmp_path: Path
) -> None:
    from factory.text.chat import PromptConfig
    from factory.trainers.rows import tokenise

    model = save_tiny_model(tmp_path / "model", "llama", hidden=32, layers=1)
    usable = [t for t in planted if t.reasoning is not None and t.answer is not None]
    rows = sorted(row.tokens for row in tokenise(usable, PromptConfig(), byte_tokenizer()))
    context = rows[-5]
    settings = Settings(student=str(model), context=context)
    lengths = audit("bad", planted, settings, folder=tmp_path)
    assert lengths.lengths.rows == len(rows) and lengths.lengths.unit == "tokens"
    assert (lengths.lengths.quantiles["0"], lengths.lengths.quantiles["1"]) == (rows[0], rows[-1])
    assert lengths.faults["too_long"] == sum(n > context for n in rows) == 4


def test_the_page_names_every_fault_with_its_count_and_shows_its_samples(
    audited: Audit, planted: StoredRecords[Trace]
) -> None:
    page = audit_page(audited, planted)
    for fault, number in COUNTS.items():
        words = fault.replace("_", " ")
        assert not number or f"{words}: {number} of {number}" in page, fault
    # What cannot be seen is written out.
    assert "Trace audit" in page and "\u202e" not in page


def test_the_document_reads_back(audited: Audit) -> None:
    assert Audit.model_validate_json(audited.model_dump_json()) == audited


def test_an_empty_set_is_told_as_such(tmp_path: Path) -> None:
    write_records(tmp_path / "traces.jsonl", [])
    traces = StoredRecords(tmp_path / "traces.jsonl", Trace)
    empty = audit("none", traces, Settings(), folder=tmp_path)
    assert (empty.rows, empty.clean) == (0, 0)
    assert "0 traces" in audit_page(empty, traces)


FILE = [
    {"question": "What is 2 + 3?", "completion": "<think> 2 + 3 = 5 </think> 5", "answer": "5"},
    {"question": "What is 2 + 4?", "completion": "<think> 2 + 4 = 7 </think> 7", "answer": "6"},
    {"question": "What is 2 + 6?", "completion": "<think> 2 + 6 = ", "answer": "8"},
    {"question": "What is 2 + 3?", "completion": "<think> 2 + 3 = 5 </think> 5", "answer": "5"},
    {"question": "What is 2 + 7?", "completion": "<think> a </think> b </think> 9", "answer": "9"},
]  # fmt: skip


def test_a_file_is_read_as_it_would_be_imported_and_what_is_left_out_is_told(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in FILE) + "{broken\n")
    done = CliRunner().invoke(app, ["audit", str(path), "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    made = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert (made["rows"], made["clean"]) == (1, 1)
    assert made["dropped"] == {"wrong": 1, "cut": 1, "repeated": 1, "unparseable": 2}
    page = (tmp_path / "out" / "audit.html").read_text()
    assert "left out, unparseable: 2 of 2" in page and "mine.jsonl:6" in page
    # 2 of the 1 + 5 texts, not of the trace that is left, nor of the five.
    assert "Left out of the 6 texts that were read" in page and "33.3 %" in page


def test_a_file_of_which_nothing_is_left_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(FILE[2]) + "\n")
    done = CliRunner().invoke(app, ["audit", str(path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["dropped"] == {"cut": 1}


def test_what_is_no_set_of_traces_is_refused_in_a_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["audit", "nothing", "--store", str(tmp_path)])
    assert done.exit_code == 2 and "no such traces artifact" in done.output.replace("\n", " ")
