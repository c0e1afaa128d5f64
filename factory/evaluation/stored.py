"""Our verdicts on stored answers beside those of other graders, for a person to decide.

A row is `{"id", "reference", "answer" or "response", "prompt", "right"}`, one JSON object a line.
Where all graders agree the row counts as they say; where they differ it counts as `right` says, and
is listed until somebody has said so. Errors are then of answers that did not shape the grader.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import model_validator

from factory.core.jsonl import read_records
from factory.core.records import Record
from factory.evaluation.audit import Case, Row, baseline_accepts, our_accepts, tally
from factory.text.chat import completion_text

OTHERS = ("math-verify, in dollars", "TRL accuracy, in dollars")


class StoredAnswer(Record):
    """One stored answer of any model to a question of mathematics."""

    id: str
    reference: str
    answer: str | None = None
    """The final answer alone."""
    response: str | None = None
    """Or the completion as it is; ours reads its answer strictly."""
    prompt: str = ""
    right: bool | None = None
    """What a person decided; None: nobody did."""

    @model_validator(mode="after")
    def _has_one_text(self) -> "StoredAnswer":
        if (self.answer is None) == (self.response is None):
            raise ValueError("give either answer or response")
        return self

    @property
    def case(self) -> Case:
        """The row as a case of a suite; what is expected is not known yet."""
        text = self.response or completion_text("", self.answer or "")
        return Case(
            id=self.id, category="stored", kind="math", reference=self.reference,
            prompt=self.prompt, response=text, expected="correct" if self.right else "wrong",
        )  # fmt: skip


class Disagreement(Record):
    """A row on which graders differ, with what each accepts."""

    id: str
    reference: str
    answer: str
    accepted_by: tuple[str, ...]
    right: bool | None
    """What was decided."""


class Comparison(Record):
    """Errors of each grader, and the rows on which they differ."""

    answers: int
    rows: tuple[Row, ...]
    disagreements: tuple[Disagreement, ...]

    @property
    def undecided(self) -> int:
        """Rows that nobody has decided; they count for no grader."""
        return sum(row.right is None for row in self.disagreements)


def compare_stored(path: Path, decided: Path | None = None) -> Comparison:
    """Grade stored answers with ours and the others; decisions may be in a file of their own.

    That file has rows with `id` and `right`; those of other ids are left out.
    """
    answers = list(read_records(path, StoredAnswer))
    if decided is not None:
        said = {row.id: row.right for row in read_records(decided, Decision)}
        answers = [row.model_copy(update={"right": said.get(row.id, row.right)}) for row in answers]
    cases = [row.case for row in answers]
    accepted = {"factory": our_accepts(cases)}
    accepted |= {name: baseline_accepts(name, cases) for name in OTHERS}
    return _compared(answers, cases, accepted)


class Decision(Record):
    """What a person decided about one row."""

    id: str
    right: bool | None
    note: str = ""


def _compared(
    answers: Sequence[StoredAnswer], cases: Sequence[Case], accepted: dict[str, list[bool]]
) -> Comparison:
    counted: list[int] = []
    settled: list[Case] = []
    disagreements: list[Disagreement] = []
    for number, (row, case) in enumerate(zip(answers, cases, strict=True)):
        marks = {name: marks[number] for name, marks in accepted.items()}
        right = row.right
        if len(set(marks.values())) > 1:
            names = tuple(name for name, mark in marks.items() if mark)
            text = row.answer if row.answer is not None else (row.response or "")[-200:]
            disagreements.append(
                Disagreement(
                    id=row.id, reference=row.reference, answer=text, accepted_by=names, right=right
                )
            )
        elif right is None:
            right = all(marks.values())
        if right is not None:
            counted.append(number)
            settled.append(case.model_copy(update={"expected": "correct" if right else "wrong"}))
    rows = [
        tally(name, settled, [marks[number] for number in counted])[-1]
        for name, marks in accepted.items()
    ]
    return Comparison(answers=len(answers), rows=tuple(rows), disagreements=tuple(disagreements))
