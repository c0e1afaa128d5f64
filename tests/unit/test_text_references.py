"""References that are no mathematics: compared as text, never ungradable, and told at loading."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from factory.core.artifacts import Inputs
from factory.core.context import Context
from factory.core.errors import DataError
from factory.core.jsonl import read_records
from factory.core.machine import Machine
from factory.core.records import Problem, Verdict
from factory.grading import GradeItem, GradingPool, grade
from factory.grading.math import parts_of
from factory.problems import references
from factory.problems.references import (
    decide_as_text,
    final_answer,
    is_right,
    is_solution,
    settle_unreadable,
)
from factory.stages.problems import STAGE, ProblemsConfig
from factory.text.chat import completion_text

UNREADABLE = [
    "①③", r"x\equiv 2 \pmod{7}", "60°或120°", "3或4", r"X \sim N(0,1)", r"P(A\cap B)=0.2",
    r"A \cup B", r"1+2+\cdots+n", r"\begin{cases} x & x \ge 0 \\ -x & x < 0 \end{cases}",
    r"\vec{a} \perp \vec{b}", "x+" * 201 + "1", "π/2或3",
]  # fmt: skip
READ = [
    r"\sum_{k=1}^{n} k^2", r"\prod_{i=1}^{n} a_i", r"\lim_{n\to\infty} a_n", r"\int_0^1 f",
    r"\overrightarrow{AB}", r"\forall x: x > 0",
]  # fmt: skip
"""Mathematics that only the reference itself can be equal to: answers such as these are refused."""
WORDS = ["甲", "正确", "乙和丙", "да", "不 是", "はい", "Monday", "no"]
MATHS = [
    "7",
    r"\frac{1}{2}",
    "x+1",
    "(1,2)",
    r"\alpha",
    r"\pi",
    "ab",
    "π",
    r"\{1,2\}",
    "x=3",
    "[0,1)",
]


def problem(reference: str, **data: Any) -> Problem:
    return Problem(id="p", prompt="q", reference=reference, kind="math", source="s", data=data)


def verdict(reference: str, answer: str, **data: Any) -> Verdict:
    return grade(problem(reference, **data), completion_text("", answer))


@pytest.mark.parametrize("reference", UNREADABLE + WORDS + READ)
def test_every_answer_to_a_reference_that_is_no_mathematics_gets_a_verdict(reference: str) -> None:
    assert is_right(problem(reference))
    for answer in ("5", "987654", r"\sqrt{2}", "x+1", "or", "(1, 2)", "错误", "", "a = b"):
        if answer:
            assert verdict(reference, answer).outcome == "wrong", answer
    assert verdict(reference, reference.upper()).outcome in ("correct", "wrong")


def test_text_is_compared_folded() -> None:
    assert verdict("正确", " 正确 ").is_correct
    assert verdict(r"A \cup B", r"$A  \cup B$").is_correct
    assert verdict(r"Да", "да").is_correct
    assert not verdict(r"\sum_{k=1}^{n} k^2", "1}^{n} k^2").is_correct
    assert not verdict("3或4", "3").is_correct
    assert not verdict("甲", "乙").is_correct


def test_a_part_that_is_no_mathematics_is_compared_as_text_and_the_others_by_value() -> None:
    assert verdict(r"1/2, A \cup B", r"A\cup B, 0.5").is_correct
    assert verdict(r"1/2, A \cup B", r"A \cup C, 0.5").outcome == "wrong"


def test_a_problem_that_was_marked_is_compared_as_text_alone() -> None:
    assert verdict("1/2", "0.5").is_correct
    assert verdict("1/2", "0.5", compared_as="text").outcome == "wrong"
    assert verdict("1/2", "$1/2$", compared_as="text").is_correct


def test_parts_are_those_of_lists() -> None:
    assert parts_of(r"\boxed{(1, \{x, y\})}") == ["1", "x", "y"]
    assert parts_of("1,234") == ["1,234"]
    assert parts_of("blue whale") == ["blue whale"]


def test_which_references_are_text_is_decided_once_at_loading() -> None:
    problems = [problem(reference) for reference in [*MATHS, *READ, *UNREADABLE, *WORDS]]
    marked, texts = decide_as_text(problems)
    assert texts == UNREADABLE + WORDS
    assert marked == problems


def test_a_reference_that_takes_too_long_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(GradingPool):
        def grade(self, items: Any) -> list[Verdict]:
            late = Verdict(outcome="ungradable", answer=None, explanation="longer than 10 s")
            return [late if "x" in i.problem.reference else grade(i.problem, i.text) for i in items]

    monkeypatch.setattr(references, "GradingPool", Late)
    (first, second), texts = decide_as_text([problem("1, x", level=3), problem("y")])
    assert (first.data, second.data) == ({"level": 3, "compared_as": "text"}, {})
    assert texts == ["1, x"]


def test_the_problems_stage_says_how_many_and_names_three(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n}", "reference": r} for n, r in enumerate([*MATHS, *UNREADABLE[:5]])]
    source = tmp_path / "mine.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = {
        "kind": "problems",
        "sources": [{"type": "local", "path": str(source), "train": None, "held_out": 0}],
    }
    events = io.StringIO()
    context = Context(0, Machine(threads=1), tmp_path, events)
    config = ProblemsConfig.model_validate_json(json.dumps(data))
    metrics = STAGE.run(config, Inputs(), tmp_path, context)
    assert metrics["compared_as_text"] == 5
    notes = [e["text"] for e in map(json.loads, events.getvalue().splitlines()) if "text" in e]
    (note,) = [text for text in notes if "compared as text" in text]
    assert f"5 of {len(rows)} references" in note
    for reference, is_named in zip(UNREADABLE[:4], (True, True, True, False), strict=True):
        assert (repr(reference) in note) == is_named
    kept = list(read_records(tmp_path / "train.jsonl", Problem))
    with GradingPool(1) as pool:
        items = [GradeItem(item, completion_text("", "8642")) for item in kept]
        assert {item.outcome for item in pool.grade(items)} == {"wrong"}


GSM8K = "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nShe sold 48+24 = <<48+24=72>>72.\n"


@pytest.mark.parametrize(
    "reference",
    [
        GSM8K,
        "He has 5 apples. She gives him 3 more. So it is 8.",
        "We multiply both sides by two and then take the root, which gives us four of them",
    ],
)
def test_a_worked_solution_is_no_reference(reference: str) -> None:
    assert is_solution(reference)
    assert not is_right(problem(reference))


@pytest.mark.parametrize(
    "reference",
    [*MATHS, *UNREADABLE, *WORDS, *READ, "St. Louis", "3.5 m. or less", "no real solution exists",
     r"So it is \boxed{8}. It is. Really it is.", r"\text{June 5, 2004}"],
)  # fmt: skip
def test_answers_are_references(reference: str) -> None:
    assert not is_solution(reference)
    assert is_right(problem(reference))


def test_what_stands_behind_the_last_mark_is_the_reference(tmp_path: Path) -> None:
    from factory.problems.local import LocalSource, supply

    assert final_answer(f"{GSM8K}#### 72") == "72"
    assert final_answer("1/2") == "1/2"
    path = tmp_path / "solved.jsonl"
    path.write_text(json.dumps({"prompt": "q", "reference": f"{GSM8K}#### 1,072"}), "utf-8")
    (result,) = supply(LocalSource(type="local", path=str(path)), 0).problems
    assert result.reference == "1,072"
    path.write_text(json.dumps({"prompt": "q", "reference": GSM8K}), "utf-8")
    with pytest.raises(DataError, match="a worked solution"):
        list(supply(LocalSource(type="local", path=str(path)), 0).problems)


def test_a_recipe_says_what_becomes_of_references_without_a_value() -> None:
    union = Problem(id="u", prompt="q", reference=r"A \cup B", kind="math", source="rows")
    words = Problem(id="w", prompt="q", reference="Monday", kind="math", source="rows")
    number = Problem(id="n", prompt="q", reference="7", kind="math", source="rows")
    problems, texts = decide_as_text([union, words, number])
    assert texts == [r"A \cup B", "Monday"]
    for how in ("exact", "open"):
        kinds = [p.kind for p in settle_unreadable(problems, texts, how)]
        assert kinds == [how, "math", "math"]
    assert settle_unreadable(problems, texts, "text") == problems
    with pytest.raises(DataError, match=r"(?s)1 reference of .* problem u of rows: .*unreadable"):
        settle_unreadable(problems, texts, "refuse")
    settle_unreadable([words, number], ["Monday"], "refuse")
