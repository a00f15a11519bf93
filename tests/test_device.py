import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from lunaops.device import WaitTimer, choose_device, on_device
from lunaops.errors import InputError

CPU = torch.device("cpu")


class Pair(NamedTuple):
    one: Tensor
    other: Tensor


class Clock:
    """Goes on when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


def test_a_device_that_is_not_here_is_named() -> None:
    with pytest.raises(InputError, match="device cuda:99 is not on this machine"):
        choose_device("cuda:99")


def test_batches_stay_what_they_are_and_in_order() -> None:
    batches = [(torch.tensor([number]), torch.tensor([-number])) for number in range(5)]
    assert [tuple(map(int, batch)) for batch in on_device(map(Pair._make, batches), CPU)] == [
        (number, -number) for number in range(5)
    ]


def test_the_time_between_batches_is_not_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def batches() -> Iterator[tuple[Tensor]]:
        for seconds in (2.0, 3.0, 0.0):
            clock.now += seconds
            yield (torch.tensor(seconds),)

    timer = WaitTimer(CPU)
    for _ in timer.timed(batches()):
        clock.now += 100  # a step
    assert timer.seconds() == 5.0
    assert timer.seconds() == 0.0
