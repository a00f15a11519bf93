import logging
import os
import pty
import termios
import time
from datetime import UTC, datetime, timedelta

import pytest

from lunaops.progress import BYTES, bytes_said, progress

NOON = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


class Clock:
    """A clock that stands still until a loop takes its time."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


def lines_of(caplog: pytest.LogCaptureFixture, num_items: int, seconds_each: float, **options: object) -> list[str]:
    clock = Clock()
    caplog.set_level(logging.INFO, logger="lunaops.progress")
    items = progress(range(num_items), label="crops", unit="scans", terminal=False, clock=clock, **options)  # type: ignore[arg-type]
    for _ in items:
        clock.now += timedelta(seconds=seconds_each)
    return caplog.messages


def test_every_item_comes_through_in_order() -> None:
    assert list(progress("abc", label="letters", unit="letters", terminal=False)) == ["a", "b", "c"]


def test_a_terminal_gets_a_bar_and_every_item(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress([7, 8], label="crops", unit="scans", terminal=True)) == [7, 8]
    shown = capsys.readouterr().err
    assert "crops: 100%" in shown
    assert "2/2" in shown


@pytest.mark.parametrize(("size", "shows_bar"), [((24, 80), True), ((0, 0), False), ((0, 80), False)])
def test_a_terminal_without_a_size_which_would_hide_the_bar_gets_lines(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, size: tuple[int, int], shows_bar: bool
) -> None:
    clock = Clock()
    caplog.set_level(logging.INFO, logger="lunaops.progress")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, size)
    with os.fdopen(theirs, "w") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        for _ in progress([7, 8], label="crops", unit="scans", clock=clock):
            clock.now += timedelta(seconds=5)
        stderr.write("end")
        stderr.flush()
        shown = ""
        while not shown.endswith("end"):
            shown += os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert ("crops: 100%" in shown) == shows_bar
    assert bool(caplog.messages) != shows_bar


def test_a_line_says_how_far_and_when_done(caplog: pytest.LogCaptureFixture) -> None:
    assert lines_of(caplog, 50, 60.0)[0] == "crops: 1 of 50 scans (2%), 60 s each, done at 12:50:00 (in 0:49:00)"


def test_the_completion_names_the_day_when_it_is_not_today(caplog: pytest.LogCaptureFixture) -> None:
    first = lines_of(caplog, 48, 1800.0)[0]
    assert first == "crops: 1 of 48 scans (2%), 1.8e+03 s each, done at 2026-03-02 12:00:00 (in 23:30:00)"


def test_lines_come_at_doubling_times(caplog: pytest.LogCaptureFixture) -> None:
    lines = lines_of(caplog, 100, 1.0)
    counts = [int(line.split()[1]) for line in lines]
    assert counts == [4, 8, 16, 32, 64, 100]
    assert lines[-1] == "crops: 100 scans in 0:01:40, 1 a second"


def test_a_day_of_looping_is_no_flood(caplog: pytest.LogCaptureFixture) -> None:
    assert len(lines_of(caplog, 86_400, 1.0)) == 16


def test_a_quick_loop_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert lines_of(caplog, 1000, 0.001) == []


def test_one_long_item_gives_one_line_not_one_for_each_doubling_it_slept_through(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert lines_of(caplog, 2, 100.0) == [
        "crops: 1 of 2 scans (50%), 100 s each, done at 12:03:20 (in 0:01:40)",
        "crops: 2 scans in 0:03:20, 100 s each",
    ]


def test_without_a_total_there_is_a_rate_and_no_promise(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    caplog.set_level(logging.INFO, logger="lunaops.progress")
    for _ in progress(iter(range(10)), label="lines", unit="rows", terminal=False, clock=clock):
        clock.now += timedelta(seconds=0.5)
    assert caplog.messages[0] == "lines: 8 rows, 2 a second"


def test_a_total_can_be_given_for_what_has_no_length(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    caplog.set_level(logging.INFO, logger="lunaops.progress")
    for _ in progress(iter([1, 2]), total=2, label="crops", unit="scans", terminal=False, clock=clock):
        clock.now += timedelta(seconds=5)
    assert caplog.messages[0].startswith("crops: 1 of 2 scans (50%)")


def test_an_empty_loop_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert lines_of(caplog, 0, 1.0) == []


MEGABYTE = 1_000_000


@pytest.mark.parametrize(
    ("amounts", "said"),
    [
        ((0,), "0 B"),
        ((999,), "999 B"),
        ((6811924508,), "6.81 GB"),
        ((54876815, 6811924508), "0.0549 of 6.81 GB"),
        ((10**18,), "1e+06 TB"),
    ],
)
def test_an_amount_of_bytes_is_said_in_the_unit_that_suits_the_largest(amounts: tuple[int, ...], said: str) -> None:
    assert bytes_said(*amounts) == said


def bytes_lines(caplog: pytest.LogCaptureFixture, sizes: list[int], **options: object) -> list[str]:
    """What is said of blocks of these sizes that take 4 s each."""
    clock = Clock()
    caplog.set_level(logging.INFO, logger="lunaops.progress")
    blocks = progress(
        iter(map(bytes, sizes)),
        label="a.zip",
        unit=BYTES,
        size_of=len,
        terminal=False,
        clock=clock,
        **options,  # type: ignore[arg-type]
    )
    for _ in blocks:
        clock.now += timedelta(seconds=4)
    return caplog.messages


def test_a_loop_over_blocks_says_its_bytes(caplog: pytest.LogCaptureFixture) -> None:
    assert bytes_lines(caplog, [MEGABYTE, MEGABYTE // 2, MEGABYTE // 2], total=4 * MEGABYTE) == [
        "a.zip: 1 of 4 MB (25%), 250 kB/s, done at 12:00:16 (in 0:00:12)",
        "a.zip: 1.5 of 4 MB (38%), 188 kB/s, done at 12:00:21 (in 0:00:13)",
        "a.zip: 2 MB in 0:00:12, 167 kB/s",
    ]


def test_what_was_there_before_counts_for_the_total_and_not_for_the_rate(caplog: pytest.LogCaptureFixture) -> None:
    assert bytes_lines(caplog, [500, 500], total=4000, done=3000) == [
        "a.zip: 3.5 of 4 kB (88%), 125 B/s, done at 12:00:08 (in 0:00:04)",
        "a.zip: 1 kB in 0:00:08, 125 B/s",
    ]


def test_bytes_without_a_total_have_a_rate(caplog: pytest.LogCaptureFixture) -> None:
    assert bytes_lines(caplog, [999, 1])[0] == "a.zip: 999 B, 250 B/s"


def test_a_trickle_of_a_large_file_promises_a_time_that_is_a_date(caplog: pytest.LogCaptureFixture) -> None:
    assert "done at 2057-11-07" in bytes_lines(caplog, [1, 1], total=10**14)[0]


def test_a_terminal_shows_rate_and_completion_of_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    blocks = progress(
        iter([bytes(MEGABYTE)] * 3),
        label="a.zip",
        unit=BYTES,
        size_of=len,
        total=4 * MEGABYTE,
        done=MEGABYTE,
        terminal=True,
        clock=clock,
    )
    for _ in blocks:
        clock.now += timedelta(seconds=4)
        time.sleep(0.11)  # the bar is drawn ten times a second
    shown = capsys.readouterr().err
    assert "4.00M/4.00M" in shown
    assert "MB/s" in shown
    assert "done at 12:00:12" in shown
