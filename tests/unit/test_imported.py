"""The door for data: rows of published shapes as traces, and what becomes of the others."""

import gzip
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from factory.core.artifacts import Inputs, seal
from factory.core.context import Context
from factory.core.errors import DataError
from factory.core.jsonl import read_records
from factory.core.machine import Machine
from factory.core.records import Trace
from factory.reading.candidates import Dropped
from factory.stages.imported import ImportedConfig, run
from factory.stages.texts import Hashes

SUMS = [("What is 8 + 5?", "8 and 5 are 13.", "13"), ("What is 9 + 9?", "Twice 9 is 18.", "18")]


def boxed(answer: str) -> str:
    return f"So it is $\\boxed{{{answer}}}$."


def think(thoughts: str, answer: str) -> str:
    return f"<think>\n{thoughts}\n</think>\n\n{boxed(answer)}"


def stratos(thoughts: str, answer: str) -> str:
    return (
        f"<|begin_of_thought|>\n\n{thoughts}\n\n<|end_of_thought|>\n\n"
        f"<|begin_of_solution|>\n\n{boxed(answer)}\n\n<|end_of_solution|>"
    )


def chat(question: str, text: str, **more: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": text, **more}]


def shared(question: str, text: str, names: Sequence[str] = ("human", "gpt")) -> list[dict]:
    return [{"from": names[0], "value": question}, {"from": names[1], "value": text}]


SHAPES: dict[str, tuple[str, Callable[[str, str, str], dict[str, Any]]]] = {
    "openr1_math": ("openr1_math", lambda q, t, a: {
        "problem": q, "solution": f"One adds: {a}.", "answer": a, "problem_type": "Algebra",
        "question_type": "math-word-problem", "source": "own", "uuid": q,
        "is_reasoning_complete": [True, False, True], "generations": [
            think(t, a), think(t, a)[:20], think("A guess.", "77")],
        "correctness_math_verify": [True, False, False], "correctness_llama": None,
        "finish_reasons": None, "correctness_count": 1, "messages": chat(q, think(t, a)),
    }),
    "openthoughts3": ("openthoughts3", lambda q, t, a: {
        "difficulty": None, "source": "own", "domain": "math",
        "conversations": shared(q, think(t, a)),
    }),
    "mixture_of_thoughts": ("mixture_of_thoughts", lambda q, t, a: {
        "messages": chat(q, think(t, a)), "num_tokens": 9, "source": "own",
    }),
    "stratos": ("openthoughts", lambda q, t, a: {
        "system": "Explore by a long process.", "conversations": shared(
            f"Return your final response within \\boxed{{}}. {q}", stratos(t, a),
            ("user", "assistant")),
    }),
    "openthoughts_114k_metadata": ("openthoughts_metadata", lambda q, t, a: {
        "problem": q, "deepseek_reasoning": t, "deepseek_solution": boxed(a),
        "ground_truth_solution": a, "domain": "math", "source": "own", "test_cases": None,
        "starter_code": None,
    }),
    "s1k": ("s1k", lambda q, t, a: {
        "question": q, "solution": f"Adding gives the sum. It is seen that the sum is {a}.",
        "cot_type": "math", "source_type": "own", "metadata": "{}", "cot": None,
        "thinking_trajectories": [t], "attempt": boxed(a),
    }),
    "s1k_1_1": ("s1k_deepseek", lambda q, t, a: {
        "question": q, "solution": a, "cot_type": "math", "source_type": "own", "metadata": "{}",
        "gemini_thinking_trajectory": "Hm.", "gemini_attempt": "77",
        "deepseek_thinking_trajectory": t, "deepseek_attempt": boxed(a), "deepseek_grade": "Yes",
    }),
    "openmathreasoning": ("openmathreasoning", lambda q, t, a: {
        "problem": q, "generated_solution": think(t, a), "expected_answer": a,
    }),
    "messages_with_reasoning": ("guessed", lambda q, t, a: {
        "messages": chat(q, boxed(a), reasoning_content=t),
    }),
    "messages_of_parts": ("guessed", lambda q, t, a: {
        "messages": [
            {"role": "system", "content": "Think."},
            {"role": "user", "content": [{"type": "text", "text": q}]},
            {"role": "assistant", "content": [{"type": "text", "text": think(t, a)}]},
        ],
    }),
    "prompt_completion": ("guessed", lambda q, t, a: {"prompt": q, "completion": think(t, a)}),
    "prompt_completion_chat": ("guessed", lambda q, t, a: {
        "prompt": chat(q, "")[:1], "completion": chat("", f"{t}\n</think>\n\n{boxed(a)}")[1:],
    }),
    "alpaca": ("guessed", lambda q, t, a: {
        "instruction": q, "input": "", "output": think(t, a),
    }),
    "worked": ("worked", lambda q, t, a: {"question": q, "reasoning": t, "answer": a}),
}  # fmt: skip
GRADED = {
    "openr1_math", "openthoughts_114k_metadata", "s1k_1_1", "openmathreasoning", "worked",
}  # fmt: skip


def rows_of(shape: str) -> list[dict[str, Any]]:
    return [SHAPES[shape][1](*sum_) for sum_ in SUMS]


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def imported(
    tmp_path: Path, path: Path, inputs: Inputs | None = None, **settings: Any
) -> tuple[dict[str, float], list[Trace], list[Dropped]]:
    """What a file becomes."""
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    for old in out.iterdir():
        old.unlink()
    metrics = run(config_of(path, **settings), inputs or Inputs(), out, context(tmp_path))
    dropped = out / "dropped.jsonl"
    return (
        metrics,
        list(read_records(out / "traces.jsonl", Trace)),
        list(read_records(dropped, Dropped)) if dropped.exists() else [],
    )


def config_of(path: Path, **settings: Any) -> ImportedConfig:
    source = {"type": "local", "path": str(path), **settings.pop("source", {})}
    return ImportedConfig.model_validate_json(
        json.dumps({"kind": "imported", "source": source, **settings})
    )


def context(tmp_path: Path) -> Context:
    return Context(0, Machine(threads=1), tmp_path)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_published_shape_becomes_the_same_traces(tmp_path: Path, shape: str) -> None:
    path = write_lines(tmp_path / "traces.jsonl", rows_of(shape))
    config = config_of(path)
    assert config.outlook()[0].startswith(f"traces.jsonl: {SHAPES[shape][0]}; columns: {{")
    metrics, traces, dropped = imported(tmp_path, path)
    assert [(t.question, t.reasoning, t.answer) for t in traces] == SUMS
    assert all(trace.summary in (None, boxed(str(trace.answer))) for trace in traces)
    outcome = "correct" if shape in GRADED else "ungradable"
    assert {trace.verdict.outcome for trace in traces} == {outcome}
    assert [drop.reason for drop in dropped] == ["flagged"] * 4 * (shape == "openr1_math")
    assert metrics["candidates"] == len(traces) + len(dropped)


def containers(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Path]:
    """The same rows in every container."""
    lines = write_lines(folder / "lines" / "traces.jsonl", rows).read_bytes()
    paths = {name: folder / name for name in ("crlf.jsonl", "bom.jsonl", "list.json", "tall.json")}
    paths["crlf.jsonl"].write_bytes(lines.replace(b"\n", b"\r\n\r\n"))
    paths["bom.jsonl"].write_bytes(b"\xef\xbb\xbf" + lines)
    paths["list.json"].write_text(json.dumps(rows))
    paths["tall.json"].write_text("\n".join(json.dumps(row, indent=1) for row in rows))
    paths["gzip"] = folder / "a.jsonl.gz"
    half = lines.index(b"\n") + 1
    paths["gzip"].write_bytes(gzip.compress(lines[:half]) + gzip.compress(lines[half:]))
    paths["zstd"] = folder / "b.jsonl.zst"
    codec = pyarrow.Codec("zstd")
    packed = [codec.compress(part, asbytes=True) for part in (lines[:half], lines[half:])]
    paths["zstd"].write_bytes(b"".join(map(bytes, packed)))
    table = pyarrow.Table.from_pylist(rows)
    paths["parquet"] = folder / "without_a_suffix"
    parquet.write_table(table, paths["parquet"])
    paths["saved by datasets"] = folder / "saved"
    paths["saved by datasets"].mkdir()
    (folder / "saved" / "state.json").write_text("{}")
    with pyarrow.ipc.new_stream(folder / "saved" / "data-0.arrow", table.schema) as writer:
        writer.write_table(table)
    parts = folder / "parts"
    for number, row in enumerate(rows):
        write_lines(parts / f"{number}.jsonl", [row])
    paths["folder"], paths["pattern"] = parts, parts / "*.jsonl"
    return paths


@pytest.mark.parametrize("shape", ["openr1_math", "openthoughts3", "s1k_1_1"])
def test_every_container_gives_equal_traces(tmp_path: Path, shape: str) -> None:
    rows = rows_of(shape)
    _, expected, _ = imported(tmp_path, write_lines(tmp_path / "plain.jsonl", rows))
    for name, path in containers(tmp_path / "all", rows).items():
        assert imported(tmp_path, path)[1] == expected, name


def test_rows_that_cannot_be_learned_from_are_listed_by_line_and_the_rest_goes_on(
    tmp_path: Path,
) -> None:
    good = [{"prompt": f"What is {n} + 1?", "completion": think("One up.", str(n + 1)),
             "reference": str(n + 1)} for n in range(30)]  # fmt: skip
    question = "What is 2 * 9?"
    bad: dict[int, tuple[str, Any]] = {
        3: ("cut", {"prompt": question, "completion": "<think>\nTwice 9"}),
        5: ("unparseable", '{"prompt": "torn'),
        7: ("no_answer", {"prompt": question, "completion": "<think>a</think>It is done then."}),
        9: ("wrong", {"prompt": question, "completion": think("x", "19"), "reference": "18"}),
        11: ("unparseable", {"prompt": question, "completion": "Hm <think>a</think> 18"}),
        13: ("unparseable", {"prompt": question, "completion": "<think>a</think>b</think> 18"}),
        15: ("no_question", {"prompt": "", "completion": think("x", "18")}),
        17: ("no_thoughts", {"prompt": question, "completion": "<think></think> 18"}),
        19: ("no_thoughts", {"prompt": question, "completion": "It is 18."}),
        21: ("unsafe_characters", {"prompt": question, "completion": think("\u202ex", "18")}),
        23: ("repeated", good[0]),
        25: ("unparseable", [1, 2]),
    }
    lines = [json.dumps(row) for row in good]
    for line, (_, row) in bad.items():
        lines.insert(line - 1, row if isinstance(row, str) else json.dumps(row))
    path = tmp_path / "traces.jsonl"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"11 of 42 texts are refused.*max_refused_share 0\.05"):
        imported(tmp_path, path)
    metrics, traces, dropped = imported(tmp_path, path, max_refused_share=0.5)
    assert {drop.row: drop.reason for drop in dropped} == {n: r for n, (r, _) in bad.items()}
    assert len(traces) == 30 and metrics["candidates"] == 42


