"""One function over many items in several processes, in order and within bounded memory."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

from factory.core.errors import EngineError
from factory.core.interpreter import die_with_parent

T = TypeVar("T")
R = TypeVar("R")

WAITING = 2
"""Results a process that may wait for their turn."""
_function: Callable[[Any], Any] | None = None


def in_order(function: Callable[[T], R], items: Iterable[T], processes: int) -> Iterator[R]:
    """What `function` makes of each item, in the order of the items.

    With several processes and items these are forks of this one: what the function refers to is
    there without being sent, and files must be read by position. EngineError where one is killed.
    """
    items = iter(items)
    first = list(islice(items, 2))
    if processes <= 1 or len(first) < 2:
        yield from map(function, first)
        yield from map(function, items)
        return
    pool = ProcessPoolExecutor(
        processes, multiprocessing.get_context("fork"), initializer=_start, initargs=(function,)
    )
    with pool:
        waiting: deque[Future[R]] = deque(pool.submit(_work, item) for item in first)
        try:
            for item in items:
                waiting.append(pool.submit(_work, item))
                if len(waiting) > WAITING * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise EngineError(
                "a process that works on texts was ended from outside, most likely since memory "
                "ran out; start again with fewer threads in the machine file"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start(function: Callable[[Any], Any]) -> None:
    global _function
    die_with_parent()
    _function = function


def _work(item: Any) -> Any:
    assert _function is not None
    return _function(item)
