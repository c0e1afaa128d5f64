"""In which order questions are asked."""

import random

from factory.core.seeds import derive


def question_order(count: int, draws: int, seed: int) -> list[int]:
    """`draws` indices below `count`: whole passes, each in an order of its own."""
    order: list[int] = []
    while len(order) < draws:
        indices = list(range(count))
        random.Random(derive(seed, "grpo", "order", len(order) // count)).shuffle(indices)
        order += indices
    return order[:draws]
