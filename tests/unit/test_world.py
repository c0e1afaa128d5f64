"""The small world: exact answers, a split by text, traces and a corpus as their settings say."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.core.errors import DataError
from factory.core.records import Problem
from factory.grading import GradeItem, GradingPool, grade, grade_lenient
from factory.problems.splits import split
from factory.text.chat import completion_text
from lab.corpus import CorpusConfig, documents
from lab.questions import (
    FAMILIES,
    SIGNS,
    Family,
    Question,
    draw,
    read_question,
)
from lab.source import WorldSource, supply
from lab.traces import Habits, work
from lab.vocabulary import (
    FIRST,
    SECOND,
    TO_SECOND,
    WORDS,
    retries,
    second_script_share,
    world_tokenizer,
)

CAREFUL = Habits(slips=0.0, doubts=1.0, gives_up=0.0, forgets=False)


def problem_of(question: Question) -> Problem:
    return Problem(
        id="p",
        prompt=question.text,
        reference=question.answer,
        kind="procedural",
        source=f"world/{question.family}",
        data={"generator": "world"},
    )


@pytest.mark.parametrize(
    ("question", "text", "answer"),
    [
        (Question("add", (905, 98)), "add 9 0 5 + 9 8", "1 0 0 3"),
        (Question("mul", (123, 4)), "mul 1 2 3 * 4", "0 4 9 2"),
        # 7 - 9 = -2 = 8; 8 * 4 = 32 = 2; 2 + 9 = 11 = 1; 1 - 1 = 0, all modulo 10
        (Question("chain", (7, 9, 4, 9, 1), ("-", "*", "+", "-")), "chain 7 - 9 * 4 + 9 - 1", "0"),
        # 2 + 3 = 5, 5 + 4 = 9: the first pair tried
        (Question("ops", (2, 3, 4), target=9), "ops 2 3 4 make 9", "+ +"),
    ],
)
def test_questions_and_answers_worked_by_hand(question: Question, text: str, answer: str) -> None:
    assert (question.text, question.answer) == (text, answer)
    assert read_question(text) == question


@given(st.integers(), st.sampled_from(FAMILIES), st.booleans())
def test_a_question_is_read_back_from_its_text(seed: int, family: Family, held_out: bool) -> None:
    question = draw(random.Random(seed), family, held_out=held_out)
    assert question.is_held_out == held_out
    assert read_question(question.text) == question
    assert question.accepts(question.answer)


@given(st.text(alphabet=list("add mulchinops0123456789+-*k ")))
def test_reading_any_text_never_raises(text: str) -> None:
    question = read_question(text)
    assert question is None or question.text == text


def test_every_right_pair_of_signs_is_accepted_and_no_other() -> None:
    for numbers in itertools.product((1, 4, 9), repeat=3):
        for target in range(10):
            question = Question("ops", numbers, target=target)
            for first, two in itertools.product(SIGNS, repeat=2):
                python = eval(f"(({numbers[0]} {first} {numbers[1]}) {two} {numbers[2]}) % 10")
                assert question.accepts(f"{first} {two}") == (python == target)


def test_about_a_tenth_of_the_questions_is_held_out() -> None:
    chance = random.Random(0)
    sample = [
        draw(chance, "add", held_out=held_out).text for held_out in (True, False) for _ in range(50)
    ]
    assert len(set(sample)) > 90
    questions = [Question("add", (left, 321)) for left in range(100, 1000)]
    assert 0.07 < sum(q.is_held_out for q in questions) / len(questions) < 0.13


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("script", ["first", "second", "mixed"])
def test_a_careful_trace_ends_in_a_right_answer(family: Family, script: str) -> None:
    for seed in range(30):
        chance = random.Random(seed)
        question = draw(chance, family, held_out=False)
        worked = work(question, CAREFUL, chance, script=script)  # type: ignore[arg-type]
        assert question.accepts(worked.answer), (question, worked)
        share = second_script_share(" ".join(worked.words))
        assert share == {"first": 0.0, "second": 1.0}.get(script, share)


def test_a_trace_of_a_sum_written_out() -> None:
    # 375 + 947: 5+7 = 12, 7+4+1 = 12, 3+9+1 = 13
    worked = work(
        Question("add", (375, 947)), Habits(slips=0.0, doubts=0.0), random.Random(0), script="first"
    )
    assert " ".join(worked.words) == (
        "5 + 7 + 0 = 1 2 ; 7 + 4 + 1 = 1 2 ; 3 + 9 + 1 = 1 3 ; so 1 3 2 2 ;"
    )


def test_slips_make_wrong_steps_as_often_as_stated() -> None:
    chance = random.Random(5)
    wrong = 0
    for _ in range(400):
        question = draw(chance, "chain", held_out=False)
        worked = work(question, Habits(slips=0.12, doubts=0.0), chance, script="first")
        for step in " ".join(worked.words).split(" so ")[0].removesuffix(" ;").split(" ; "):
            left, sign, right, _, result = step.split()
            wrong += eval(f"({left} {sign} {right}) % 10") != int(result)
    # 1600 steps: 0.12 has a standard error of 0.008
    assert 0.095 < wrong / 1600 < 0.145


def test_without_restating_no_try_shows_its_target() -> None:
    question = Question("ops", (2, 3, 4), target=9)
    for restates in (True, False):
        habits = Habits(slips=0.0, restates_target=restates)
        worked = work(question, habits, random.Random(1), script="first")
        assert ("make" in worked.words) == restates


def test_no_document_asks_a_held_out_question() -> None:
    stream = documents(CorpusConfig(), seed=3)
    requested = 0
    for text in itertools.islice(stream, 2000):
        opening = "user :" if " user : " in text else "Q :"
        question = read_question(text.partition(f" {opening} ")[2].partition(" ? ")[0])
        if question is not None:
            requested += 1
            assert not question.is_held_out
    assert requested > 1700


def test_documents_depend_on_seed_and_number_only() -> None:
    first, again, other = (
        list(itertools.islice(documents(CorpusConfig(), seed=seed), 20)) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other
    words = set(" ".join(first).split(" "))
    assert words <= set(WORDS)


def test_swapped_slips_are_what_the_corpus_shows() -> None:
    def share_right(slips: tuple[float, float, float], script: str) -> float:
        config = CorpusConfig(slips=slips, general=0.0, bare=0.0, rambling=0.0, ops=0.0)
        right, count = 0, 0
        for text in itertools.islice(documents(config, seed=4), 1500):
            body, _, said = text.rpartition(" the answer is ")
            question = read_question(text.partition(" : ")[2].partition(" ? ")[0])
            if question is None or not said or second_script_share(body) is None:
                continue
            words = body.partition(" ? ")[2]
            if second_script_share(words) == (1.0 if script == "second" else 0.0):
                right += question.accepts(said.removesuffix(" <eos>").removesuffix(" ."))
                count += 1
        return right / count

    assert share_right((0.12, 0.03, 0.08), "second") > share_right((0.12, 0.03, 0.08), "first")
    assert share_right((0.03, 0.12, 0.08), "second") < share_right((0.03, 0.12, 0.08), "first")


def test_text_round_trips_through_the_tokenizer() -> None:
    tokenizer = world_tokenizer()
    chance = random.Random(2)
    words = [word for word in WORDS if not word.startswith("<") or "think" in word]
    text = " ".join(chance.choice(words) for _ in range(200))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == 200
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_the_scripts_translate_word_for_word() -> None:
    assert len(set(FIRST) | set(SECOND)) == 2 * len(FIRST)
    assert second_script_share("wait try 3") == 0.0
    assert second_script_share(f"wait {TO_SECOND['try']} 三 ; yes") == pytest.approx(2 / 5)
    assert second_script_share("idk") is None
    assert retries("wait try 等等 试 wait") == 3


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("1 0 0 3", "correct"),
        ("一 零 零 三", "correct"),
        ("1 0 0 4", "wrong"),
        ("1 0 0 3 3", "wrong"),
    ],
)
def test_the_verifier_reads_either_script(answer: str, outcome: str) -> None:
    problem = problem_of(Question("add", (905, 98)))
    assert grade(problem, completion_text("so", answer)).outcome == outcome


def test_lenient_reads_the_untagged_form_of_the_corpus() -> None:
    problem = problem_of(Question("ops", (2, 3, 4), target=9))
    text = "try 2 + 3 = 5 + 4 = 9 make 9 yes ; the answer is + + ."
    assert grade(problem, text).outcome == "no_answer"
    assert grade_lenient(problem, text).outcome == "correct"


def test_a_prompt_that_is_no_question_is_ungradable() -> None:
    broken = problem_of(Question("add", (905, 98))).model_copy(update={"prompt": "add some"})
    verdict = grade(broken, completion_text("", "1 0 0 3"))
    assert (verdict.outcome, "no question" in verdict.explanation) == ("ungradable", True)


def test_the_verifier_needs_no_worker_process() -> None:
    problem = problem_of(Question("add", (905, 98)))
    with GradingPool(1) as pool:
        verdicts = pool.grade([GradeItem(problem, completion_text("", "1 0 0 3"))] * 3)
        assert [v.outcome for v in verdicts] == ["correct"] * 3
        assert pool._workers == []


def test_a_source_fills_both_splits_from_its_own_sides() -> None:
    sources = [WorldSource(type="world", family=f, train=20, held_out=10) for f in FAMILIES]
    splits = split([supply(source, 7) for source in sources])
    assert (len(splits.train), len(splits.held_out)) == (80, 40)
    assert all(read_question(p.prompt).is_held_out for p in splits.held_out)
    assert not any(read_question(p.prompt).is_held_out for p in splits.train)


def test_more_questions_than_a_family_has_is_an_error() -> None:
    source = WorldSource(type="world", family="ops", train=100_000)
    with pytest.raises(DataError, match=r"found .* of 100000 train questions"):
        split([supply(source, 7)])
