"""Which questions a rollout asks when groups without a signal are replaced.

DAPO (arXiv 2503.14476) eq. 11 wants 0 < |{correct}| < G in every group of a batch: groups whose
rewards are all equal have no advantage and no gradient, so further questions are asked until the
batch is full. Differs: a bound on the rounds; only as many groups as are missing are drawn; any
reward counts, not accuracy alone; what the bound leaves open is filled with the first groups
without a signal, since TRL's batches have a fixed size and such rows change nothing when KL is 0.

What rests is computed from the rows of `asked.jsonl` alone. A row is on disk before its rollout
is trained on, and a resumed run drops the rows past its step, so it sees what the undisturbed
run saw.
"""

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from factory.core.records import Record
from factory.core.seeds import derive

G = TypeVar("G")


class AskedRow(Record):
    """One rollout's questions, by index: an entry for every group that was drawn."""

    step: int
    """The update that the rollout is first used for."""
    asked: tuple[int, ...]
    solved: tuple[bool, ...]
    """Whether all samples of the group were correct."""


class Questions:
    """What to ask at a step: planned questions, replacements, and what rests."""

    def __init__(self, count: int, *, seed: int, rest_steps: int) -> None:
        self.count = count
        self.seed = seed
        self.rest_steps = rest_steps
        self._streak: dict[int, int] = {}
        self._rests_until: dict[int, int] = {}

    def note(self, row: AskedRow) -> None:
        """Take in one rollout. A question solved by all its samples twice in a row rests.

        It is absent from the rollouts of the `rest_steps` updates that follow; then it starts
        with a clean record.
        """
        for question, is_solved in zip(row.asked, row.solved, strict=True):
            self._streak[question] = self._streak.get(question, 0) + 1 if is_solved else 0
            if self._streak[question] == 2:
                self._streak[question] = 0
                self._rests_until[question] = row.step + self.rest_steps

    def resting(self, step: int) -> set[int]:
        """Questions that are not to be asked for this update."""
        return {question for question, until in self._rests_until.items() if step <= until}

    def plan(self, planned: Sequence[int], step: int) -> tuple[list[int], list[int]]:
        """The questions of the first round, and those that may replace groups, in their order.

        Replacements come from a permutation of their own for every step, without what rests and
        what the first round asks, so nothing has to be remembered from step to step. A resting
        question is replaced by the first of them; where none is left it is asked after all.
        """
        resting = self.resting(step)
        taken = {question for question in planned if question not in resting}
        spare = list(range(self.count))
        random.Random(derive(self.seed, "grpo", "replacements", step)).shuffle(spare)
        spare = [question for question in spare if question not in taken | resting]
        first = []
        for question in planned:
            first.append(spare.pop(0) if question in resting and spare else question)
        return first, spare


def fill(
    first: Sequence[int],
    spare: Sequence[int],
    *,
    rounds: int,
    draw: Callable[[Sequence[int], int], Sequence[G]],
    has_signal: Callable[[G], bool],
) -> tuple[list[G], list[G]]:
    """The groups to train on, as many as `first`, and every group that was drawn.

    Draws the first questions, then up to `rounds` times spare ones for the groups without a
    signal. `draw(questions, groups_before)` gives one group a question. A replacement takes the
    place of the group that it replaces.
    """
    groups = list(draw(first, 0))
    kept = list(groups)
    left = list(spare)
    for _ in range(rounds):
        places = [index for index, group in enumerate(kept) if not has_signal(group)]
        refill, left = left[: len(places)], left[len(places) :]
        if not refill:
            break
        fresh = list(draw(refill, len(groups)))
        groups += fresh
        useful = [group for group in fresh if has_signal(group)]
        for index, group in zip(places, useful, strict=False):
            kept[index] = group
    return kept, groups


def least_spare(first: Sequence[bool | None], spare: Sequence[bool | None], rounds: int) -> int:
    """How many spare questions `fill` asks at least, by the groups so far.

    `first` and `spare` say whether each has a signal, None while nobody knows. A further group
    without one can only add to the number; when all are there it is the number.
    """
    lacking, count = first.count(False), 0
    for _ in range(rounds):
        count = min(len(spare), lacking + spare[:count].count(False))
    return count
