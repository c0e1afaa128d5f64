"""A problem source of your own: word problems that are made as they are asked for.

factory build recipe.yaml --plugin examples/tickets.py

stages:
  questions:
    kind: problems
    sources:
      - {type: tickets, most: 12, train: 500, held_out: 50}
"""

from collections.abc import Iterator
from random import Random
from typing import Literal

from factory.plugins import Problem, SourceConfig, new_problem, source


class Tickets(SourceConfig):
    """`train` and `held_out` say how many questions each split takes."""

    type: Literal["tickets"]
    most: int = 20
    """Tickets that somebody buys."""


@source(Tickets, version=1, is_endless=True, licence="CC0-1.0")
def tickets(config: Tickets, seed: int) -> Iterator[Problem]:
    """Questions without end; those that come again are left out by the stage."""
    chance = Random(seed)
    while True:
        count, price = chance.randint(2, config.most), chance.randint(2, 99)
        question = f"{count} tickets cost {price} euros each. What do they cost together?"
        yield new_problem("tickets", question, reference=str(count * price), kind="math")
