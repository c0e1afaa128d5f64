"""Completions one by one: the row of one that has ended goes to the next request."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol, runtime_checkable

from factory.guarded import append_guarded, intact_rows
from factory.records import SamplingConfig
from factory.sampling.sampler import Completion, Request, Sampler

OnBlock = Callable[[int, Sequence[Completion]], None]


class Supply(Protocol):
    """Where a stream gets its requests; they are numbered as they are taken, from 0."""

    def take(self, count: int) -> Sequence[Request]:
        """The next requests, at most `count`; none where none is to be asked at present."""
        ...

    def given_up(self) -> Collection[int]:
        """Numbers of requests whose completion nobody waits for any more, since the last call."""
        ...


class Listed:
    """A supply of requests that are all to be had at once."""

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
    on_block: OnBlock = lambda start, completions: None,
) -> list[Completion]:
    """As `sample_blocks`, without blocks; `on_block` gets completions in the order of requests."""
    kept = kept_completions(keyed, segment)
    missing = [(key, request) for key, request in keyed if key not in kept]
    supply = Listed(request for _, request in missing)
    reported = 0

    def report() -> None:
        nonlocal reported
        start = reported
        while reported < len(keyed) and keyed[reported][0] in kept:
            reported += 1
        if reported > start:
            on_block(start, [kept[key] for key, _ in keyed[start:reported]])

    report()
    for number, completion in stream(sampler, supply, sampling, block=block):
        key, _ = missing[number]
        append_guarded(segment, [{"key": key, **completion.row()}])
        kept[key] = completion
        report()
    return [kept[key] for key, _ in keyed]


def kept_completions(keyed: Sequence[tuple[str, Request]], segment: Path) -> dict[str, Completion]:
    """Completions of an earlier attempt, by key; ValueError if two requests have one key."""
    if len({key for key, _ in keyed}) != len(keyed):
        raise ValueError("keys of requests must be unique")
    return {row["key"]: Completion.from_row(row) for row in intact_rows(segment)}
