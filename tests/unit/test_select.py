"""Rejection sampling: what is kept, what is dropped, and the reason that is given."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from factory.core.artifacts import Inputs, seal
from factory.core.context import Context
from factory.core.errors import DataError
from factory.core.jsonl import read_records, write_records
from factory.core.machine import Machine
from factory.core.records import SamplingConfig, Trace, Verdict
from factory.stages.fitness import Readable, Rejected
from factory.stages.select import STAGE, SelectConfig, select
from factory.text.chat import completion_text, parse


def trace(problem: str, sample: int, completion: str, outcome: str = "correct", tokens: int = 5):
    response = parse(completion)
    return Trace(
        problem_id=problem, sample=sample, question="q", prompt="q", completion=completion,
        reasoning=response.reasoning, answer=response.answer, finish_reason="stop",
        completion_tokens=tokens, seed=0, sampling=SamplingConfig(), style="chat", model="m",
        verdict=Verdict(outcome=outcome, answer=None, explanation=""),
    )  # fmt: skip


def good(problem: str, sample: int, reasoning: str = "because", tokens: int = 5) -> Trace:
    return trace(problem, sample, completion_text(reasoning, "7"), tokens=tokens)


def reasons(traces: list[Trace], **settings) -> list[str | None]:
    return select(traces, SelectConfig(kind="select", traces="t", **settings))[0]


def artifact(folder: Path, traces: list[Trace]):
    folder.mkdir()
    write_records(folder / "traces.jsonl", traces)
    fields = {
        "kind": "traces", "name": "t", "stage": "generate", "stage_version": 1, "fingerprint": "f",
        "config": {}, "inputs": {}, "seed": 0, "metrics": {}, "versions": {}, "machine": {},
        "commit": "", "dirty": False, "seconds": 0.0, "peak_memory_gib": 0.0, "created": "",
    }  # fmt: skip
    return seal(folder, folder.with_suffix(".sealed"), fields)


def run(tmp_path: Path, traces: list[Trace], **settings):
    config = SelectConfig(kind="select", traces="t", **settings)
    out = tmp_path / "out"
    out.mkdir()
    inputs = Inputs(traces=artifact(tmp_path / "t", traces))
    return STAGE.run(config, inputs, out, Context(0, Machine(), tmp_path)), out


def test_every_trace_is_kept_or_rejected_with_its_reason(tmp_path):
    traces = [good("a", 0), trace("a", 1, "no tags", "no_answer"), good("a", 2), good("b", 0)]
    metrics, out = run(tmp_path, traces)
    kept = list(read_records(out / "traces.jsonl", Trace))
    rejected = list(read_records(out / "rejected.jsonl", Rejected))
    assert kept == [traces[0], traces[3]]
    assert [(r.reason, r.trace) for r in rejected] == [
        ("no_answer", traces[1]),
        ("duplicate", traces[2]),
    ]
    assert metrics == {
        "kept": 2, "problems": 2, "rejected.no_answer": 1, "rejected.duplicate": 1
    }  # fmt: skip


def test_an_empty_result_prints_the_counts_by_reason(tmp_path):
    traces = [trace("a", i, "x", "wrong") for i in range(3)] + [trace("a", 3, "x", "truncated")]
    with pytest.raises(DataError, match=r"none of the 4 traces is left \(3 wrong, 1 truncated\)"):
        run(tmp_path, traces)


def test_other_outcomes_can_be_asked_for():
    traces = [trace("a", 0, completion_text("x", "8"), "wrong"), good("a", 1)]
    assert reasons(traces, outcomes=("wrong",)) == [None, "correct"]


def test_a_lenient_correct_trace_must_be_well_formed_unless_told_otherwise():
    traces = [trace("a", 0, "it is 7")]
    assert reasons(traces) == ["not_well_formed"]
    assert reasons(traces, require_well_formed=False) == [None]


def test_lengths_are_limited_on_both_sides():
    traces = [good("a", 0, "x" * n, tokens=n) for n in (4, 5, 6, 7)]
    result = reasons(traces, min_reasoning_characters=5, max_reasoning_characters=6)
    assert result == ["short_reasoning", None, None, "long_reasoning"]
    assert reasons(traces, max_completion_tokens=5)[2:] == ["long_completion"] * 2


def test_loops_and_other_languages_are_dropped():
    loop = good("a", 0, "check it again now " * 30)
    foreign = good("a", 1, "\u56e0\u4e3a so")
    assert reasons([loop, foreign]) == ["repetition", None]
    assert reasons([loop, foreign], language="en", max_repetition=1.0) == [None, "language"]


def test_at_most_k_traces_of_a_problem_are_kept_in_the_preferred_order():
    traces = [
        good("a", 0, "one two three", tokens=9),
        good("a", 1, "one two four", tokens=3),
        good("a", 2, "five six seven", tokens=6),
        good("b", 0),
    ]
    over = "over_quota"
    assert reasons(traces, max_per_problem=2) == [None, None, over, None]
    assert reasons(traces, max_per_problem=2, prefer="shortest") == [over, None, None, None]
    assert reasons(traces, max_per_problem=2, prefer="diverse") == [None, over, None, None]


def test_identical_completions_do_not_use_up_the_quota():
    traces = [good("a", 0), good("a", 1), good("a", 2, "other words")]
    assert reasons(traces, max_per_problem=2) == [None, "duplicate", None]


def test_an_unknown_language_is_refused_with_the_recipe():
    with pytest.raises(ValidationError, match="known are ar, bg"):
        SelectConfig.model_validate_json(
            json.dumps({"kind": "select", "traces": "t", "language": "xx"})
        )


def test_the_papers_readability_filters_are_one_preset():
    texts = {
        "mixed_languages": "First I add them \u7136\u540e\u6211\u4eec\u5f97\u5230\u4e03.",
        "long_paragraph": "I add it up and go on. " * 100,
        "code_block": "I try it.\n```python\nprint(3 + 4)\n```\nIt is 7.",
        None: "I add the two numbers.\n\nIt is 7.",
    }
    question = {"question": "What is the sum of the two?"}
    traces = [
        good(str(n), 0, text).model_copy(update=question) for n, text in enumerate(texts.values())
    ]
    assert reasons(traces, max_repetition=1.0) == [None] * 4
    assert reasons(traces, max_repetition=1.0, readable=Readable()) == list(texts)
    loose = Readable(
        min_language_consistency=0, max_paragraph_characters=9999, allow_code_blocks=True
    )
    assert reasons(traces, max_repetition=1.0, readable=loose) == [None] * 4
    # A question whose words tell no language asks for none.
    plain = [trace.model_copy(update={"question": "3 + 4"}) for trace in traces]
    assert reasons(plain, max_repetition=1.0, readable=Readable())[0] is None


def test_a_long_trace_of_short_paragraphs_is_readable():
    text = "\n\n".join(f"Step {n}: I add {n} and go on." for n in range(300))
    assert reasons([good("a", 0, text)], max_repetition=1.0, readable=Readable()) == [None]
