"""Which problems of a file a stage asks."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from factory.core.errors import DataError
from factory.core.jsonl import read_records
from factory.core.records import Problem


def chosen_problems(path: Path, sources: Sequence[str], limit: int | None = None) -> list[Problem]:
    """Problems of a file, of the given sources, the first `limit`; DataError if none is left."""
    problems = list(read_chosen(path, sources, limit))
    if not problems:
        raise DataError(f"{path}: no problem of sources {list(sources) or 'any'}")
    return problems


def sources_cut_off(path: Path, sources: Sequence[str], limit: int | None) -> list[str]:
    """Sources that `limit` leaves nothing of: a file holds one source after the other."""
    if limit is None:
        return []
    taken = {problem.source for problem in read_chosen(path, sources, limit)}
    return sorted({problem.source for problem in read_chosen(path, sources, None)} - taken)


def read_chosen(path: Path, sources: Sequence[str], limit: int | None) -> Iterator[Problem]:
    """As `chosen_problems`, one after the other."""
    chosen = (p for p in read_records(path, Problem) if not sources or p.source in sources)
    return islice(chosen, limit)
