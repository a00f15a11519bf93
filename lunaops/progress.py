"""How far a long loop is and when it will be done: a bar in a terminal, a few lines in a log."""

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

T = TypeVar("T")

BYTES = "B"  # the unit of loops over blocks of bytes: their amounts are said in kB, MB, GB

logger = logging.getLogger(__name__)

FIRST_LINE_AFTER = timedelta(seconds=4)  # a loop that is quicker than this says nothing
_FAR_AWAY_S = 1e9  # the first bytes of a large file would promise a year that a date has no room for


def bytes_said(*amounts: int) -> str:
    """'6.81 GB', or '1.2 of 6.81 GB': in the unit that suits the largest."""
    power = next((power for power in (4, 3, 2, 1) if max(amounts) >= 1000**power), 0)
    return f"{' of '.join(f'{amount / 1000**power:.3g}' for amount in amounts)} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _local_time() -> datetime:
    return datetime.now().astimezone()


def _one(_: object) -> int:
    return 1


def progress(
    iterable: Iterable[T],
    *,
    label: str,
    unit: str,
    total: int | None = None,
    size_of: Callable[[T], int] = _one,
    done: int = 0,
    terminal: bool | None = None,
    clock: Callable[[], datetime] = _local_time,
) -> Iterator[T]:
    """Yield the items unchanged and say how far the loop is, how fast, and when it will be done.

    In a terminal (`terminal`; None: ask stderr) a bar. Else log lines after 4 s, 8 s, 16 s, ... of looping, so a day
    makes 15 of them, and one at the end. `total` is the number of items where `iterable` has no len(); without it
    there is a rate and no time of completion. `unit` is a plural: 'scans'. Items that do not count as one each have a
    `size_of`; `done` of the total was there before the loop.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    loop = _Loop(unit, total, done, clock())
    if _is_terminal() if terminal is None else terminal:
        return _with_bar(iterable, loop, label, size_of, clock)
    return _with_lines(iterable, loop, label, size_of, clock)


def _is_terminal() -> bool:
    """Whether stderr is a terminal with a size: one of 0 columns, as containers may give, would show no bar at all."""
    return sys.stderr.isatty() and all(os.get_terminal_size(sys.stderr.fileno()))


@dataclass
class _Loop:
    """What came, and what it tells; the amounts are in `unit`."""

    unit: str
    total: int | None
    done: int
    start: datetime
    count: int = 0  # what came since `start`

    def state(self, now: datetime) -> str:
        amount, rate = self.done + self.count, self.rate(now)
        if not self.total:
            return f"{self._said(amount)}, {rate}"
        so_far = self._said(amount, self.total)
        left = _whole_seconds(self._end(now) - now)
        return f"{so_far} ({amount / self.total:.0%}), {rate}, {self.done_at(now)} (in {left})"

    def done_at(self, now: datetime) -> str:
        """When the loop will be done, empty where that cannot be told."""
        if not (self.total and self.count):
            return ""
        end = self._end(now)
        return f"done at {end:%H:%M:%S}" if end.date() == now.date() else f"done at {end:%Y-%m-%d %H:%M:%S}"

    def summary(self, now: datetime) -> str:
        return f"{self._said(self.count)} in {_whole_seconds(now - self.start)}, {self.rate(now)}"

    def rate(self, now: datetime) -> str:
        rate = self.count / (now - self.start).total_seconds()
        if self.unit == BYTES:
            return f"{self._said(round(rate))}/s"
        return f"{rate:.3g} a second" if rate >= 1 or not rate else f"{1 / rate:.3g} s each"

    def _end(self, now: datetime) -> datetime:
        assert self.total is not None
        left_s = (now - self.start).total_seconds() * (self.total - self.done - self.count) / self.count
        return now + timedelta(seconds=min(left_s, _FAR_AWAY_S))

    def _said(self, *amounts: int) -> str:
        """'3 scans', or '3 of 50 scans'."""
        return bytes_said(*amounts) if self.unit == BYTES else f"{' of '.join(map(str, amounts))} {self.unit}"


def _with_bar(
    iterable: Iterable[T], loop: _Loop, label: str, size_of: Callable[[T], int], clock: Callable[[], datetime]
) -> Iterator[T]:
    from tqdm import tqdm

    is_bytes = loop.unit == BYTES
    unit = loop.unit if is_bytes else f" {loop.unit}"
    with tqdm(
        total=loop.total,
        initial=loop.done,
        desc=label,
        unit=unit,
        unit_scale=is_bytes,
        dynamic_ncols=True,
        file=sys.stderr,
    ) as bar:
        for item in iterable:
            yield item
            loop.count += size_of(item)
            if bar.update(size_of(item)):
                bar.set_postfix_str(loop.done_at(clock()), refresh=False)


def _with_lines(
    iterable: Iterable[T], loop: _Loop, label: str, size_of: Callable[[T], int], clock: Callable[[], datetime]
) -> Iterator[T]:
    next_line = FIRST_LINE_AFTER
    for item in iterable:
        yield item
        loop.count += size_of(item)
        now = clock()
        if now - loop.start >= next_line and loop.done + loop.count != loop.total:
            logger.info("%s: %s", label, loop.state(now))
            while next_line <= now - loop.start:
                next_line *= 2
    now = clock()
    if now - loop.start >= FIRST_LINE_AFTER:
        logger.info("%s: %s", label, loop.summary(now))


def _whole_seconds(duration: timedelta) -> timedelta:
    return timedelta(seconds=round(duration.total_seconds()))
