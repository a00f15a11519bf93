"""Where tensors live, and how batches get there."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lunaops.errors import InputError

Tensors = TypeVar("Tensors", bound=tuple[Tensor, ...])

_AHEAD = 2  # batches on their way to a GPU while it computes on another


def choose_device(name: str) -> torch.device:
    """The device called `name`; auto is cuda, else mps, else cpu. Raises InputError where it is not here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    here = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= here[device.type]:
        raise InputError(f"device {name} is not on this machine; set train.device and predict.device to auto")
    return device


def place_model(model: nn.Module, device: torch.device) -> None:
    """Move `model` to `device` in place, its weights channels-last: 3-D convolutions are over twice as fast so."""
    model.to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def on_device(batches: Iterable[Tensors], device: torch.device) -> Iterator[Tensors]:
    """The batches, named tuples of tensors, on `device`; to a GPU they travel on a stream of their own, ahead of use.

    The host never waits for the copies, which want page-locked memory; the stream that computes does.
    """
    if device.type != "cuda":
        for batch in batches:
            yield type(batch)(*(tensor.to(device) for tensor in batch))
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    ahead: deque[tuple[Tensors, torch.cuda.Event]] = deque()
    for batch in batches:
        with torch.cuda.stream(stream):
            moved = type(batch)(*(tensor.to(device, non_blocking=True) for tensor in batch))
            ahead.append((moved, stream.record_event()))
        if len(ahead) > _AHEAD:
            yield _arrived(*ahead.popleft(), device)
    while ahead:
        yield _arrived(*ahead.popleft(), device)


def _arrived(batch: Tensors, event: torch.cuda.Event, device: torch.device) -> Tensors:
    current = torch.cuda.current_stream(device)
    current.wait_event(event)
    for tensor in batch:
        tensor.record_stream(current)  # its memory is not given away before this stream is done with it
    return batch


class WaitTimer:
    """How long a device waits for batches; a GPU by its own clock, for the host runs ahead of it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._waits: list[tuple[Any, Any]] = []

    def timed(self, batches: Iterable[Tensors]) -> Iterator[Tensors]:
        """The batches, which are on the device."""
        iterator = iter(batches)
        while True:
            asked = self._now()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waits.append((asked, self._now()))
            yield batch

    def seconds(self) -> float:
        """What was waited since the last time that this was asked; the host waits until the device is done."""
        waits, self._waits = self._waits, []
        if self._device.type != "cuda":
            return float(sum(arrived - asked for asked, arrived in waits))
        torch.cuda.synchronize(self._device)
        return float(sum(asked.elapsed_time(arrived) for asked, arrived in waits)) / 1000

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        return torch.cuda.current_stream(self._device).record_event(event)
