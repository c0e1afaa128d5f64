"""Worked examples for a cold start, as a careful person would write them.

`python -m lab.examples > recipes/data/worked_world.jsonl` writes the file that the lab
reads; a test holds the two together.
"""

import json
import random
import sys
from collections.abc import Iterator

from factory.core.seeds import derive
from lab.questions import FAMILIES, draw
from lab.traces import Habits, work

COUNT, SEED = 40, 3
CAREFUL = Habits(slips=0.0, doubts=0.25, gives_up=0.0, forgets=False)
"""In one script, without slips; tries do not repeat and go on until one is right."""


def examples(count: int = COUNT, seed: int = SEED) -> Iterator[dict[str, str]]:
    """Rows of the `written` stage, the four families in turn; none is held out."""
    for number in range(count):
        chance = random.Random(derive(seed, "example", number))
        question = draw(chance, FAMILIES[number % len(FAMILIES)], held_out=False)
        worked = work(question, CAREFUL, chance, script="first")
        yield {
            "question": question.text,
            "reasoning": " ".join(worked.words),
            "answer": worked.answer,
            "kind": "exact",
        }


if __name__ == "__main__":
    sys.stdout.writelines(json.dumps(row) + "\n" for row in examples())
