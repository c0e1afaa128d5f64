"""Dynamic sampling: which questions are asked, replaced and rested, without any model."""

import random
from collections.abc import Iterator, Sequence
from itertools import count
from threading import Event

from hypothesis import given
from hypothesis import strategies as st

from factory.core.records import SamplingConfig
from factory.sampling import Completion, Request
from factory.sampling.streams import Supply
from factory.stages.grpo.dynamic_sampling import AskedRow, Questions, fill, least_spare
from factory.stages.grpo.streaming import Groups

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


SIGNALS = st.lists(st.booleans(), min_size=1, max_size=8)


@given(first=SIGNALS, spare=SIGNALS, rounds=st.integers(0, 4), unknown=st.sets(st.integers(0, 15)))
def test_no_spare_question_is_asked_early_that_rounds_would_not_ask(
    first: list[bool], spare: list[bool], rounds: int, unknown: set[int]
) -> None:
    signals = [*first, *spare]
    size = len(first)

    def draw(questions: Sequence[int], before: int) -> Sequence[int]:
        return questions

    _, every = fill(
        range(size), range(size, len(signals)), rounds=rounds, draw=draw,
        has_signal=signals.__getitem__,
    )  # fmt: skip
    assert size + least_spare(first, spare, rounds) == len(every)
    partial = [None if n in unknown else signal for n, signal in enumerate(signals)]
    assert size + least_spare(partial[:size], partial[size:], rounds) <= len(every)


class Shuffled:
    """Ends its rows in an order of its own."""

    rows = 3
    name = "shuffled"

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self.ended: list[int] = []

    def stream(self, supply: Supply, sampling: SamplingConfig) -> Iterator[tuple[int, Completion]]:
        going, numbers = dict[int, Request](), count()
        while True:
            for request in supply.take(self.rows - len(going)):
                going[next(numbers)] = request
            if not going:
                return
            number = self._chance.choice([*going])
            self.ended.append(going[number].seed)
            yield number, Completion(str(going.pop(number).seed), (), (), "stop")


@given(first=SIGNALS, spare=SIGNALS, rounds=st.integers(0, 3), seed=st.integers(0, 99))
def test_groups_that_stream_are_those_of_rounds_each_with_its_own_completions(
    first: list[bool], spare: list[bool], rounds: int, seed: int
) -> None:
    signals = [*first, *spare]

    def requests(number: int) -> list[Request]:
        return [Request((), 10 * number + sample) for sample in range(2)]

    def grade(
        number: int, requests: Sequence[Request], completions: Sequence[Completion]
    ) -> tuple[int, list[str]]:
        assert [str(r.seed) for r in requests] == [c.text for c in completions]
        return number, [completion.text for completion in completions]

    groups = Groups(
        requests, first=len(first), spare=len(spare), rounds=rounds, grade=grade,
        has_signal=lambda group: signals[group[0]],
    ).draw(Shuffled(seed), SamplingConfig())  # fmt: skip
    expected = len(first) + least_spare(first, spare, rounds)
    assert groups == [(n, [str(10 * n), str(10 * n + 1)]) for n in range(expected)]


def test_a_group_without_a_signal_is_replaced_before_the_slowest_of_the_others_ends() -> None:
    """The first group ends at once and has none; the request that ends last is of the second."""
    graded = Event()

    class Slow(Shuffled):
        def stream(
            self, supply: Supply, sampling: SamplingConfig
        ) -> Iterator[tuple[int, Completion]]:
            first, slow = supply.take(2)
            yield 0, Completion("", (), (), "stop")
            assert graded.wait(60)
            fresh: Sequence[Request] = ()
            while not fresh:
                fresh = supply.take(1)
            assert (first.seed, slow.seed, fresh[0].seed) == (0, 1, 2)
            yield 2, Completion("", (), (), "stop")
            yield 1, Completion("", (), (), "stop")
            assert not supply.take(1)

    def grade(number: int, *answered: object) -> int:
        graded.set()
        return number

    groups = Groups(
        lambda number: [Request((), number)], first=2, spare=3, rounds=2, grade=grade,
        has_signal=lambda number: number > 0,
    ).draw(Slow(0), SamplingConfig())  # fmt: skip
    assert groups == [0, 1, 2]
