"""Sets of many rows: broken rows among them, files that do not stay as they are, tables with
nulls within, and the same content whatever the number of processes."""

import json
import random
from itertools import permutations
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from factory.core.artifacts import Inputs
from factory.core.context import Context
from factory.core.errors import DataError
from factory.core.jsonl import read_records, write_records
from factory.core.machine import Machine
from factory.core.records import Outcome, SamplingConfig, Trace, Verdict
from factory.core.stored import StoredRecords
from factory.problems.similar import PRIME, _hashes, _maps, _signature
from factory.reading.candidates import Dropped
from factory.stages import STAGES
from factory.stages.imported import ImportedConfig, run
from factory.stages.mix import MixConfig
from factory.stages.select import SelectConfig
from factory.stages.texts import BATCH

THOUGHT = "<think> Some thought. </think> "


def imported(path: Path, out: Path, *, threads: int = 1, **settings: Any) -> dict[str, float]:
    """The stage's metrics; `out` has what it makes."""
    out.mkdir(parents=True)
    fields = {"kind": "imported", "source": {"type": "local", "path": str(path)}, **settings}
    config = ImportedConfig.model_validate_json(json.dumps(fields))
    return run(config, Inputs(), out, Context(0, Machine(threads=threads), out))


def line(number: int, **more: Any) -> bytes:
    row = {"prompt": f"Number {number}?", "completion": f"{THOUGHT}{number}", **more}
    return json.dumps(row).encode() + b"\n"


BROKEN = {
    b'{"prompt": "cut': ("unparseable", "no JSON: Invalid control character"),
    b'{"prompt": "\xff", "completion": "<think> a </think> 1"}': ("unparseable", "not UTF-8"),
    b'["a list"]': ("unparseable", "no JSON: is no JSON object"),
    b'{"prompt": null, "completion": "<think> a </think> 1"}': ("no_question", ""),
    b'{"prompt": "Why?", "completion": NaN}': ("unparseable", "no JSON: NaN"),
    b'{"prompt": "Why?", "completion": {"text": null}}': ("no_answer", ""),
    b"[" * 5000: ("unparseable", "no JSON"),
}


def test_broken_rows_among_many_are_named_by_line_and_the_rest_goes_on(tmp_path: Path) -> None:
    lines = [line(number) for number in range(3 * BATCH)]
    numbers = random.Random(1).sample(range(BATCH, 2 * BATCH), len(BROKEN))
    for number, broken in zip(numbers, BROKEN, strict=True):
        lines[number] = broken + b"\n"
    (tmp_path / "rows.jsonl").write_bytes(b"".join(lines))
    made = {}
    for threads in (1, 2):
        metrics = imported(tmp_path / "rows.jsonl", tmp_path / f"{threads}", threads=threads)
        assert metrics["kept"] == 3 * BATCH - len(BROKEN)
        assert metrics["candidates"] == 3 * BATCH
        names = ("traces.jsonl", "dropped.jsonl", "sources.json")
        made[threads] = [(tmp_path / f"{threads}" / name).read_bytes() for name in names]
    assert made[1] == made[2]
    dropped = {row.row: row for row in read_records(tmp_path / "2" / "dropped.jsonl", Dropped)}
    for number, (reason, detail) in zip(numbers, BROKEN.values(), strict=True):
        assert dropped[number + 1].reason == reason
        assert detail in dropped[number + 1].detail
    assert list(dropped) == sorted(number + 1 for number in numbers)


