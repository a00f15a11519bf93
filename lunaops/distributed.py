"""Training spread over processes: who computes which samples, and how their results come together.

Launched by torchrun, N processes share every batch: rank r takes the samples r, r + N, r + 2N ... of it. Gradients are
summed by DistributedDataParallel and the input layer's statistics by `World.share_input_statistics`, so N ranks compute
what one would. Without torchrun there is one process, and the same calls do nothing.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed, nn
from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # documented, but not exported by name
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from lunaops.input_norm import InputNorm

_SILENT_FOR = timedelta(minutes=5)  # a process that is silent for longer is taken for dead

Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class World:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and tracks the run."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process; all of them must ask."""
        if self.size == 1:
            return flag
        asked = torch.tensor(int(flag))
        distributed.all_reduce(asked, op=distributed.ReduceOp.MAX)
        return bool(asked.item())

    def wrapped(self, model: nn.Module) -> nn.Module:
        """`model`, its gradients averaged over the processes after each backward pass."""
        return model if self.size == 1 else DistributedDataParallel(model)

    def share_input_statistics(self, layer: InputNorm) -> None:
        """Let the network's input layer see the whole batch."""
        layer.all_reduce = distributed.all_reduce if self.size > 1 else None

    def gathered(self, column: NDArray[Number], *, total: int, batch_size: int) -> NDArray[Number]:
        """All processes' shares of a column, (total,), in the order of the whole; each gives its own, in order."""
        if self.size == 1:
            return column
        places = [share_of(rank, self.size, total=total, batch_size=batch_size) for rank in range(self.size)]
        longest = max(map(len, places))
        mine = torch.zeros(longest, dtype=torch.from_numpy(column).dtype)
        mine[: len(column)] = torch.from_numpy(column)
        shares = [torch.empty_like(mine) for _ in places]
        distributed.all_gather(shares, mine)
        whole = np.empty(total, column.dtype)
        for place, share in zip(places, shares, strict=True):
            whole[place] = share[: len(place)].numpy()
        return whole


ALONE = World()


def part_ends(rank: int, size: int, *, length: int, parts: int) -> list[int]:
    """Where a rank's share of a batch of `length` samples is cut, so that the batch is cut into equal `parts`.

    Between the ends the rank's samples are those of one part of the whole batch, whatever `size`; none may be.
    """
    short, longer = divmod(length, parts)
    ends = (short * part + min(part, longer) for part in range(1, parts))
    return [max(0, math.ceil((end - rank) / size)) for end in ends]


def share_of(rank: int, size: int, *, total: int, batch_size: int) -> NDArray[np.int64]:
    """The places, of `total` in batches of `batch_size`, whose samples this rank computes, rising."""
    places = np.arange(total)
    mine: NDArray[np.int64] = places[places % batch_size % size == rank]
    return mine


@contextmanager
def join_world(device: torch.device) -> Iterator[tuple[World, torch.device]]:
    """Join the processes that torchrun started, each on its own GPU of the machine; alone where it started none."""
    if "WORLD_SIZE" not in os.environ:
        yield ALONE, device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store, rank, size = next(rendezvous("env://", timeout=_SILENT_FOR))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun keeps one store for all, dead processes' too
    store = PrefixStore(f"attempt {attempt} of {size}", store)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_SILENT_FOR)
    try:
        yield World(distributed.get_rank(), distributed.get_world_size()), device
    finally:
        distributed.destroy_process_group()
