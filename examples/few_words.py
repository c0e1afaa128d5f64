"""A reward of your own: thoughts of at most so many words.

factory build recipe.yaml --plugin examples/few_words.py

rewards:
  - {name: accuracy}
  - {name: few_words, weight: 0.2, settings: {most: 150}}
"""

from factory.plugins import GradedCompletion, Record, reward


class Words(Record):
    """What a recipe may set."""

    most: int = 200
    """Words that cost nothing."""


@reward("few_words", version=1, settings=Words, bounds=(-1.0, 0.0))
def few_words(completion: GradedCompletion, settings: Words) -> float | None:
    """0 up to `most` words of thought, -1 at twice as many; None: does not apply."""
    if completion.problem.kind == "open":
        return None
    words = len((completion.reasoning or "").split())
    return -min(1.0, max(0.0, words / settings.most - 1.0))
