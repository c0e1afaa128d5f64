"""Dynamic sampling: which questions are asked, replaced and rested, without any model."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from factory.stages.grpo.dynamic_sampling import AskedRow, Questions, fill

ALL, NONE = True, False


def filled(outcomes: dict[int, bool]) -> tuple[list[Sequence[int]], list[int], list[int]]:
    """Rounds asked, groups kept, groups drawn; a group is its question, `outcomes` its signal."""
    rounds: list[Sequence[int]] = []

    def draw(questions: Sequence[int], before: int) -> list[int]:
        assert before == sum(map(len, rounds))
        rounds.append(list(questions))
        return list(questions)

    kept, every = fill(
        [0, 1, 2], [3, 4, 5, 6], rounds=2, draw=draw, has_signal=lambda group: outcomes[group]
    )
    return rounds, kept, every


def test_a_batch_with_signal_costs_nothing_more() -> None:
    assert filled(dict.fromkeys(range(7), True)) == ([[0, 1, 2]], [0, 1, 2], [0, 1, 2])


def test_groups_without_signal_are_replaced_in_place_until_the_batch_is_full() -> None:
    # 0 and 2 are missing; of 3 and 4 only 4 has a signal and takes place 0; then 5 takes place 2.
    outcomes = {0: False, 1: True, 2: False, 3: False, 4: True, 5: True, 6: True}
    rounds, kept, every = filled(outcomes)
    assert rounds == [[0, 1, 2], [3, 4], [5]]
    assert kept == [4, 1, 5]
    assert every == [0, 1, 2, 3, 4, 5]


def test_the_limit_of_rounds_leaves_the_first_groups_in_the_batch() -> None:
    rounds, kept, _ = filled(dict.fromkeys(range(7), False))
    assert rounds == [[0, 1, 2], [3, 4, 5], [6]], "two further rounds, and then no question left"
    assert kept == [0, 1, 2]


def row(step: int, requested: dict[int, bool]) -> AskedRow:
    return AskedRow(step=step, asked=tuple(requested), solved=tuple(requested.values()))


def test_a_question_solved_twice_in_a_row_rests_for_exactly_its_steps() -> None:
    questions = Questions(4, seed=0, rest_steps=3)
    questions.note(row(1, {0: ALL, 1: ALL}))
    assert questions.resting(2) == set()
    questions.note(row(2, {0: ALL, 1: NONE}))
    assert [questions.resting(step) for step in range(3, 7)] == [{0}, {0}, {0}, set()]
    # Asked again, it starts with a clean record.
    questions.note(row(6, {0: ALL}))
    assert questions.resting(7) == set()


def test_a_miss_between_two_solved_rollouts_keeps_a_question_in() -> None:
    questions = Questions(4, seed=0, rest_steps=3)
    for step, outcome in enumerate([ALL, NONE, ALL], start=1):
        questions.note(row(step, {0: outcome}))
    assert questions.resting(4) == set()


def test_resting_questions_are_replaced_and_asked_after_all_only_where_none_is_left() -> None:
    questions = Questions(3, seed=0, rest_steps=5)
    for step in (1, 2):
        questions.note(row(step, {0: ALL}))
    first, spare = questions.plan([0, 1], 3)
    assert first == [2, 1]
    assert spare == []
    first, spare = questions.plan([0, 1, 2], 3)
    assert first == [0, 1, 2]
    assert questions.plan([0, 1], 8)[0] == [0, 1], "back after five steps"


@given(
    planned=st.lists(st.integers(0, 19), min_size=1, max_size=6, unique=True),
    solved=st.lists(st.integers(0, 19), max_size=12, unique=True),
    step=st.integers(3, 40),
)
def test_no_question_is_asked_twice_and_a_restart_plans_the_same(
    planned: list[int], solved: list[int], step: int
) -> None:
    def after_two_rollouts() -> Questions:
        questions = Questions(20, seed=5, rest_steps=10)
        for earlier in (1, 2):
            questions.note(row(earlier, dict.fromkeys(solved, ALL)))
        return questions

    first, spare = after_two_rollouts().plan(planned, step)
    assert len(first) == len(planned)
    assert len({*first, *spare}) == len(first) + len(spare)
    assert not set(spare) & after_two_rollouts().resting(step)
    assert after_two_rollouts().plan(planned, step) == (first, spare)
