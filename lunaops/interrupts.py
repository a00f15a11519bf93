"""Ctrl-C and SIGTERM as a request: the step under way is finished before the process ends."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)  # a person at the terminal; a scheduler that takes the machine back


class Interrupted(KeyboardInterrupt):
    """The request to stop, met: what was done is kept."""


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Give an event that the first Ctrl-C or SIGTERM sets; a second one acts at once.

    Outside the main thread, where Python takes no signals, nothing ever sets it.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def request(number: int, _: FrameType | None) -> None:
        logger.warning("%s: finishing the step and keeping the state", signal.Signals(number).name)
        stop.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in _SIGNALS:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
