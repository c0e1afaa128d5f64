"""Sampling without blocks: every request is drawn, in an order that shortens the end, and is heard
once it is on disk."""

import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.core.errors import EngineError
from factory.core.guarded import intact_rows
from factory.core.records import SamplingConfig
from factory.cost.filling import fill
from factory.sampling import Completion, Request
from factory.sampling.sampler import OnEnd, nobody
from factory.sampling.streams import LongestFirst, Supply, sample_stream

SAMPLING = SamplingConfig(max_new_tokens=99)
KEYED = [
    (f"p{prompt}/{sample}", Request((prompt,), 10 * prompt + sample))
    for prompt in range(4) for sample in range(3)
]  # fmt: skip


class Rows:
    """Draws three at once, each for as many steps as its seed is; fails after so many of them."""

    name = "rows"
    rows = 3

    def __init__(self, fails_after: int = 1000) -> None:
        self.seeds: list[int] = []
        self._left = fails_after

    def stream(self, supply: Supply, sampling: SamplingConfig) -> Iterator[tuple[int, Completion]]:
        going, numbers, step = dict[int, tuple[int, Request]](), itertools.count(), 0
        while True:
            for request in supply.take(self.rows - len(going)):
                going[next(numbers)] = (step + request.seed + 1, request)
                self.seeds.append(request.seed)
            if not going:
                return
            number = min(going, key=lambda number: going[number][0])
            step, request = going.pop(number)
            self._left -= 1
            if self._left < 0:
                raise EngineError("out of memory")
            tokens = (0,) * (request.seed + 1)
            yield number, Completion(f"reply {request.seed}", tokens, (), "stop")

    def sample(
        self, requests: Sequence[Request], sampling: SamplingConfig, on_end: OnEnd = nobody
    ) -> list[Completion]:
        raise AssertionError("draws without blocks")

    def load_weights(self, weights: object) -> None:
        pass

    def close(self) -> None:
        pass


def test_completions_are_in_order_and_told_once_they_are_on_disk(tmp_path: Path) -> None:
    segment, heard = tmp_path / "s.jsonl", list[int]()

    def on_block(indices: Sequence[int], completions: Sequence[Completion]) -> None:
        heard.extend(indices)
        kept = {row["key"] for row in intact_rows(segment)}
        assert {KEYED[index][0] for index in heard} <= kept
        assert [c.text for c in completions] == [f"reply {KEYED[p][1].seed}" for p in indices]

    engine = Rows()
    completions = sample_stream(
        engine, KEYED, SAMPLING, segment=segment, block=5, on_block=on_block
    )
    assert [c.text for c in completions] == [f"reply {request.seed}" for _, request in KEYED]
    assert sorted(heard) == [*range(12)] and sorted(engine.seeds) == sorted(
        request.seed for _, request in KEYED
    )
    # One of each prompt, and then those of the longest.
    assert engine.seeds[:4] == [0, 10, 20, 30]
    assert engine.seeds[-2:] == [1, 2]


@pytest.mark.parametrize("ended", [0, 1, 5, 11])
def test_what_an_engine_drew_before_it_failed_is_not_asked_again(
    ended: int, tmp_path: Path
) -> None:
    segment = tmp_path / "s.jsonl"
    with pytest.raises(EngineError, match="out of memory"):
        sample_stream(Rows(ended), KEYED, SAMPLING, segment=segment, block=5)
    assert len(intact_rows(segment)) == ended
    heard: list[int] = []
    engine = Rows()
    completions = sample_stream(
        engine, KEYED, SAMPLING, segment=segment, block=5,
        on_block=lambda indices, completions: heard.extend(indices),
    )  # fmt: skip
    assert [c.text for c in completions] == [f"reply {request.seed}" for _, request in KEYED]
    assert len(engine.seeds) == 12 - ended
    assert sorted(heard) == [*range(12)]


@given(
    prompts=st.lists(st.integers(0, 5), max_size=30),
    sizes=st.lists(st.integers(0, 4), min_size=1, max_size=9),
    lengths=st.randoms(use_true_random=False),
)
def test_every_request_is_drawn_once_whatever_lengths_come(
    prompts: list[int], sizes: list[int], lengths: random.Random
) -> None:
    requests = [Request((prompt,), seed) for seed, prompt in enumerate(prompts)]
    supply, taken = LongestFirst(requests), list[Request]()
    for size in itertools.cycle([*sizes, 1]):
        if len(taken) == len(requests):
            break
        fresh = supply.take(size)
        assert len(fresh) == min(size, len(requests) - len(taken))
        taken += fresh
        for request in fresh:
            supply.ended(request.prompt_ids, lengths.randrange(100))
    assert [requests[index] for index in supply.taken] == taken
    assert sorted(request.seed for request in taken) == [*range(len(requests))]
    assert not supply.take(5)


def test_the_end_is_shorter_where_some_questions_take_longer_than_others() -> None:
    """Thirty questions with 64 samples, as AIME's, on 256 rows: more of them stay busy."""
    chance = random.Random(3)
    middles = [6000 * chance.lognormvariate(0, 0.7) for _ in range(30)]
    requests = [Request((prompt,), 64 * prompt + n) for prompt in range(30) for n in range(64)]
    length = {
        r.seed: round(middles[r.seed // 64] * chance.lognormvariate(0, 0.5)) for r in requests
    }
    plain = fill([length[request.seed] for request in requests], rows=256)
    supply, going, step, tokens = LongestFirst(requests), dict[int, int](), 0, 0
    while True:
        going |= {r.seed: step + length[r.seed] for r in supply.take(256 - len(going))}
        if not going:
            break
        seed = min(going, key=going.__getitem__)
        step = going.pop(seed)
        tokens += length[seed]
        supply.ended((seed // 64,), length[seed])
    assert tokens == sum(length.values())
    assert tokens / (256 * step) > plain.busy + 0.05
