"""torch.compile for training, where most batches have one size."""

import torch
from torch import Tensor, nn


class CompiledModel(nn.Module):
    """`model` compiled anew for each size that a batch has: for any size takes minutes, and there are two or three.

    An empty share of a batch, which several processes may have, is left to the model itself: compiled it is refused.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._compiled = torch.compile(model, dynamic=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As of the model."""
        network = self._compiled if len(x) else self.model
        logits, probabilities = network(x)
        return logits, probabilities
