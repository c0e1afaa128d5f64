"""A trace source of your own: accepted answers of a forum's export, to learn from.

factory build recipe.yaml --plugin examples/forum.py

stages:
  cold_start:
    kind: written
    source: {type: forum, path: forum.csv}
    unlike: questions
    licence: CC-BY-4.0
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from factory.plugins import TraceSourceConfig, WorkedExample, trace_source


class Forum(TraceSourceConfig):
    """A CSV file with the columns title, body and accepted."""

    type: Literal["forum"]
    path: str


@trace_source(Forum, version=1, files=lambda config: (Path(config.path),))
def forum(config: Forum) -> Iterator[WorkedExample]:
    """Each thread as a question, the thoughts behind its answer, and the answer."""
    with Path(config.path).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield WorkedExample(
                question=row["title"], reasoning=row["body"], answer=row["accepted"]
            )
