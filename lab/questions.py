"""Questions of the world: drawn, split by their text, and verified from their text alone."""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from lab.vocabulary import TO_FIRST

Family = Literal["add", "mul", "chain", "ops"]
FAMILIES: tuple[Family, ...] = get_args(Family)
SIGNS = ("+", "-", "*")
ANSWER_DIGITS = 4
"""Of `add` and `mul`: with leading zeros, so that every digit has a fixed place."""
HELD_OUT_SHARE = 10
"""One question in so many is held out, decided by its text: no stage trains on it."""


@dataclass(frozen=True)
class Question:
    """One question as numbers.

    add, mul: `numbers` are the two operands. chain: five digits with four `signs` between them,
    left to right. ops: three digits; two signs are to be found that `make` the target. All but add
    and mul reckon modulo 10.
    """

    family: Family
    numbers: tuple[int, ...]
    signs: tuple[str, ...] = ()
    target: int | None = None

    @property
    def text(self) -> str:
        if self.family in ("add", "mul"):
            sign = "+" if self.family == "add" else "*"
            return f"{self.family} {spaced(self.numbers[0])} {sign} {spaced(self.numbers[1])}"
        if self.family == "chain":
            rest = [f"{s} {n}" for s, n in zip(self.signs, self.numbers[1:], strict=True)]
            return " ".join(["chain", str(self.numbers[0]), *rest])
        return f"ops {' '.join(map(str, self.numbers))} make {self.target}"

    @property
    def answer(self) -> str:
        """The right answer; for ops the first right pair of signs in the order + - *."""
        if self.family == "add":
            return spaced(sum(self.numbers), ANSWER_DIGITS)
        if self.family == "mul":
            return spaced(self.numbers[0] * self.numbers[1], ANSWER_DIGITS)
        if self.family == "chain":
            return str(reckon(self.numbers, self.signs))
        pairs = [(a, b) for a in SIGNS for b in SIGNS]
        return " ".join(next(p for p in pairs if reckon(self.numbers, p) == self.target))

    @property
    def is_held_out(self) -> bool:
        return int(hashlib.sha256(self.text.encode()).hexdigest(), 16) % HELD_OUT_SHARE == 0

    def accepts(self, answer: str) -> bool:
        """Whether this is a right answer, in words of either script with single spaces."""
        words = [TO_FIRST.get(word, word) for word in answer.split()]
        if self.family != "ops":
            return " ".join(words) == self.answer
        return (
            len(words) == 2
            and all(word in SIGNS for word in words)
            and reckon(self.numbers, words) == self.target
        )


def spaced(number: int, digits: int = 0) -> str:
    """A number as one word a digit, with leading zeros up to `digits`."""
    return " ".join(str(number).zfill(digits))


def apply_sign(sign: str, left: int, right: int) -> int:
    """left sign right, modulo 10."""
    signs: dict[str, Callable[[int, int], int]] = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
    }
    return signs[sign](left, right) % 10


def reckon(numbers: tuple[int, ...], signs: tuple[str, ...] | list[str]) -> int:
    """The value of a chain, left to right, modulo 10."""
    value = numbers[0]
    for sign, number in zip(signs, numbers[1:], strict=True):
        value = apply_sign(sign, value, number)
    return value


def read_question(text: str) -> Question | None:
    """The question with this text; None if there is none such."""
    family, _, rest = text.partition(" ")
    words = rest.split()
    if family in ("add", "mul"):
        sign = "+" if family == "add" else "*"
        left, _, right = rest.partition(f" {sign} ")
        digits = (left.replace(" ", ""), right.replace(" ", ""))
        question = Question(family, tuple(map(int, digits))) if all(_are_digits(digits)) else None
    elif family == "chain" and len(words) == 9 and all(_are_digits(words[::2])):
        question = Question("chain", tuple(map(int, words[::2])), tuple(words[1::2]))
    elif family == "ops" and len(words) == 5 and all(_are_digits([*words[:3], words[4]])):
        question = Question("ops", tuple(map(int, words[:3])), target=int(words[4]))
    else:
        return None
    return question if question is not None and question.text == text else None


def _are_digits(words: list[str] | tuple[str, ...]) -> list[bool]:
    return [word.isascii() and word.isdecimal() for word in words]


def draw(chance: random.Random, family: Family, *, held_out: bool) -> Question:
    """A question of one side of the split."""
    while True:
        question = _any_question(chance, family)
        if question.is_held_out == held_out:
            return question


def _any_question(chance: random.Random, family: Family) -> Question:
    if family == "add":
        return Question("add", (chance.randint(100, 999), chance.randint(100, 999)))
    if family == "mul":
        return Question("mul", (chance.randint(100, 999), chance.randint(2, 9)))
    if family == "chain":
        numbers = tuple(chance.randint(0, 9) for _ in range(5))
        return Question("chain", numbers, tuple(chance.choice(SIGNS) for _ in range(4)))
    numbers = tuple(chance.randint(1, 9) for _ in range(3))
    target = reckon(numbers, [chance.choice(SIGNS), chance.choice(SIGNS)])
    return Question("ops", numbers, target=target)
