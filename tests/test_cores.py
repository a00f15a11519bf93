import os
import signal
from pathlib import Path

import pytest

from lunaops import cores
from lunaops.cores import meanwhile, num_cores, spread
from lunaops.errors import InputError


def square(number: int) -> tuple[int, int]:
    return number**2, os.getpid()


@pytest.mark.parametrize(("workers", "at_once"), [(0, 1), (1, 1), (4, 10)])
def test_few_items_or_workers_are_served_here_in_their_order(workers: int, at_once: int) -> None:
    assert list(spread(square, [3, 1, 2], workers, at_once=at_once)) == [(n**2, os.getpid()) for n in (3, 1, 2)]


@pytest.mark.slow
def test_many_items_are_served_by_other_processes_in_their_order() -> None:
    done = list(spread(square, range(100), 2, at_once=10))
    assert [result for result, _ in done] == [n**2 for n in range(100)]
    assert len({pid for _, pid in done}) == 2


@pytest.mark.slow
def test_this_process_is_one_of_them() -> None:
    assert os.getpid() in {pid for _, pid in spread(square, range(100), 2, at_once=10)}


def note_start() -> None:
    os.environ["STARTED"] = f"{os.environ.get('STARTED', '')}x"


def how_often_started(_: int) -> str:
    return os.environ.get("STARTED", "")


@pytest.mark.slow
def test_each_process_is_started_once() -> None:
    assert list(spread(how_often_started, range(6), 2, start=note_start)) == ["x"] * 6
    assert "STARTED" not in os.environ


def kill_itself_at_two(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def do_nothing() -> None:
    pass


@pytest.mark.slow
def test_a_process_that_is_killed_is_one_clear_line_after_what_was_done() -> None:
    done = spread(kill_itself_at_two, range(100), 2, start=do_nothing, mend="give it less")
    assert [next(done), next(done)] == [0, 1]
    with pytest.raises(InputError, match=r"^one of 2 processes was killed, perhaps for want of memory: give it less$"):
        next(done)


def fail_at_two(number: int) -> int:
    if number == 2:
        raise InputError("two")
    return number


@pytest.mark.slow
def test_an_error_of_the_work_is_raised_here_and_the_rest_is_left() -> None:
    with pytest.raises(InputError, match="^two$"):
        list(spread(fail_at_two, range(100), 2))


def test_there_is_a_core() -> None:
    assert 1 <= num_cores() <= (os.cpu_count() or 1)


def write_pid(path: Path) -> None:
    path.write_text(str(os.getpid()))


@pytest.mark.slow
def test_a_second_process_works_meanwhile_and_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "num_cores", lambda: 2)
    with meanwhile(write_pid, tmp_path / "pid") as wait:
        wait()
        assert (tmp_path / "pid").read_text() != str(os.getpid())
        (tmp_path / "pid").unlink()
    with meanwhile(write_pid, tmp_path / "pid"):
        pass
    assert (tmp_path / "pid").is_file()


def test_on_one_core_it_is_done_here_and_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "num_cores", lambda: 1)
    with meanwhile(write_pid, tmp_path / "pid"):
        assert (tmp_path / "pid").read_text() == str(os.getpid())


def refuse() -> None:
    raise InputError("no room")


@pytest.mark.slow
def test_what_goes_wrong_meanwhile_is_raised_where_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "num_cores", lambda: 2)
    with pytest.raises(InputError, match="^no room$"), meanwhile(refuse):
        pass
    with (
        pytest.raises(InputError, match="^a process was killed, perhaps for want of memory: run again$"),
        meanwhile(kill_itself_at_two, 2) as wait,
    ):
        wait()
        pytest.fail("the kill was not seen")
