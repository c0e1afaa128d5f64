"""Held-out questions in traces, and texts that are nearly equal."""

import random
from pathlib import Path

import pytest

from factory.core.artifacts import Artifact, Inputs, seal
from factory.core.context import Context
from factory.core.errors import DataError
from factory.core.jsonl import read_records, write_records
from factory.core.machine import Machine
from factory.core.records import Problem, SamplingConfig, Trace, Verdict
from factory.problems.overlap import HeldOut, words
from factory.problems.similar import near_duplicates, shingles
from factory.stages.mix import STAGE, Dropped, MixConfig

TRAIN = "A train leaves the old station at 9 and runs for 120 miles before it stops to rest"
"""17 words: ten runs of 8, five of 13."""


def problem(number: int, prompt: str) -> Problem:
    return Problem(id=f"h{number}", prompt=prompt, reference="1", kind="math", source="benchmark")


HELD_OUT = HeldOut([problem(0, TRAIN), problem(1, "3 + 4 = ?")])


def test_words_lose_signs_and_case_and_masked_ones_their_numbers() -> None:
    assert words("It COSTS $12, x_1!") == ("it", "costs", "12", "x", "1")
    assert words("It costs 12", masked=True) == ("it", "costs", "0")


def test_eight_words_of_a_question_are_a_hit_and_seven_are_not() -> None:
    eight = "Say: leaves the old station at 9, and runs now"
    hit = HELD_OUT.question_hit(eight)
    assert hit is not None and hit.problem == "h0"
    assert (hit.rule, hit.shared) == ("8 words", "leaves the old station at 9 and runs")
    assert HELD_OUT.question_hit("Say: leaves the old station at 9, and rests") is None


def test_a_question_with_other_numbers_is_a_hit() -> None:
    hit = HELD_OUT.question_hit("One leaves the old station at 10 and runs away")
    assert hit is not None and hit.rule == "8 words, numbers masked"
    assert hit.shared == "leaves the old station at 0 and runs"


def test_short_questions_are_compared_whole_with_their_signs() -> None:
    hit = HELD_OUT.question_hit(" 3 + 4  = ?")
    assert hit is not None and (hit.problem, hit.rule) == ("h1", "same question")
    for other in ("3 - 4 = ?", "5 + 6 = ?", "3 + 4 + 5 = ?"):
        assert HELD_OUT.question_hit(other) is None


def test_a_long_text_needs_thirteen_words() -> None:
    twelve = " ".join(TRAIN.split()[:12])
    assert HELD_OUT.text_hit(f"I remember: {twelve} yards.") is None
    hit = HELD_OUT.text_hit(f"I remember: {' '.join(TRAIN.split()[:13])} and so on.")
    assert hit is not None and hit.rule == "13 words"


def test_a_paraphrase_is_missed() -> None:
    assert HELD_OUT.question_hit("At 9 some train departs and travels 120 miles") is None


def test_a_phrase_that_many_held_out_questions_share_is_no_content() -> None:
    phrase = "Please put the final answer of this problem into a box:"
    shared = HeldOut([problem(n, f"{phrase} {'abc'[n]} plus {'xyz'[n]}") for n in range(3)])
    assert shared.question_hit(f"{phrase} something new") is None
    two = HeldOut([problem(n, f"{phrase} {'abc'[n]} plus {'xyz'[n]}") for n in range(2)])
    assert two.question_hit(f"{phrase} something new") is not None


def test_a_row_of_numbers_is_no_hit_when_masked() -> None:
    index = HeldOut([problem(0, "Sort 5 3 9 1 7 2 8 now")])
    assert index.question_hit("Sort 6 2 8 3 1 9 4 later") is None
    assert index.question_hit("Please sort 5 3 9 1 7 2 8") is not None


def numbered(changed: int, total: int = 24) -> str:
    return " ".join("new" if at == changed else f"w{at}" for at in range(total))


def test_one_changed_word_gives_the_similarity_that_counting_gives() -> None:
    # 24 words have 20 runs of 5. A change of the first word changes one run: 19 of 21 shared; one
    # in the middle changes five: 15 of 25.
    base = numbered(-1)
    assert len(shingles(base)) == 20
    for changed, similarity in ((0, 19 / 21), (12, 15 / 25)):
        texts = [base, numbered(changed)]
        assert near_duplicates(texts, similarity - 1e-9) == {1: 0}
        assert near_duplicates(texts, similarity + 1e-9) == {}


def test_only_kept_texts_are_compared_with_and_equal_ones_are_found() -> None:
    texts = [
        numbered(-1),
        "something else entirely here",
        numbered(-1),
        numbered(0),
        "short",
        "short",
    ]
    assert near_duplicates(texts, 0.9) == {2: 0, 3: 0, 5: 4}


