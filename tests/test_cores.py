import os

import pytest

from lunaops.cores import num_cores, spread


def square(number: int) -> tuple[int, int]:
    return number**2, os.getpid()


@pytest.mark.parametrize(("workers", "at_once"), [(0, 1), (1, 1), (4, 10)])
def test_few_items_or_workers_are_served_here_in_their_order(workers: int, at_once: int) -> None:
    assert list(spread(square, [3, 1, 2], workers, at_once=at_once)) == [(n**2, os.getpid()) for n in (3, 1, 2)]


@pytest.mark.slow
def test_many_items_are_served_by_other_processes_in_their_order() -> None:
    done = list(spread(square, range(100), 2, at_once=10))
    assert [result for result, _ in done] == [n**2 for n in range(100)]
    assert os.getpid() not in {pid for _, pid in done}


def test_there_is_a_core() -> None:
    assert 1 <= num_cores() <= (os.cpu_count() or 1)
