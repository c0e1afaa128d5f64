"""What a training run measured on held-out problems on its way."""

from collections.abc import Sequence

from factory.core.records import Record


class GroupRow(Record):
    """The problems of one level, or of one source where they state no level."""

    n: int
    accuracy: float


class WatchRow(Record):
    """One measurement: a line of `watch.jsonl`."""

    step: int
    """Updates done before it; 0 is the model that training starts from."""
    n: int
    """Problems."""
    samples: int
    """Completions of each, k."""
    accuracy: float
    """pass@1, strict: mean over problems of the share of right answers."""
    low: float
    high: float
    """Its 95 % interval over problems."""
    consensus: float
    """cons@k: right by majority vote."""
    completion_length: float
    """Mean tokens."""
    format_share: float
    truncated_share: float
    language_share: float | None
    """Mean share of the thoughts' words in the wanted language; None where nothing reasons."""
    groups: dict[str, GroupRow]
    correct: tuple[int, ...]
    """Right answers of each problem, in order: two measurements can be paired."""


def mean(values: Sequence[float]) -> float:
    """Their arithmetic mean; ZeroDivisionError of none."""
    return sum(values) / len(values)
