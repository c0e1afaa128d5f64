"""Completions one by one: the row of one that has ended goes to the next request."""

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Generic, Protocol, TypeVar, runtime_checkable

from factory.core.guarded import append_guarded, intact_rows
from factory.core.records import SamplingConfig
from factory.sampling.sampler import Completion, Request, Sampler

T = TypeVar("T")
R = TypeVar("R")
OnBlock = Callable[[Sequence[int], Sequence[Completion]], None]
"""Gets indices of requests with their completions."""


class Supply(Protocol):
    """Where a stream gets its requests; they are numbered as they are taken, from 0."""

    def take(self, count: int) -> Sequence[Request]:
        """The next requests, at most `count`; none where none is to be asked at present."""
        ...

    def given_up(self) -> Collection[int]:
        """Numbers of requests whose completion nobody waits for any more, since the last call."""
        ...


class Beside(Generic[T, R]):
    """Work on what has come, all of it at once, in a thread beside the engine's."""

    def __init__(self, work: Callable[[Sequence[T]], R], thread: ThreadPoolExecutor) -> None:
        self._work, self._thread = work, thread
        self._waiting: list[T] = []
        self._future: Future[R] | None = None

    def add(self, item: T) -> None:
        self._waiting.append(item)

    def results(self, *, is_last: bool = False) -> Iterator[R]:
        """What the work has given since the last call; sets it to what has come since, and if this
        is the last call waits for all of it."""
        while True:
            if self._future is not None and (is_last or self._future.done()):
                future, self._future = self._future, None
                yield future.result()
            if self._future is None and self._waiting:
                items, self._waiting = self._waiting, []
                self._future = self._thread.submit(self._work, items)
            if self._future is None or not is_last:
                return


class LongestFirst:
    """A supply of requests that are all there: one of each prompt, and then those of the prompts
    whose completions have been the longest so far, so that few long ones are left at the end.

    All are asked, whatever comes first; each has the seed of its own.
    """

    def __init__(self, requests: Sequence[Request]) -> None:
        self._requests = requests
        self.taken: list[int] = []
        """Indices of requests, in the order in which they were taken."""
        indices: dict[tuple[int, ...], deque[int]] = {}
        for index, request in enumerate(requests):
            indices.setdefault(request.prompt_ids, deque()).append(index)
        self._first = deque(own.popleft() for own in indices.values())
        self._further = {prompt: own for prompt, own in indices.items() if own}
        self._lengths: dict[tuple[int, ...], tuple[int, int]] = {}
        """Tokens and number of the completions of each prompt that has further requests."""

    def ended(self, prompt: tuple[int, ...], tokens: int) -> None:
        """Take note of how long a completion has become."""
        if prompt in self._further:
            before = self._lengths.get(prompt, (0, 0))
            self._lengths[prompt] = before[0] + tokens, before[1] + 1

    def take(self, count: int) -> Sequence[Request]:
        begin = len(self.taken)
        while len(self.taken) - begin < count and (self._first or self._further):
            self.taken.append(self._first.popleft() if self._first else self._longest())
        return [self._requests[index] for index in self.taken[begin:]]

    def given_up(self) -> Collection[int]:
        return ()

    def _longest(self) -> int:
        def mean(prompt: tuple[int, ...]) -> float:
            # Nothing has ended yet: it has taken longer than what has.
            tokens, count = self._lengths.get(prompt, (math.inf, 1))
            return tokens / count

        prompt = max(self._further, key=mean)
        index = self._further[prompt].popleft()
        if not self._further[prompt]:
            del self._further[prompt]
        return index


class Listed:
    """A supply of requests in their order."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self._requests = iter(requests)

    def take(self, count: int) -> Sequence[Request]:
        return [*islice(self._requests, count)]

    def given_up(self) -> Collection[int]:
        return ()


@runtime_checkable
class Streaming(Protocol):
    """An engine that fills the row of a completion that has ended at once."""

    @property
    def rows(self) -> int:
        """Requests that it draws at once, at most."""
        ...

    def stream(self, supply: Supply, sampling: SamplingConfig) -> Iterator[tuple[int, Completion]]:
        """(number, completion) of each request as soon as it ends, in any order; ends when nothing
        is under way and the supply gives nothing. An engine failure raises EngineError."""
        ...


def stream(
    sampler: Sampler, supply: Supply, sampling: SamplingConfig, *, block: int
) -> Iterator[tuple[int, Completion]]:
    """`Streaming.stream` of any engine; those that have none draw blocks of as many requests."""
    if isinstance(sampler, Streaming):
        yield from sampler.stream(supply, sampling)
        return
    number = 0
    while requests := supply.take(block):
        for completion in sampler.sample(requests, sampling):
            yield number, completion
            number += 1


def sample_stream(
    sampler: Sampler,
    keyed: Sequence[tuple[str, Request]],
    sampling: SamplingConfig,
    *,
    segment: Path,
    block: int,
    on_block: OnBlock = lambda indices, completions: None,
) -> list[Completion]:
    """As `sample_blocks`, without blocks: what ends is told in whatever order it does, once it is
    on disk."""
    kept = kept_completions(keyed, segment)
    indices = [index for index, (key, _) in enumerate(keyed) if key not in kept]
    supply = LongestFirst([keyed[index][1] for index in indices])
    for key, request in keyed:
        if key in kept:
            supply.ended(request.prompt_ids, kept[key].tokens)

    def keep(fresh: Sequence[tuple[int, Completion]]) -> Sequence[tuple[int, Completion]]:
        append_guarded(segment, ({"key": keyed[index][0], **c.row()} for index, c in fresh))
        return fresh

    def tell(fresh: Sequence[tuple[int, Completion]]) -> None:
        kept.update((keyed[index][0], completion) for index, completion in fresh)
        on_block([index for index, _ in fresh], [completion for _, completion in fresh])

    if kept:
        tell([(index, kept[key]) for index, (key, _) in enumerate(keyed) if key in kept])
    with ThreadPoolExecutor(1) as thread:
        writing = Beside(keep, thread)
        try:
            for number, completion in stream(sampler, supply, sampling, block=block):
                index = indices[supply.taken[number]]
                supply.ended(keyed[index][1].prompt_ids, completion.tokens)
                writing.add((index, completion))
                for fresh in writing.results():
                    tell(fresh)
        finally:
            for fresh in writing.results(is_last=True):
                tell(fresh)
    return [kept[key] for key, _ in keyed]


def kept_completions(keyed: Sequence[tuple[str, Request]], segment: Path) -> dict[str, Completion]:
    """Completions of an earlier attempt, by key; ValueError if two requests have one key."""
    if len({key for key, _ in keyed}) != len(keyed):
        raise ValueError("keys of requests must be unique")
    return {row["key"]: Completion.from_row(row) for row in intact_rows(segment)}
