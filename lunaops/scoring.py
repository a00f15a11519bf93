"""Batches through the network: what is kept of every sample, in training and out of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lunaops.dataset import Batch
from lunaops.device import on_device
from lunaops.distributed import World
from lunaops.params import Precision
from lunaops.precision import autocast, set_tf32


@dataclass(frozen=True, eq=False)
class Scored:
    """What a pass over samples leaves behind, each (n,): rows of the data set's table, labels, scores, losses."""

    row: NDArray[np.int64]
    is_positive: NDArray[np.int64]
    score: NDArray[np.float32]
    loss: NDArray[np.float32]

    def gathered(self, world: World, *, total: int, batch_size: int) -> "Scored":
        """All processes' shares of a pass over `total` samples, in the order of the whole."""
        return Scored(
            **{k: world.gathered(column, total=total, batch_size=batch_size) for k, column in vars(self).items()}
        )

    def followed_by(self, other: "Scored") -> "Scored":
        """This pass and then the other."""
        return Scored(**{name: np.concatenate([column, getattr(other, name)]) for name, column in vars(self).items()})


NOTHING = Scored(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.float32))


class Pass(NamedTuple):
    """One batch on the device, each (N,); `loss` may carry a graph."""

    row: Tensor
    is_positive: Tensor
    score: Tensor
    loss: Tensor


def network_input(hu: Tensor) -> Tensor:
    """Crops as the network computes them quickest: float32, channels last."""
    return hu.float().contiguous(memory_format=torch.channels_last_3d)


def score_batch(model: nn.Module, batch: Batch, precision: Precision) -> Pass:
    """The scores of a batch on the model's device, and the cross entropy of its logits."""
    with autocast(precision, batch.hu.device):
        logits, probabilities = model(network_input(batch.hu))
    loss = F.cross_entropy(logits, batch.is_positive, reduction="none")
    return Pass(batch.row, batch.is_positive, probabilities[:, 1], loss)


def score_batches(
    model: nn.Module, batches: Iterable[Batch], device: torch.device, precision: Precision = "fp32"
) -> Scored:
    """Score all samples without changing the model: no gradient, no batch statistics."""
    model.eval()
    set_tf32(precision)
    with torch.inference_mode():
        return gathered([score_batch(model, batch, precision) for batch in on_device(batches, device)])


def gathered(passes: Sequence[Pass]) -> Scored:
    """The passes in a row, on the host: the one time that it waits for the device."""
    if not passes:
        return NOTHING
    return Scored(*(torch.cat(column).cpu().numpy() for column in zip(*passes, strict=True)))
