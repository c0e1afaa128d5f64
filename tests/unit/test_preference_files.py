"""The shipped preferences: what their program writes, and fit to learn from."""

import json
from pathlib import Path

import pytest

from factory.core.jsonl import read_records
from factory.preferences.examples import FILES
from factory.preferences.lengths import length_gap
from factory.preferences.sources import LocalFile, stored_labels, stored_pairs
from factory.problems.local import LocalRow

DATA = Path(__file__).resolve().parents[2] / "recipes" / "data"
NAMES = {
    "pairs": "general_pairs.jsonl", "labels": "safety_labels.jsonl",
    "prompts": "general_prompts.jsonl",
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_what_its_program_writes(kind: str) -> None:
    written = "".join(json.dumps(row) + "\n" for row in FILES[kind]())
    assert written == (DATA / NAMES[kind]).read_text(encoding="utf-8")


def test_neither_length_nor_the_label_alone_gives_them_away() -> None:
    pairs = stored_pairs(LocalFile(type="local", path=str(DATA / NAMES["pairs"])))
    assert len(pairs) == 80 and abs(length_gap(pairs)) < 0.1
    longer = sum(len(pair.chosen) > len(pair.rejected) for pair in pairs)
    assert 0.3 < longer / len(pairs) < 0.7
    labels = stored_labels(LocalFile(type="local", path=str(DATA / NAMES["labels"])))
    assert sum(label.is_safe for label in labels) == len(labels) / 2 == 40
    # Some are unsafe for their thoughts alone: the answer itself also stands in a safe response.
    answers = {label.is_safe: set() for label in labels}
    for label in labels:
        answers[label.is_safe].add(label.response.partition("<answer>")[2])
    assert len(answers[True] & answers[False]) > 10


def test_no_general_prompt_is_one_that_a_reward_model_learned_from_but_for_the_situations() -> None:
    pairs = stored_pairs(LocalFile(type="local", path=str(DATA / NAMES["pairs"])))
    requests = list(read_records(DATA / NAMES["prompts"], LocalRow))
    assert {row.kind for row in requests} == {"open"}
    assert {row.prompt for row in requests} & {pair.prompt for pair in pairs} == set()
