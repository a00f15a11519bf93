"""Limits to what a socket's timeout does not see: bytes that trickle in, each in time, and never make up anything."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, action: Callable[[], T]) -> T:
    """What `action` gives or raises, in a thread of its own; TimeoutError where that takes longer.

    A thread that is given up ends with what it waits for, or with the process.
    """
    result: Future[T] = Future()

    def act() -> None:
        try:
            result.set_result(action())
        except BaseException as error:  # noqa: BLE001 — it is raised where the result is waited for
            result.set_exception(error)

    threading.Thread(target=act, daemon=True).start()
    wait([result], seconds)
    if not result.done():
        raise TimeoutError(f"no whole answer in {seconds:g} s")
    return result.result()


@contextmanager
def cut_off(seconds: float, cut: Callable[[], None]) -> Iterator[threading.Event]:
    """`cut` the connection where the block takes longer; TimeoutError then, for a cut can look like the content's end.

    A read brings content or waits; what trickles between chunks, behind the last, or as a compressed file's name is
    none. What is read once the event is set is none either: half a chunk's length, say, is taken for a whole one.
    """
    is_late = threading.Event()

    def end() -> None:
        is_late.set()
        with suppress(ValueError, RuntimeError):  # it has just ended by itself
            cut()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield is_late
    finally:
        timer.cancel()
    if is_late.is_set():
        raise TimeoutError(f"nothing whole in {seconds:g} s")
