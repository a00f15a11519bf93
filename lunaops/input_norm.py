"""The network's input layer: batch normalisation of one channel that is data, over every process's samples."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class InputNorm(nn.BatchNorm3d):
    """nn.BatchNorm3d of one channel, for an input that needs no gradient; its statistics may span processes.

    `all_reduce`, where it is set, adds up a tensor over the processes, in place. torch's SyncBatchNorm refuses CPU
    tensors, and its plain one leaves a channel to a single multiprocessor of a GPU. Sums are float64: HU squared, over
    2 million voxels, leave float32 no digits.
    """

    def __init__(self) -> None:
        super().__init__(1)
        self.all_reduce: Callable[[Tensor], object] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, I, R, C) HU, normalised."""
        if not self.training or (self.all_reduce is None and not x.is_cuda):  # also where the layer is frozen
            return super().forward(x)
        mean, variance = self._statistics(x.detach())
        scale = self.weight / torch.sqrt(variance + self.eps)
        return (x - mean) * scale + self.bias

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance over all processes, each (1,); also taken into the running statistics."""
        total, squares = x.sum(dtype=torch.float64), x.square().sum(dtype=torch.float64)
        sums = torch.stack([total, squares, torch.full_like(total, x.numel())])
        if self.all_reduce is not None:
            self.all_reduce(sums)
        mean = (sums[0] / sums[2]).reshape(1)
        variance = (sums[1] / sums[2] - mean.square()).clamp_min(0)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        unbiased = variance * sums[2] / (sums[2] - 1)
        self.running_mean.lerp_(mean.float(), self.momentum)
        self.running_var.lerp_(unbiased.float(), self.momentum)
        self.num_batches_tracked += 1
        return mean.float(), variance.float()
