"""Some 600 answers in further spellings, decided by hand before they were graded.

A row with `text` is a whole text for lenient grading.
"""

import json
from pathlib import Path

from factory.core.records import Problem
from factory.grading import GradeItem, GradingPool
from factory.text.chat import completion_text

ROWS = [
    json.loads(line)
    for line in Path(__file__).with_name("more_answers.jsonl").read_text("utf-8").splitlines()
]


def test_answers_are_graded_as_a_person_did_and_lenient_is_never_below_strict() -> None:
    items = []
    for number, row in enumerate(ROWS):
        data = {"choices": row["choices"]} if "choices" in row else {}
        problem = Problem(
            id=str(number), prompt="", reference=row["reference"], source="s", data=data,
            kind="choice" if data else "math",
        )  # fmt: skip
        text = row.get("text") or completion_text("so", row["answer"])
        items += [GradeItem(problem, text), GradeItem(problem, text, lenient=True)]
    with GradingPool(1) as pool:
        verdicts = pool.grade(items)
    pairs = list(zip(ROWS, verdicts[::2], verdicts[1::2], strict=True))
    wrong = [
        row
        for row, strict, lenient in pairs
        if (lenient if "text" in row else strict).is_correct != row["right"]
    ]
    assert wrong == []
    assert [row for row, strict, lenient in pairs if strict.is_correct > lenient.is_correct] == []
    assert len(ROWS) >= 600
