import logging
from datetime import UTC, datetime, timedelta

import pytest

from lunaops.progress import progress

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


def test_a_line_says_how_far_and_when_done(caplog: pytest.LogCaptureFixture) -> None:
    assert lines_of(caplog, 50, 60.0)[0] == "crops: 1 of 50 scans (2%), done at 12:50:00 (in 0:49:00)"


def test_the_completion_names_the_day_when_it_is_not_today(caplog: pytest.LogCaptureFixture) -> None:
    first = lines_of(caplog, 48, 1800.0)[0]
    assert first == "crops: 1 of 48 scans (2%), done at 2026-03-02 12:00:00 (in 23:30:00)"


def test_lines_come_at_doubling_times(caplog: pytest.LogCaptureFixture) -> None:
    lines = lines_of(caplog, 100, 1.0)
    counts = [int(line.split()[1]) for line in lines]
    assert counts == [4, 8, 16, 32, 64, 100]
    assert lines[-1] == "crops: 100 scans in 0:01:40"


def test_a_day_of_looping_is_no_flood(caplog: pytest.LogCaptureFixture) -> None:
    assert len(lines_of(caplog, 86_400, 1.0)) == 16


def test_a_quick_loop_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert lines_of(caplog, 1000, 0.001) == []


def test_one_long_item_gives_one_line_not_one_for_each_doubling_it_slept_through(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert lines_of(caplog, 2, 100.0) == [
        "crops: 1 of 2 scans (50%), done at 12:03:20 (in 0:01:40)",
        "crops: 2 scans in 0:03:20",
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
