"""Worked traces with stated error rates: what the corpus shows a base model."""

import random
from dataclasses import dataclass
from typing import Literal

from lab.questions import SIGNS, Question, apply_sign, spaced
from lab.vocabulary import TO_SECOND

Script = Literal["first", "second", "mixed"]
SWITCH = 0.35
"""Chance that a mixed trace changes its script at a step."""
MOST_TRIES = 10


@dataclass(frozen=True)
class Habits:
    """How a writer works.

    `slips`: chance that a step's result is wrong. `doubts`: chance that a trace of another family
    than ops is checked by doing it again. `gives_up`: chance, after each failed try of ops, to end
    with its wrong answer. `restates_target`: whether a try of ops writes the target beside its
    result, which makes yes or no a comparison of neighbours; without it the check carries little
    information. `forgets`: whether tries may repeat.
    """

    slips: float
    doubts: float = 0.15
    gives_up: float = 0.45
    restates_target: bool = True
    forgets: bool = True


@dataclass(frozen=True)
class Worked:
    """A trace: its words in order, and the answer that it ends in, right or wrong."""

    words: tuple[str, ...]
    answer: str


def work(question: Question, habits: Habits, chance: random.Random, *, script: Script) -> Worked:
    """A trace of this question, in one script or changing between them."""
    if question.family == "ops":
        steps, answer = _tries(question, habits, chance)
    else:
        steps, answer = _steps(question, habits.slips, chance)
        steps.append(["so", *answer.split(), ";"])
        if chance.random() < habits.doubts:
            again, answer = _steps(question, min(habits.slips, 0.03), chance)
            steps += [["wait", "check"], *again, ["so", *answer.split(), ";"]]
    return Worked(tuple(_written(steps, script, chance)), answer)


def _written(steps: list[list[str]], script: Script, chance: random.Random) -> list[str]:
    words: list[str] = []
    in_second = script == "second"
    for step in steps:
        if script == "mixed" and chance.random() < SWITCH:
            in_second = not in_second
        words += [TO_SECOND[word] for word in step] if in_second else step
    return words


def _steps(question: Question, slips: float, chance: random.Random) -> tuple[list[list[str]], str]:
    """The steps of add, mul and chain, and the answer they lead to."""
    if question.family == "chain":
        value = question.numbers[0]
        steps = []
        for sign, number in zip(question.signs, question.numbers[1:], strict=True):
            result = _slipping(apply_sign(sign, value, number), 10, slips, chance)
            steps.append([str(value), sign, str(number), "=", str(result), ";"])
            value = result
        return steps, str(value)
    left, right = question.numbers
    carry, digits, steps = 0, [], []
    for index in range(3):
        own = left // 10**index % 10
        other = right if question.family == "mul" else right // 10**index % 10
        value = own * other if question.family == "mul" else own + other
        total = _slipping(value + carry, 100, slips, chance)
        sign = "*" if question.family == "mul" else "+"
        sum_words = [str(own), sign, str(other), "+", str(carry)]
        steps.append([*sum_words, "=", *spaced(total, 2).split(), ";"])
        carry, digit = divmod(total, 10)
        digits.append(digit)
    return steps, " ".join(str(digit) for digit in (carry, *reversed(digits)))


def _slipping(value: int, size: int, slips: float, chance: random.Random) -> int:
    """The value, or with chance `slips` a wrong one below `size`."""
    if chance.random() >= slips:
        return value
    near = [value + step for step in (-10, -2, -1, 1, 2, 10)] if size > 10 else range(size)
    return chance.choice([n for n in near if 0 <= n < size and n != value])


def _tries(
    question: Question, habits: Habits, chance: random.Random
) -> tuple[list[list[str]], str]:
    """Tries of ops until one is right by the writer's own reckoning, or the writer gives up."""
    first, second, third = question.numbers
    pairs = [(a, b) for a in SIGNS for b in SIGNS]
    chance.shuffle(pairs)
    steps: list[list[str]] = []
    for count in range(MOST_TRIES):
        signs = chance.choice(pairs) if habits.forgets else pairs[count % len(pairs)]
        half = _slipping(apply_sign(signs[0], first, second), 10, habits.slips, chance)
        total = _slipping(apply_sign(signs[1], half, third), 10, habits.slips, chance)
        is_target = total == question.target
        step = ["wait", "try"] if count else ["try"]
        step += [str(first), signs[0], str(second), "=", str(half)]
        step += [signs[1], str(third), "=", str(total)]
        step += ["make", str(question.target)] if habits.restates_target else []
        steps.append([*step, "yes" if is_target else "no", ";"])
        last = count == MOST_TRIES - 1 or chance.random() < habits.gives_up
        if is_target or last:
            break
    return steps, " ".join(signs)