def trace(number: int, question: str, completion: str) -> Trace:
    return Trace(
        problem_id=f"p{number}", sample=0, question=question, prompt="", completion=completion,
        reasoning=None, answer=None, finish_reason="stop", completion_tokens=5, seed=0,
        sampling=SamplingConfig(), style="chat", model="m",
        verdict=Verdict(outcome="correct", answer=None, explanation=""),
    )  # fmt: skip


def sealed(folder: Path, kind: str, name: str, records: list) -> Artifact:
    folder.mkdir()
    write_records(folder / name, records)
    fields = {
        "kind": kind, "name": kind, "stage": kind, "stage_version": 1, "fingerprint": kind,
        "config": {}, "inputs": {}, "seed": 0, "metrics": {}, "versions": {}, "machine": {},
        "commit": "", "dirty": False, "seconds": 0.0, "peak_memory_gib": 0.0, "created": "",
    }  # fmt: skip
    return seal(folder, folder.with_suffix(".sealed"), fields)


def mixed(tmp_path: Path, traces: list[Trace], **settings: object) -> tuple[dict, list[str], Path]:
    inputs = Inputs(
        {
            "parts.0.traces": sealed(tmp_path / "set", "traces", "traces.jsonl", traces),
            "unlike.0": sealed(
                tmp_path / "held", "problems", "held_out.jsonl", [problem(0, TRAIN)]
            ),
        }
    )
    fields = {"kind": "mix", "parts": [{"traces": "set"}], **settings}
    config = MixConfig.model_validate(fields, strict=False)
    if not config.unlike:
        del inputs["unlike.0"]
    out = tmp_path / "out"
    out.mkdir()
    metrics = STAGE.run(config, inputs, out, Context(1, Machine(), tmp_path))
    kept = sorted(record.problem_id for record in read_records(out / "traces.jsonl", Trace))
    return metrics, kept, out


TRACES = [
    trace(0, "Fresh question", numbered(-1)),
    trace(1, TRAIN.replace("120", "130"), "an answer"),
    trace(2, "Another one", f"As I know: {TRAIN}."),
    trace(3, "Fresh question", numbered(0)),
]


def test_a_mixture_leaves_out_leaks_and_near_duplicates_and_says_why(tmp_path: Path) -> None:
    # p0 and p3 with their questions: 26 words, 22 runs each, the changed third word is in three of
    # them; 19 of 25 are shared.
    metrics, kept, out = mixed(tmp_path, TRACES, unlike=["held"], near_duplicates=0.76)
    assert kept == ["p0"]
    assert (metrics["dropped.held_out"], metrics["dropped.near_duplicate"]) == (2, 1)
    dropped = {record.problem_id: record for record in read_records(out / "dropped.jsonl", Dropped)}
    assert dropped["p1"].like == "h0" and dropped["p1"].shared.startswith("8 words: a train")
    assert dropped["p2"].shared.startswith("13 words: ")
    assert (dropped["p3"].reason, dropped["p3"].like) == ("near duplicate", "p0/0")


def test_without_these_settings_nothing_is_looked_for_and_no_file_is_added(tmp_path: Path) -> None:
    metrics, kept, out = mixed(tmp_path, TRACES)
    assert kept == ["p0", "p1", "p2", "p3"] and "dropped.held_out" not in metrics
    assert [path.name for path in out.iterdir()] == ["traces.jsonl"]


def test_a_mixture_of_leaks_alone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no traces in any of set"):
        mixed(tmp_path, TRACES[1:3], unlike=["held"])


def compared_with_all(texts: list[str], threshold: float) -> dict[int, int]:
    """What near_duplicates should give, by comparing every text with every kept one."""
    sets = [shingles(text) for text in texts]
    twins: dict[int, int] = {}
    for position, own in enumerate(sets):
        kept = (other for other in range(position) if other not in twins)
        like = (o for o in kept if len(own & sets[o]) / len(own | sets[o]) >= threshold)
        if (first := next(like, None)) is not None:
            twins[position] = first
    return twins


@pytest.mark.parametrize(("threshold", "processes"), [(0.85, 1), (0.95, 2)])
def test_many_texts_give_what_comparing_all_pairs_gives(threshold: float, processes: int) -> None:
    # Above 0.85 a pair is missed with probability (1 - 0.85**4)**32, below 1e-10.
    stream = random.Random(7)
    words_of = [[f"w{stream.randrange(400)}" for _ in range(60)] for _ in range(40)]
    texts = []
    for _ in range(800):
        text = list(stream.choice(words_of))
        for _ in range(stream.choice((0, 0, 1, 2, 9))):
            text[stream.randrange(60)] = f"new{stream.randrange(10**6)}"
        texts.append(" ".join(text))
    twins = near_duplicates(texts, threshold, processes=processes)
    assert 100 < len(twins) < 700
    assert twins == compared_with_all(texts, threshold)
