"""The completions of a rollout that are kept are the same for any number of ranks."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from factory.core.jsonl import recover_rows
from factory.stages.grpo import kept
from factory.stages.grpo.kept import KeptRollouts
from factory.trainers.watch import Ranks

GROUP, QUESTIONS = 2, 4
SAMPLING: Any = None


def row(number: int, redone: int, *, is_correct: bool) -> Any:
    response = SimpleNamespace(reasoning="e" * redone)
    verdict = SimpleNamespace(is_correct=is_correct)
    graded = SimpleNamespace(response=response, verdict=verdict, components={"accuracy": 1.0})
    return SimpleNamespace(graded=graded, total=1.0, number=number)


def written(folder: Path, rollouts: list[list[Any]], ranks: int, *, is_watched: bool) -> list[Any]:
    """What is kept of rollouts, of whose rows each of some ranks has its share."""
    folder.mkdir()
    files = [
        KeptRollouts(
            folder / "rollouts.jsonl", [], [], "", model="base", group=GROUP,
            steps=frozenset({1, 3}), is_watched=is_watched,
        )
        for _ in range(ranks)
    ]  # fmt: skip
    for step, rows in enumerate(rollouts, start=1):
        each = len(rows) // ranks
        shares = [rows[rank * each : (rank + 1) * each] for rank in range(ranks)]
        offers: list[Any] = []

        def collect(own: list[Any], into: list[Any] = offers) -> list[Any]:
            into += own
            return into

        # The first rank last: then all have offered, as where they wait for one another.
        for rank in reversed(range(ranks)):
            files[rank].add(shares[rank], step, SAMPLING, Ranks(rank, ranks, collect))
    return recover_rows(folder / "rollouts.jsonl")


@pytest.mark.parametrize("is_watched", [False, True])
def test_any_number_of_ranks_keeps_what_one_process_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_watched: bool
) -> None:
    def trace(self: KeptRollouts, row: Any, step: int, sampling: Any, *, sample: int) -> Any:
        return SimpleNamespace(model_dump=lambda mode: {"row": row.number, "sample": sample})

    monkeypatch.setattr(KeptRollouts, "_trace", trace)
    monkeypatch.setattr(kept, "redone_steps", len)
    counts = [[0] * 8, [0, 0, 0, 0, 0, 3, 3, 3], [0, 1, 0, 0, 2, 0, 2, 0], [9] * 8]
    right = {6, 7}
    rollouts = [
        [row(number, redone, is_correct=number in right) for number, redone in enumerate(rows)]
        for rows in counts
    ]
    alone = written(tmp_path / "1", rollouts, 1, is_watched=is_watched)
    for ranks in (2, 4):
        assert written(tmp_path / str(ranks), rollouts, ranks, is_watched=is_watched) == alone
    rows = [(line["step"], line["trace"]["row"], line.get("redone")) for line in alone]
    early = [[(step, number, None) for number in range(4)] for step in (1, 3)]
    # Of the second rollout, which is not kept, the first that does steps again; right ones first.
    telling = [[(2, 6, 3)], [(3, 6, 2)]] if is_watched else [[], []]
    assert rows == [*early[0], *telling[0], *early[1], *telling[1]]
