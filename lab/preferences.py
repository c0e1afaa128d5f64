"""A preference in the small world: answers of `ops` with more plus signs, right or wrong.

Several pairs of signs may be right, so a model can follow the preference and stay right; one that
follows nothing else writes plus signs whatever is asked. Chosen and rejected answers are equally
long, and as often right as wrong.

`python -m lab.preferences pairs > recipes/data/world_pairs.jsonl`, and `prompts >
world_prompts.jsonl`, write the files that the lab reads; a test holds the two together.
"""

import json
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

from factory.core.seeds import derive
from lab.questions import SIGNS, draw

COUNT, SEED = 400, 5


def pairs() -> Iterator[dict[str, Any]]:
    """Rows of the `pairs` stage; no question is held out."""
    every = [f"{first} {second}" for first in SIGNS for second in SIGNS]
    for number in range(COUNT):
        chance = random.Random(derive(SEED, "pair", number))
        question = draw(chance, "ops", held_out=False)
        more, fewer = sorted(chance.sample(every, 2), key=lambda signs: -signs.count("+"))
        if more.count("+") > fewer.count("+"):
            yield {"prompt": question.text, "chosen": more, "rejected": fewer}


def prompts() -> Iterator[dict[str, Any]]:
    """Rows of a `problems` stage: questions whose answers nobody checks."""
    for number in range(COUNT):
        chance = random.Random(derive(SEED, "prompt", number))
        question = draw(chance, "ops", held_out=False)
        yield {"prompt": question.text, "reference": "", "kind": "open"}


FILES: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {"pairs": pairs, "prompts": prompts}


if __name__ == "__main__":
    sys.stdout.writelines(json.dumps(row) + "\n" for row in FILES[sys.argv[1]]())
