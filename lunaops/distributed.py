"""Training spread over processes: who computes which samples, and how their results come together.

Launched by torchrun, N processes share every batch: rank r takes the samples r, r + N, r + 2N ... of it. Gradients are
summed by DistributedDataParallel and the input layer's statistics by `World.share_input_statistics`, so N ranks compute
what one would. Without torchrun there is one process, and the same calls do nothing.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

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

    def share_input_statistics(self, model: nn.Module) -> None:
        """Let the network's input layer, a batch normalisation, see the whole batch: in place, its weights kept."""
        own = model.tail_batchnorm
        if self.size > 1 and not isinstance(own, _SharedBatchNorm):
            assert isinstance(own, nn.BatchNorm3d)
            model.tail_batchnorm = _SharedBatchNorm(own)

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
    distributed.init_process_group(backend, timeout=_SILENT_FOR)
    try:
        yield World(distributed.get_rank(), distributed.get_world_size()), device
    finally:
        distributed.destroy_process_group()


class _SharedBatchNorm(nn.BatchNorm3d):
    """Batch normalisation by the mean and variance over all ranks, of an input that needs no gradient.

    torch's SyncBatchNorm refuses CPU tensors; here the input is data, so one all-reduce serves every backend. Sums are
    float64: HU squared, over 2 million voxels, leave float32 no digits.
    """

    def __init__(self, own: nn.BatchNorm3d) -> None:
        super().__init__(own.num_features, own.eps, own.momentum, own.affine, own.track_running_stats)
        self.weight, self.bias = own.weight, own.bias
        for name, buffer in own.named_buffers():
            self._buffers[name] = buffer
        self.train(own.training)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:  # also where the layer is frozen
            return super().forward(x)
        mean, variance = self._statistics(x.detach())
        scale = self.weight / torch.sqrt(variance + self.eps)
        return (x - mean) * scale + self.bias

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance over all ranks, each (1,); also taken into the running statistics."""
        values = x.double()
        sums = torch.stack([values.sum(), values.square().sum(), values.new_tensor(x.numel())])
        distributed.all_reduce(sums)
        mean = (sums[0] / sums[2]).reshape(1)
        variance = (sums[1] / sums[2] - mean.square()).clamp_min(0)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        unbiased = variance * sums[2] / (sums[2] - 1)
        self.running_mean.lerp_(mean.float(), self.momentum)
        self.running_var.lerp_(unbiased.float(), self.momentum)
        self.num_batches_tracked += 1
        return mean.float(), variance.float()
