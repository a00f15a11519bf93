"""How far a long loop is and when it will be done: a bar in a terminal, a few lines in a log."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from datetime import datetime, timedelta
from typing import TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)

FIRST_LINE_AFTER = timedelta(seconds=4)  # a loop that is quicker than this says nothing


def _local_time() -> datetime:
    return datetime.now().astimezone()


def progress(
    iterable: Iterable[T],
    *,
    label: str,
    unit: str,
    total: int | None = None,
    terminal: bool | None = None,
    clock: Callable[[], datetime] = _local_time,
) -> Iterator[T]:
    """Yield the items unchanged and say how far the loop is.

    In a terminal (`terminal`; None: ask stderr) a bar. Else log lines after 4 s, 8 s, 16 s, ... of looping, so a day
    makes 15 of them, and one at the end. `total` is the number of items where `iterable` has no len(); without it
    there is a rate and no time of completion. `unit` is a plural: 'scans'.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if sys.stderr.isatty() if terminal is None else terminal:
        return _with_bar(iterable, total, label, unit)
    return _with_lines(iterable, total, label, unit, clock)


def _with_bar(iterable: Iterable[T], total: int | None, label: str, unit: str) -> Iterator[T]:
    from tqdm import tqdm

    yield from tqdm(iterable, total=total, desc=label, unit=f" {unit}", dynamic_ncols=True, file=sys.stderr)


def _with_lines(
    iterable: Iterable[T], total: int | None, label: str, unit: str, clock: Callable[[], datetime]
) -> Iterator[T]:
    start = clock()
    next_line = FIRST_LINE_AFTER
    count = 0
    for count, item in enumerate(iterable, start=1):
        yield item
        elapsed = clock() - start
        if elapsed >= next_line and count != total:
            logger.info("%s: %s", label, _state(count, total, unit, elapsed, start))
            while next_line <= elapsed:
                next_line *= 2
    elapsed = clock() - start
    if elapsed >= FIRST_LINE_AFTER:
        logger.info("%s: %d %s in %s", label, count, unit, _whole_seconds(elapsed))


def _state(count: int, total: int | None, unit: str, elapsed: timedelta, start: datetime) -> str:
    if total is None:
        return f"{count} {unit}, {count / elapsed.total_seconds():.3g} a second"
    needed = elapsed * (total / count)
    done_at = _clock_time(start + needed, start + elapsed)
    left = _whole_seconds(needed - elapsed)
    return f"{count} of {total} {unit} ({count / total:.0%}), done at {done_at} (in {left})"


def _clock_time(moment: datetime, now: datetime) -> str:
    return f"{moment:%H:%M:%S}" if moment.date() == now.date() else f"{moment:%Y-%m-%d %H:%M:%S}"


def _whole_seconds(duration: timedelta) -> timedelta:
    return timedelta(seconds=round(duration.total_seconds()))
