import threading

import pytest

from lunaops.sources.time_limit import cut_off, within


def test_what_the_action_gives_or_raises_is_handed_over():
    assert within(5, lambda: "answer") == "answer"
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0)


def test_an_action_that_does_not_end_is_given_up():
    end = threading.Event()
    with pytest.raises(TimeoutError, match=r"no whole answer in 0\.05 s"):
        within(0.05, lambda: end.wait(5))
    end.set()


def test_a_connection_is_cut_where_the_block_takes_longer_and_that_is_no_regular_end():
    is_cut = threading.Event()
    with pytest.raises(TimeoutError, match=r"nothing whole in 0\.05 s"), cut_off(0.05, is_cut.set):
        assert is_cut.wait(5)


def test_a_connection_that_has_just_ended_by_itself_cannot_be_cut_and_need_not_be(capfd):
    is_late = threading.Event()

    def cut() -> None:
        is_late.set()
        raise RuntimeError("released to the pool")

    with pytest.raises(TimeoutError), cut_off(0.05, cut):
        assert is_late.wait(5)
    assert "released" not in capfd.readouterr().err


def test_an_error_in_the_block_ends_the_watch():
    is_cut = threading.Event()
    with pytest.raises(KeyError), cut_off(0.05, is_cut.set):
        raise KeyError
    assert not is_cut.wait(0.2)
