"""A benchmark of your own: fifty questions, the same ones in every evaluation.

    factory build recipe.yaml --plugin examples/tickets_50.py

A recipe, or a suite, asks it by its name:

    benchmarks: [{name: tickets_50, task: tickets_50}]
"""

from collections.abc import Iterator
from random import Random

from factory.plugins import Problem, benchmark


@benchmark("tickets_50", version=1, licence="CC0-1.0")
def tickets_50() -> Iterator[Problem]:
    """Prices of several tickets; the chance is seeded, so that each call gives the same ones."""
    chance = Random(50)
    for number in range(50):
        count, price = chance.randint(2, 99), chance.randint(2, 9)
        yield Problem(
            id=f"tickets_50-{number:02}",
            prompt=f"{count} tickets cost {price} each. What do they cost together?",
            reference=str(count * price),
            kind="exact",
            source="tickets_50",
        )
