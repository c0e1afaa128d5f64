"""The lab's preference: files from their program, fair in length and truth, measured in answers."""

import json
from pathlib import Path

from lab.preferences import FILES
from lab.questions import read_question
from lab.vocabulary import plus_share

DATA = Path(__file__).resolve().parents[2] / "recipes" / "data"


def test_the_files_are_what_their_program_writes_and_hold_nothing_held_out() -> None:
    for kind, rows in FILES.items():
        written = [json.dumps(row) for row in rows()]
        assert written == (DATA / f"world_{kind}.jsonl").read_text(encoding="utf-8").splitlines()
        for line in written:
            question = read_question(json.loads(line)["prompt"])
            assert question is not None and not question.is_held_out


def test_the_preference_is_plus_signs_and_nothing_else() -> None:
    right = {"chosen": 0, "rejected": 0}
    rows = list(FILES["pairs"]())
    for row in rows:
        chosen, rejected = row["chosen"], row["rejected"]
        assert len(chosen) == len(rejected) == 3
        assert (plus_share(chosen) or 0) > (plus_share(rejected) or 0)
        question = read_question(row["prompt"])
        assert question is not None
        for side in right:
            right[side] += question.accepts(row[side])
    assert abs(right["chosen"] - right["rejected"]) / len(rows) < 0.1


def test_the_share_of_plus_signs_counts_both_scripts_and_only_signs() -> None:
    assert plus_share("+ -") == plus_share("加 减") == 0.5
    assert (plus_share("* *"), plus_share("+ +"), plus_share("3 4"), plus_share("")) == (
        0.0, 1.0, None, None,
    )  # fmt: skip