def test_more_broken_rows_than_the_bound_allows_stop_the_stage(tmp_path: Path) -> None:
    lines = [line(number) for number in range(2 * BATCH)] + [b"{\n"] * 20
    (tmp_path / "rows.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(DataError, match=r"20 of 1044 texts are refused.*\n.*rows.jsonl:1025: unp"):
        imported(tmp_path / "rows.jsonl", tmp_path / "out", threads=2, max_refused_share=0.01)


@pytest.mark.parametrize("what", ["changed", "came", "went", "cut"])
def test_a_folder_that_changes_while_it_is_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (folder / name).write_bytes(b"".join(map(line, range(400))))
    other, changes = folder / "b.jsonl", iter([True])

    def change(*given: object, **more: object) -> None:
        if not next(changes, False):
            return
        if what == "came":
            (folder / "c.jsonl").write_bytes(line(1))
        elif what == "went":
            other.unlink()
        elif what == "changed":
            other.write_bytes(other.read_bytes() + line(900))
        else:
            other.write_bytes(other.read_bytes()[:100])

    monkeypatch.setattr(Context, "progress", change)
    name = "c" if what == "came" else "b"
    word = "changed" if what == "cut" else what
    with pytest.raises(DataError, match=rf"{name}\.jsonl: {word} while it was read"):
        imported(folder, tmp_path / "out", max_refused_share=1.0)


TURN = pyarrow.struct([(n, pyarrow.string()) for n in ("from", "value", "role", "content")])
TEXTS = pyarrow.list_(pyarrow.struct([(n, pyarrow.string()) for n in ("type", "text")]))
PARTS = pyarrow.struct([("role", pyarrow.string()), ("content", TEXTS)])


def turns(question: Any, answer: Any, *, is_shared: bool = False) -> list[dict[str, Any]]:
    if is_shared:
        return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def part(text: str | None, kind: str | None = "text") -> list[dict[str, Any]]:
    return [{"type": kind, "text": text}]


GOLD = pyarrow.struct([("gold", pyarrow.string())])
RIGHT = f"{THOUGHT}7"
NULLS: dict[str, tuple[Any, list[tuple[Any, str]]]] = {
    "turns": (TURN, [
        (turns("Why?", RIGHT), ""), (turns("Who?", RIGHT, is_shared=True), ""),
        (None, "unparseable"), ([], "unparseable"), ([None], "unparseable"),
        ([*turns("Where?", RIGHT), None], "unparseable"), (turns(None, RIGHT), "no_question"),
        (turns("How?", None), "no_answer"),
        ([{"role": None, "content": "a"}, *turns("When?", RIGHT)], "tools"),
    ]),
    "parts": (PARTS, [
        (turns(part("Why?"), part(RIGHT)), ""), (turns(part("Who?", None), part(RIGHT)), ""),
        (turns([*part("Where?"), None], part(RIGHT)), ""),
        (turns(None, part(RIGHT)), "no_question"), (turns(part(None), part(RIGHT)), "no_question"),
        (turns(part("How?"), part(None)), "no_answer"),
        (turns(part("When?"), part(RIGHT, "image")), "tools"),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("shape", NULLS)
def test_nulls_within_a_table_are_told_by_row_wherever_they_stand(
    tmp_path: Path, shape: str
) -> None:
    kind, cases = NULLS[shape]
    for turned in range(len(cases)):
        rows = cases[turned:] + cases[:turned]
        column = pyarrow.array([row for row, _ in rows], pyarrow.list_(kind))
        parquet.write_table(pyarrow.table({"messages": column}), tmp_path / "rows.parquet")
        out = tmp_path / f"{turned}"
        metrics = imported(tmp_path / "rows.parquet", out, max_refused_share=1.0)
        dropped = {row.row: row.reason for row in read_records(out / "dropped.jsonl", Dropped)}
        assert [dropped.get(at, "") for at in range(1, len(rows) + 1)] == [r for _, r in rows]
        assert metrics["kept"] == sum(not reason for _, reason in rows)


def test_nulls_within_generations_flags_and_records_are_missing(tmp_path: Path) -> None:
    rows: list[tuple[Any, Any, Any, str]] = [
        ([RIGHT, None], [True, True], {"gold": "7"}, "no_answer"),
        ([RIGHT], [None], {"gold": "7"}, "flagged"),
        (None, [True], {"gold": "7"}, "no_answer"),
        ([RIGHT], None, {"gold": "7"}, "flagged"),
        ([RIGHT], [True], {"gold": None}, ""),
        ([RIGHT], [True], None, ""),
    ]
    columns = {"question": ["q"], "completion": "texts", "flags": ["ok"], "reference": "more.gold"}
    for turned, order in enumerate(permutations(rows, 6)):
        if turned % 119:
            continue
        table = pyarrow.table({
            "q": [f"Number {at}?" for at in range(6)],
            "texts": pyarrow.array([row[0] for row in order], pyarrow.list_(pyarrow.string())),
            "ok": pyarrow.array([row[1] for row in order], pyarrow.list_(pyarrow.bool_())),
            "more": pyarrow.array([row[2] for row in order], GOLD),
        })  # fmt: skip
        parquet.write_table(table, tmp_path / "rows.parquet")
        out = tmp_path / f"{turned}"
        imported(tmp_path / "rows.parquet", out, columns=columns, max_refused_share=1.0)
        dropped = {row.row: row.reason for row in read_records(out / "dropped.jsonl", Dropped)}
        assert [dropped.get(at, "") for at in range(1, 7)] == [row[3] for row in order]


def traces(count: int) -> list[Trace]:
    chance = random.Random(2)
    words = [f"w{number}" for number in range(50)]
    rows: list[Trace] = []
    outcomes: tuple[Outcome, ...] = ("correct", "wrong")
    for number in range(count):
        text = " ".join(chance.choices(words, k=30))
        if rows and chance.random() < 0.3:
            text = str(chance.choice(rows).reasoning)
            text = text.replace(" w7 ", " x ", 1)
        rows.append(Trace(
            problem_id=f"p-{chance.randrange(20)}", sample=number, question="What?",
            prompt="What?", completion=f"<think> {text} </think> <answer> 7 </answer>",
            reasoning=text, answer="7", finish_reason="stop", completion_tokens=number, seed=0,
            sampling=SamplingConfig(), style="written", model="",
            verdict=Verdict(outcome=outcomes[number % 2], answer="7", explanation=""),
        ))  # fmt: skip
    return rows


class Given:
    """Stands for an artifact of these traces."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stored_traces(self) -> StoredRecords[Trace]:
        return StoredRecords(self.path, Trace)


def test_select_and_mix_make_the_same_in_one_process_and_in_several(tmp_path: Path) -> None:
    write_records(tmp_path / "traces.jsonl", traces(600))
    given: Any = Given(tmp_path / "traces.jsonl")
    select = SelectConfig(kind="select", traces="t", max_per_problem=9)
    mix = MixConfig.model_validate(
        {"kind": "mix", "parts": ({"traces": "t"},), "near_duplicates": 0.7}
    )
    made = []
    for threads in (1, 2):
        parts = []
        for name, config, inputs in (
            ("select", select, {"traces": given}), ("mix", mix, {"parts.0.traces": given}),
        ):  # fmt: skip
            out = tmp_path / f"{name}-{threads}"
            out.mkdir()
            context = Context(0, Machine(threads=threads), tmp_path)
            metrics = STAGES[name].run(config, Inputs(inputs), out, context)
            parts += [metrics, *(path.read_bytes() for path in sorted(out.iterdir()))]
        made.append(parts)
    assert made[0] == made[1]
    assert made[0][0]["rejected.duplicate"] > 0 < made[0][3]["dropped.near_duplicate"]


@pytest.mark.parametrize("blank", [False, True])
def test_a_bad_record_is_named_by_line_or_by_its_number_where_lines_are_blank(
    tmp_path: Path, blank: bool
) -> None:
    path = tmp_path / "traces.jsonl"
    write_records(path, traces(3))
    path.write_text(path.read_text() + "\n" * blank + "{}\n")
    where = "record 4" if blank else "4"
    with pytest.raises(DataError, match=rf"traces.jsonl: ?{where}: problem_id: Field required"):
        StoredRecords(path, Trace)[3]


def test_minima_are_those_of_the_maps_as_they_are_written() -> None:
    """(slope x + offset) mod (2**31 - 1), in integers without bound."""
    slopes, offsets = _maps()
    for words in (1, 5, 6, 124, 700):
        values = _hashes(" ".join(f"w{number}" for number in range(words)))
        expected = [
            min((int(a) * (int(x) % PRIME) + int(b)) % PRIME for x in values)
            for a, b in zip(slopes, offsets, strict=True)
        ]
        assert _signature(values).tolist() == expected
