"""One function over many items in several processes."""

import os
import signal
from collections.abc import Iterator

import pytest

from factory.core.errors import DataError, EngineError
from factory.core.parallel import WAITING, in_order


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("items", [0, 1, 2, 3, 40])
def test_results_come_in_the_order_of_the_items_and_none_is_lost(processes: int, items: int):
    assert list(in_order(lambda n: n * n, range(items), processes)) == [n * n for n in range(items)]


def test_items_are_read_only_a_few_ahead_of_the_results():
    taken: list[int] = []

    def items() -> Iterator[int]:
        for n in range(1000):
            taken.append(n)
            yield n

    results = in_order(lambda n: n, items(), 2)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert len(taken) <= 5 + 2 * WAITING + 1
    results.close()


def test_an_error_of_the_function_and_the_death_of_a_process_end_the_work():
    def fails(n: int) -> int:
        if n == 30:
            raise DataError("row 30")
        return n

    def dies(n: int) -> int:
        if n == 30:
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    with pytest.raises(DataError, match="row 30"):
        list(in_order(fails, range(100), 2))
    with pytest.raises(EngineError, match="ended from outside"):
        list(in_order(dies, range(100), 2))