def test_a_wrong_mapping_stops_after_the_first_rows_and_not_at_the_end(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}?", "completion": "no marks"} for n in range(3000)]
    with pytest.raises(DataError, match=r"512 of 512 texts are refused") as error:
        imported(tmp_path, write_lines(tmp_path / "t.jsonl", rows))
    assert str(error.value).count("no_thoughts:") == 3


def test_the_reference_decides_and_a_solution_in_words_is_none(tmp_path: Path) -> None:
    prose = "First we see that the sum is even. Then we add both. Therefore the sum is found."
    rows = [
        {"prompt": "1 + 1?", "completion": think("x", "2"), "reference": 2},
        {"prompt": "1 + 2?", "completion": think("x", "4"), "reference": prose},
        {"prompt": "1 + 3?", "completion": think("x", "4"), "reference": "#### 4"},
        {"prompt": "1 + 4?", "completion": think("x", "5"), "reference": None},
    ]
    path = write_lines(tmp_path / "t.jsonl", rows)
    _, traces, _ = imported(tmp_path, path)
    outcomes = [trace.verdict.outcome for trace in traces]
    assert outcomes == ["correct", "ungradable", "correct", "ungradable"]
    assert "taken as published" in traces[1].verdict.explanation
    _, traces, dropped = imported(tmp_path, path, unreferenced="drop")
    assert [d.reason for d in dropped] == ["no_reference", "no_reference"] and len(traces) == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a"}], r"its columns are text; none are messages.*columns: \{question"),
        ([{"a": chat("q", "x"), "b": chat("q", "y")}], r"columns: \{messages: a\} or columns"),
        ([], "holds no row that can be read"),
    ],
)
def test_columns_that_cannot_be_told_are_asked_for_in_the_words_to_write(
    tmp_path: Path, rows: list[Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        config_of(write_lines(tmp_path / "t.jsonl", rows)).outlook()


def test_a_stated_column_that_is_missing_is_told_with_those_there_are(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.jsonl", [{"q": "1 + 1?", "meta": {"text": think("x", "2")}}])
    columns = {"question": "q", "completion": "meta.text"}
    assert imported(tmp_path, path, columns=columns)[1][0].answer == "2"
    with pytest.raises(DataError, match=r"no column completion: text; there are q, meta"):
        imported(tmp_path, path, columns={"question": "q", "completion": "text"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}".encode("utf-16"), "is UTF-16"),
        (b"PK\x03\x04rest", "is a zip archive"),
        (b"\x80\x04\x95", "is a pickle"),
        (b"PAR1 and no more", "cannot be read on after row 0"),
        (gzip.compress(b'{"a": 1}\n' * 900, mtime=0)[:-9], "cannot be read on after row"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    ],
)
def test_what_is_no_file_of_rows_is_refused_by_name(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "traces.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        config_of(path).outlook()


def test_a_folder_asks_for_its_split_and_follows_no_link_out_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for split in ("train", "test"):
        write_lines(folder / f"{split}-00000-of-00001.jsonl", rows_of("worked"))
    with pytest.raises(DataError, match="several splits: test, train; say which as `split`"):
        config_of(folder).outlook()
    assert len(imported(tmp_path, folder, source={"split": "train"})[1]) == 2
    secret = write_lines(tmp_path / "secret.jsonl", rows_of("worked"))
    (folder / "train-1.jsonl").symlink_to(secret)
    with pytest.raises(DataError, match="a link that leads out of"):
        config_of(folder, source={"split": "train"}).outlook()


def test_a_question_of_a_held_out_split_is_not_learned_from(tmp_path: Path) -> None:
    held = tmp_path / "held"
    held.mkdir()
    row = {"id": "a", "prompt": SUMS[0][0], "reference": "13", "kind": "math", "source": "own"}
    (held / "held_out.jsonl").write_text(json.dumps(row) + "\n")
    fields = {
        "kind": "problems", "name": "p", "stage": "problems", "stage_version": 1,
        "fingerprint": "f", "config": {}, "inputs": {}, "seed": 0, "metrics": {}, "versions": {},
        "machine": {}, "commit": "", "dirty": False, "seconds": 0.0, "peak_memory_gib": 0.0,
        "created": "",
    }  # fmt: skip
    inputs = Inputs({"unlike.0": seal(held, tmp_path / "sealed", fields)})
    path = write_lines(tmp_path / "t.jsonl", rows_of("stratos"))
    _, traces, dropped = imported(tmp_path, path, inputs, unlike=["p"])
    assert [trace.answer for trace in traces] == ["18"]
    assert [drop.reason for drop in dropped] == ["held_out"]


def test_texts_of_a_question_are_numbered_and_bounded(tmp_path: Path) -> None:
    rows = [{"prompt": "1 + 1?", "completion": think(f"Way {n}.", "2")} for n in range(5)]
    path = write_lines(tmp_path / "t.jsonl", rows)
    assert [trace.sample for trace in imported(tmp_path, path)[1]] == [0, 1, 2, 3, 4]
    _, traces, dropped = imported(tmp_path, path, max_per_question=2)
    assert len(traces) == 2 and [drop.reason for drop in dropped] == ["over_quota"] * 3


PROGRAM = "```python\nprint(sum(map(int, input().split())))\n```"
FUNCTION = "```python\ndef add(a, b):\n    return a + b\n```"


@pytest.mark.parametrize(
    ("solution", "tests"),
    [
        (PROGRAM, json.dumps({"inputs": ["3 4\n"], "outputs": ["7\n"]})),
        (PROGRAM, [{"input": "3 4\n", "output": "7"}]),
        (FUNCTION, {"fn_name": "add", "inputs": [[3, 4]], "outputs": [7]}),
        (FUNCTION, ["assert add(3, 4) == 7", "assert add(0, 0) == 0"]),
        (FUNCTION, {"check": "def check(candidate):\n    assert candidate(3, 4) == 7\n",
                    "entry_point": "add"}),
    ],
)  # fmt: skip
def test_a_program_is_run_on_the_tests_of_its_row(
    tmp_path: Path, solution: str, tests: Any
) -> None:
    wrong = solution.replace("sum", "max").replace("a + b", "a - b")
    rows = [
        {"problem": f"Add {n}.", "reasoning": "One adds.", "solution": text, "test_cases": tests}
        for n, text in enumerate((solution, wrong))
    ]
    path = write_lines(tmp_path / "t.jsonl", rows)
    _, traces, dropped = imported(tmp_path, path, max_refused_share=0.5)
    assert [trace.verdict.outcome for trace in traces] == ["correct"]
    assert [drop.reason for drop in dropped] in (["wrong"], ["crashed"])


def test_a_form_of_the_student_that_cannot_hold_a_text_drops_it_here(tmp_path: Path) -> None:
    rows = [{"prompt": "Which tag?", "reasoning": "The text has <answer> twice.", "answer": "$2$"}]
    path = write_lines(tmp_path / "t.jsonl", [*rows, *rows_of("prompt_completion")[:0]])
    with pytest.raises(DataError, match="1 unparseable"):
        imported(tmp_path, path)
    marks = {"opening": "<|a|>", "closing": "<|b|>"}
    with pytest.raises(DataError, match="a look-alike tag"):
        imported(tmp_path, path, form=marks)


APART = [
    ("What is 2²?", "What is 22?"),
    ("Is A before a?", "Is a before A?"),
    ("x_\uff11?", "x_1?"),
]


@pytest.mark.parametrize("questions", APART)
def test_questions_that_signs_or_case_part_are_two_and_equal_texts_of_them_are_kept(
    tmp_path: Path, questions: tuple[str, str]
) -> None:
    rows = [{"question": q, "reasoning": "Known.", "answer": "4"} for q in (*questions, *questions)]
    path = write_lines(tmp_path / "t.jsonl", rows)
    _, traces, dropped = imported(tmp_path, path, max_per_question=1)
    assert [trace.question for trace in traces] == list(questions)
    assert len({trace.problem_id for trace in traces}) == 2
    assert [drop.reason for drop in dropped] == ["repeated"] * 2


def test_a_question_in_two_canonical_forms_or_other_white_space_is_one(tmp_path: Path) -> None:
    forms = ("Où est-ce?", "Ou\u0300  est-ce?\n")
    rows = [{"question": q, "reasoning": f"Known {n}.", "answer": "4"} for n, q in enumerate(forms)]
    traces = imported(tmp_path, write_lines(tmp_path / "t.jsonl", rows))[1]
    assert len({trace.problem_id for trace in traces}) == 1
    assert [trace.sample for trace in traces] == [0, 1]


def test_a_set_of_hashes_is_that_of_python() -> None:
    stream = random.Random(1)
    # Few low bits, so that places collide, and many values twice.
    values = [stream.randrange(2, 1000) << stream.choice((0, 9, 54)) for _ in range(9000)]
    hashes, seen = Hashes(), set[int]()
    for value in values:
        assert hashes.add(value) == (value not in seen)
        seen.add(value)
    assert len(seen) > 2000 and hashes.add(0) and not hashes.add(0)
