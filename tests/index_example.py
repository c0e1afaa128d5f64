"""Rows of an index for its tests."""

from factory.indexing.rows import IndexRow


def row(model: str, value: float = 0.5, **fields: object) -> IndexRow:
    given = {
        "recipe": "r", "model": model, "benchmark": "sums", "version": "1", "metric": "pass@1",
        "value": value, "low": value - 0.1, "high": value + 0.1, "n": 40, "k": 2,
        "created": "2026-11-30T10:00:00+00:00", "evaluation": f"e-{model}",
    }  # fmt: skip
    return IndexRow.model_validate({**given, **fields})
