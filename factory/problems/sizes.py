"""How many rows a source has and how long their texts are: counted, or by a stated assumption."""

import json
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from factory.core.errors import Unpriced

ROWS_READ = 64
"""Lines of a file, or questions of a family, whose mean length stands for all."""

QUESTION_CHARACTERS = 440.0
"""Of a hub data set's question: R1's mathematical prompts had 122 tokens (v2, Table 4)."""
HUB_ROWS: Mapping[str, int] = {
    "agentica-org/DeepScaleR-Preview-Dataset": 40315,
    "HuggingFaceH4/aime_2024": 30,
    "math-ai/aime25": 30,
    "HuggingFaceH4/MATH-500": 500,
    "databricks/databricks-dolly-15k": 15011,
}
"""Rows of the data sets that recipes read whole, by their cards."""


def hub_rows(data_set: str) -> int:
    """Rows of a hub data set by its card; Unpriced where it is not known."""
    if data_set not in HUB_ROWS:
        raise Unpriced(
            f"how many rows huggingface.co/datasets/{data_set} has is not known here: state a "
            "number in the recipe, or add it to factory/problems/sizes.py"
        )
    return HUB_ROWS[data_set]


def lines(path: Path) -> int:
    """Lines of a file that hold something."""
    with path.open("rb") as file:
        return sum(bool(line.strip()) for line in file)


def first_rows(path: Path) -> list[dict[str, Any]]:
    """The first rows of a JSONL file; Unpriced where they are none, as the stage will say too."""
    try:
        with path.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in islice(file, ROWS_READ) if line.strip()]
    except (OSError, ValueError) as error:
        raise Unpriced(f"{path}: cannot be read: {error}") from error
    if not all(isinstance(row, dict) for row in rows):
        raise Unpriced(f"{path}: not every line is a JSON object")
    return rows


def text_length(row: Mapping[str, Any], *names: str) -> int:
    """Characters of some fields of a row."""
    return sum(len(str(row.get(name, ""))) for name in names)


def mean(values: Iterable[float]) -> float:
    """Their mean; 0 of none."""
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else 0.0
