"""How many processes can work at once, and work spread over them."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context, parent_process
from queue import SimpleQueue
from threading import Thread
from typing import ParamSpec, TypeVar

from lunaops.errors import InputError

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


def num_cores() -> int:
    """The cores that this process may use; all of the machine's where the system cannot tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(
    work: Callable[[T], R],
    items: Sequence[T],
    workers: int,
    *,
    at_once: int = 1,
    start: Callable[[], None] | None = None,
    mend: str = "run again, on fewer cores if memory is short",
) -> Iterator[R]:
    """Yield the work on every item, in their order, over so many processes; each takes `at_once` items at a time.

    A process costs about a second to start, so this one is the first of them, but where each must `start` before it
    works. All end with this one, also where it is killed. Raises InputError, which ends in `mend`, where one is killed.
    """
    chunks = [items[first : first + at_once] for first in range(0, len(items), at_once)]
    workers = min(workers, len(chunks))
    if workers <= 1:
        yield from map(work, items)
        return
    context = get_context("spawn")  # fork is unsafe beside the threads of numerical libraries
    idle: SimpleQueue[ProcessPoolExecutor | None] = SimpleQueue()

    def work_on(chunk: Sequence[T]) -> list[R]:
        process = idle.get()
        try:
            return process.submit(_each, work, chunk).result() if process else _each(work, chunk)
        finally:
            idle.put(process)

    with ExitStack() as stack:
        if start is None:
            idle.put(None)
        for _ in range(
            workers - idle.qsize()
        ):  # a pool for each: a pool of several hangs if one is killed while it starts the next
            process = ProcessPoolExecutor(1, mp_context=context, initializer=_start, initargs=(start,))
            idle.put(stack.enter_context(process))
        threads = stack.enter_context(ThreadPoolExecutor(workers))
        try:
            for done in threads.map(work_on, chunks):
                yield from done
        except BrokenProcessPool as error:
            raise InputError(f"one of {workers} processes was killed, perhaps for want of memory: {mend}") from error


@contextmanager
def meanwhile(work: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> Iterator[Callable[[], None]]:
    """Do `work` in a second process; what is yielded waits for its end, as leaving the block does.

    What it raises is raised where it is waited for; InputError where the process was killed. On one core the work is
    done at once, here.
    """
    if num_cores() == 1:
        work(*args, **kwargs)
        yield lambda: None
        return
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_start, initargs=(None,)) as process:
        done = process.submit(work, *args, **kwargs)

        def wait() -> None:
            try:
                done.result()
            except BrokenProcessPool as error:
                raise InputError("a process was killed, perhaps for want of memory: run again") from error

        yield wait
        wait()


def _each(work: Callable[[T], R], chunk: Sequence[T]) -> list[R]:
    return list(map(work, chunk))


def _start(start: Callable[[], None] | None) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    if start is not None:
        start()


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for work for ever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
