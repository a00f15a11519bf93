"""How many processes can work at once, and work spread over them."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def num_cores() -> int:
    """The cores that this process may use; all of the machine's where the system cannot tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(work: Callable[[T], R], items: Sequence[T], workers: int, *, at_once: int = 1) -> Iterator[R]:
    """Yield the work on every item, in their order, over so many processes; each takes `at_once` items at a time.

    One process is this one: a process more costs about a second to start.
    """
    workers = min(workers, -(-len(items) // at_once))
    if workers <= 1:
        yield from map(work, items)
        return
    context = multiprocessing.get_context("spawn")  # fork is unsafe beside the threads of numerical libraries
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(work, items, chunksize=at_once)
