"""Where tensors live, and how the CPU's memory is kept for the next batch."""

import ctypes
import sys

import torch
from torch import nn

from lunaops.errors import InputError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc, malloc.h


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


def keep_freed_memory() -> None:
    """Have glibc's malloc keep freed memory instead of giving it back to the system; elsewhere nothing.

    A training step on the CPU frees and allocates the same hundreds of megabytes; having their pages mapped and
    cleared anew each time costs a third of the step (benchmarks/README.md).
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
