"""Problems of the small world, split by the text of the question."""

import random
from collections.abc import Iterator
from typing import Literal

from factory.core.records import OWN_LICENCE, Problem
from factory.core.seeds import derive
from factory.problems.source import SOURCES, SourceConfig, generating
from factory.problems.splits import Supply, problem_id
from lab.questions import Family, draw


class WorldSource(SourceConfig):
    """Questions of one family. The held-out side is fixed by the question's text: whatever the
    seed, no stage of any recipe trains on it, the pre-training corpus included."""

    type: Literal["world"]
    family: Family
    """Sums, products, chains of steps, or the family that has to search."""


def supply(source: WorldSource, seed: int) -> Supply:
    """Different held-out questions first, as `split` takes them, then training ones without end."""
    return Supply(
        label=source.family,
        problems=_problems(source, random.Random(derive(seed, "world", source.family))),
        held_out=source.held_out,
        train=source.train,
        is_endless=True,
    )


def _problems(source: WorldSource, chance: random.Random) -> Iterator[Problem]:
    held_out: set[str] = set()
    while True:
        question = draw(chance, source.family, held_out=len(held_out) < source.held_out)
        if question.is_held_out:
            held_out.add(question.text)
        yield Problem(
            id=problem_id(source.family, question.text),
            prompt=question.text,
            reference=question.answer,
            kind="procedural",
            source=f"world/{source.family}",
            data={"generator": "world"},
        )


SOURCES.register(
    "world",
    generating(
        WorldSource,
        supply,
        label=lambda source: f"world/{source.family}",
        licence=OWN_LICENCE,
    ),
    version=1,
)
